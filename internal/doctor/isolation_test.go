package doctor

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/config"
	"revolve/internal/failover/witness"
)

// The doctor asks the witness: one that answers, one with another key, none at all.
func TestWitnessIsAsked(t *testing.T) {
	dir := t.TempDir()
	key, other := filepath.Join(dir, "w.key"), filepath.Join(dir, "other.key")
	must(t, witness.MakeKey(key))
	must(t, witness.MakeKey(other))
	keys, err := witness.ReadKeys(key)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() { // joined by the cleanup
		done <- witness.Serve(ctx, witness.Options{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Keys: keys, Log: slog.New(slog.DiscardHandler),
			Ready: func(at netip.AddrPort) { ready <- at }})
	}()
	at := <-ready
	ask := func(policy, file string) Finding {
		e := &examination{Patient: Patient{Node: "a", Config: &config.Config{Cluster: "two", Failover: config.Failover{Isolation: policy, Witness: config.Witness{Addr: at, KeyFile: file}}}}}
		e.isolation(t.Context())
		if len(e.report.Findings) != 1 {
			t.Fatalf("%+v", e.report.Findings)
		}
		return e.report.Findings[0]
	}
	if f := ask("release", key); f.Level != OK && f.Level != Warning || !strings.Contains(f.Found, "lets nobody lead yet") { // Warning: this machine is busy
		t.Errorf("%+v", f)
	}
	if f := ask("release", other); f.Level != Critical || !strings.Contains(f.Found, "no answer") || f.Why != "a node that hears no other one will not serve" || !strings.Contains(f.Type, "key file is the same") {
		t.Errorf("another key: %+v", f)
	}
	must(t, os.Chmod(key, 0o644))
	if f := ask("release", key); f.Level != Critical || f.Type != "chmod 600 "+key {
		t.Errorf("a key that everybody may read: %+v", f)
	}
	must(t, os.Chmod(key, 0o600))
	cancel()
	must(t, <-done)
	if f := ask("keep", key); f.Level != Critical || !strings.Contains(f.Found, "nobody listens there") || !strings.Contains(f.Why, "serves without its word") || !strings.Contains(f.Type, "revolve witness --listen") {
		t.Errorf("nobody listens: %+v", f)
	}
}
