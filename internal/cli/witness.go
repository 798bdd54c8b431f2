package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"revolve/internal/config"
	"revolve/internal/failover/witness"
	"revolve/internal/problem"
)

type witnessCommand struct {
	Listen  string `placeholder:"ADDRESS" default:"0.0.0.0:${witnessport}" help:"Where to listen (UDP), with a port or without: an address of this machine, or 0.0.0.0 or [::] for all (${default})."`
	KeyFile string `required:"" placeholder:"FILE" help:"The key that the nodes have too; up to four, one a line, while a new one comes into use."`
	MakeKey bool   `help:"Write a new key into the file, which must not be there yet, and end."`
}

// madeKey answers --make-key.
type madeKey struct {
	KeyFile string `json:"key_file"`
}

// Help is printed under the usage.
func (witnessCommand) Help() string {
	return "It runs the witness of a cluster of two nodes in the foreground, on a third machine: a router, a NAS, whatever stays when a node goes. While the nodes hear each other it decides nothing. When they do not, it lets one of them lead, the master before if it still asks. " +
		"It keeps everything in memory and needs neither a disk nor privileges; one process serves up to eight clusters. Its key opens nothing else of the cluster: make it once (--make-key), copy the file to both nodes and to the witness, and name both in the configuration: failover: { isolation: release, witness: { address: ADDRESS, key_file: FILE } }. " +
		"It logs to standard error until SIGTERM or SIGINT. After its start it lets nobody lead for T_dead (200 ms in the profile default) who does not lead already. Strangers get no answer."
}

// Run runs the witness.
func (c *witnessCommand) Run(ctx context.Context, e *env) error {
	if c.MakeKey {
		if err := witness.MakeKey(c.KeyFile); err != nil {
			return err
		}
		return e.answer(madeKey{c.KeyFile}, fmt.Sprintf("made a new key in %s; copy the file to every node and to the witness, with mode 0600", c.KeyFile))
	}
	listen, err := listenAddress(c.Listen)
	if err != nil {
		return err
	}
	keys, err := witness.ReadKeys(c.KeyFile)
	if err != nil {
		return err
	}
	return witness.Serve(ctx, witness.Options{Listen: listen, Keys: keys, Log: slog.New(slog.NewTextHandler(e.stderr, nil))})
}

// listenAddress reads an address with or without a port.
func listenAddress(text string) (netip.AddrPort, error) {
	if at, err := netip.ParseAddrPort(text); err == nil {
		return at, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.AddrPort{}, &problem.Problem{Op: "read --listen", Kind: problem.Invalid, Subject: text, Err: fmt.Errorf("not an address"),
			Hint: "write a literal address of this machine, with a port or without: 10.77.0.250, [fd77::250]:7374"}
	}
	return netip.AddrPortFrom(addr, config.DefaultWitnessPort), nil
}
