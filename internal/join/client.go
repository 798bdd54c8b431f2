package join

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"revolve/internal/cluster"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// Options say who joins what.
type Options struct {
	Addr  netip.AddrPort // of any node of the cluster
	Token *Token
	Node  cluster.NodeID
	State string // the new node's state directory
}

// Result is what the machine has become.
type Result struct {
	Cluster string
	By      cluster.NodeID // the node that made out the certificate
	Roster  *roster.Roster
}

// Join makes this machine a node: its key is made here, its identity and the
// cluster's roster are put into the state directory, the identity last and as a
// whole. What was interrupted can be repeated with the same token.
func Join(ctx context.Context, o Options) (*Result, error) {
	key, err := peer.PendingKey(o.State)
	if err != nil {
		return nil, err
	}
	seen, answer, elsewhere, err := ask(ctx, o, o.Addr, key)
	if err != nil {
		return nil, err
	}
	if answer == nil {
		seen, answer, err = askElsewhere(ctx, o, elsewhere, key)
		if err != nil {
			return nil, err
		}
	}
	if r := answer.Refused; r != nil {
		return nil, &problem.Problem{Op: "join", Kind: r.Kind, Subject: seen.Cluster, Err: errors.New(printable(r.Err)), Hint: printable(r.Hint)}
	}
	return settle(o, key, seen, answer)
}

func askElsewhere(ctx context.Context, o Options, elsewhere []Elsewhere, key ed25519.PrivateKey) (*peer.Identity, *Answer, error) {
	var why []error
	for _, e := range elsewhere[:min(len(elsewhere), maxAsk)] {
		for _, text := range e.Addrs[:min(len(e.Addrs), maxAsk)] {
			addr, err := netip.ParseAddrPort(text)
			if err != nil {
				continue
			}
			seen, answer, _, err := ask(ctx, o, addr, key)
			if err == nil && answer != nil {
				return seen, answer, nil
			}
			why = append(why, err)
		}
	}
	p := &problem.Problem{Op: "join", Kind: problem.Unavailable, Subject: o.Addr.String(), Err: errors.New("the CA is not on this node, and it knows no node that has it now"),
		Hint: "start the agent of the node that did init, or name its address"}
	if err := errors.Join(why...); err != nil {
		p.Err = fmt.Errorf("the CA is on node %s, which cannot be reached from here: %w", elsewhere[0].Node, err)
	}
	return nil, nil, p
}

// ask holds the conversation with one node. Without an answer, it says whom to ask.
func ask(ctx context.Context, o Options, addr netip.AddrPort, key ed25519.PrivateKey) (*peer.Identity, *Answer, []Elsewhere, error) {
	c, seen, err := peer.DialJoin(ctx, addr, o.Token.ca)
	if err != nil {
		return nil, nil, nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	fail := func(err error) (*peer.Identity, *Answer, []Elsewhere, error) {
		var p *problem.Problem
		if errors.As(err, &p) {
			return nil, nil, nil, p
		}
		return nil, nil, nil, &problem.Problem{Op: "join", Kind: problem.Unavailable, Subject: addr.String(), Err: fmt.Errorf("the conversation broke off: %w", err),
			Hint: "type it again, with the same token; the log of the node there says more"}
	}
	var offer Offer
	if err := read(c, &offer, maxOffer); err != nil {
		return fail(err)
	}
	if !offer.Here {
		return seen, nil, offer.Ask, nil
	}
	state := c.ConnectionState()
	material, err := state.ExportKeyingMaterial(exporter, nil, 32)
	if err != nil {
		return fail(err)
	}
	if public, ok := seen.CA().PublicKey.(ed25519.PublicKey); !ok || !ed25519.Verify(public, proven(material), offer.Proof) {
		return fail(&problem.Problem{Op: "join", Kind: problem.Permission, Subject: addr.String(), Err: fmt.Errorf("node %s says that it has the CA, and has not", seen.Node),
			Hint: "nothing was sent to it; look at that node, and name the address of another"})
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(o.Node)}}, key)
	if err != nil {
		return fail(err)
	}
	if err := write(c, Request{ID: o.Token.id, Secret: o.Token.secret, Node: o.Node, CSR: csr}, maxRequest); err != nil {
		return fail(err)
	}
	answer := &Answer{}
	if err := read(c, answer, maxAnswer); err != nil {
		return fail(err)
	}
	return seen, answer, nil, nil
}

// settle makes everything durable that came, the identity last.
func settle(o Options, key ed25519.PrivateKey, seen *peer.Identity, answer *Answer) (*Result, error) {
	raw, err := hex.DecodeString(answer.Key)
	if err != nil || len(raw) != 32 {
		return nil, &problem.Problem{Op: "join", Kind: problem.Corrupt, Err: errors.New("no heartbeat key came")}
	}
	r, cfg, err := roster.Decode(answer.Roster)
	if err != nil {
		return nil, err
	}
	if _, ok := cfg.Node(o.Node); !ok || cfg.Cluster != seen.Cluster {
		return nil, &problem.Problem{Op: "join", Kind: problem.Corrupt, Err: fmt.Errorf("the configuration that came is of cluster %s and has no node %s", cfg.Cluster, o.Node)}
	}
	store, err := roster.Open(o.State)
	if err == nil {
		err = store.Reset(r, cfg)
	}
	if err != nil {
		return nil, err
	}
	if err := seen.Place(o.State, key, o.Node, answer.Cert, [32]byte(raw)); err != nil {
		return nil, err
	}
	return &Result{Cluster: seen.Cluster, By: seen.Node, Roster: r}, nil
}

// printable keeps what another machine said to one line of text.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // also the C1 controls, which some terminals obey
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), 512)]
}
