package peer

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// revoker makes epochs below a number void for every node but a.
func revoker(id *Identity) *atomic.Uint32 {
	low := &atomic.Uint32{}
	id.Watch(func(n cluster.NodeID, epoch uint32) error {
		if n != "a" && epoch < low.Load() {
			return &Refused{Why: WhyRevoked, Reason: "this certificate was revoked"}
		}
		return nil
	}, func() uint32 { return 7 })
	return low
}

// TestRevocationEndsConnections: those that are open, on either end, and those to come.
func TestRevocationEndsConnections(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	low := revoker(ids["a"])
	l, log := start(t, ids["a"], all, echo, "127.0.0.1")
	inbound, err := Dial(t.Context(), ids["b"], "a", to(l, 0), "s")
	must(t, err)
	defer inbound.Close()
	lb, _ := start(t, ids["b"], all, echo, "127.0.0.1")
	outbound, err := Dial(t.Context(), ids["a"], "b", to(lb, 0), "s")
	must(t, err)
	defer outbound.Close()
	ids["a"].Enforce()
	must(t, errors.Join(inbound.Write(9, []byte("x")), inbound.Flush()))
	if _, _, err := inbound.Read(); err != nil {
		t.Errorf("a connection that counts was closed: %v", err)
	}

	low.Store(1)
	ids["a"].Enforce()
	must(t, inbound.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, _, err := inbound.Read(); err == nil || problem.KindOf(err) == problem.Timeout {
		t.Errorf("the revoked node's connection is still open: %v", err)
	}
	_ = outbound.SetReadDeadline(time.Now().Add(10 * time.Second)) // it fails if the end is closed already
	if _, _, err := outbound.Read(); err == nil || problem.KindOf(err) == problem.Timeout {
		t.Errorf("the connection to the revoked node is still open: %v", err)
	}
	_, err = Dial(t.Context(), ids["b"], "a", to(l, 0), "s")
	var r *Refused
	if !errors.As(err, &r) || r.Why != WhyRevoked || r.Generation != 7 || problem.KindOf(err) != problem.Permission || problem.HintOf(err) == "" {
		t.Errorf("the revoked node is told %v; %s", err, problem.HintOf(err))
	}
	log.eventually(t, "revoked")
	if _, err := Dial(t.Context(), ids["a"], "b", to(lb, 0), "s"); problem.KindOf(err) != problem.Permission {
		t.Errorf("the revoked node is dialled: %v", err)
	}
	if _, err := Dial(t.Context(), ids["a"], Anybody, to(lb, 0), "s"); problem.KindOf(err) != problem.Permission {
		t.Errorf("the revoked node is dialled as anybody: %v", err)
	}
}

// TestAnybodyMayBeUnknown: a node of the cluster that the configuration here does
// not have yet can be asked for a newer one.
func TestAnybodyMayBeUnknown(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "e")
	ids["a"].Watch(func(n cluster.NodeID, _ uint32) error {
		return &Refused{Why: WhyUnknown, Reason: "node " + string(n) + " is not in the configuration here"}
	}, func() uint32 { return 1 })
	l, _ := start(t, ids["e"], all, echo, "127.0.0.1")
	c, err := Dial(t.Context(), ids["a"], Anybody, to(l, 0), "s")
	must(t, err)
	if c.Peer() != "e" {
		t.Errorf("it is %s", c.Peer())
	}
	c.Close()
	if _, err := Dial(t.Context(), ids["a"], "e", to(l, 0), "s"); problem.KindOf(err) != problem.Permission {
		t.Errorf("by name: %v", err)
	}
}

// TestRenewal: a new certificate for the same key is durable, and in use without a restart.
func TestRenewal(t *testing.T) {
	states := newStates(t, "homelab", "a", "b")
	ca, err := LoadCA(states["a"])
	must(t, err)
	b, err := LoadIdentity(states["b"])
	must(t, err)
	presented := make(chan *x509.Certificate, 2)
	l, _ := start(t, ca.Identity(), all, func(_ context.Context, c *Conn) { presented <- c.Certificate() }, "127.0.0.1")
	der, err := ca.Sign("b", b.Leaf().PublicKey, 3, 2*time.Hour, time.Now())
	must(t, err)
	must(t, b.Renew(der))
	c, err := Dial(t.Context(), b, "a", to(l, 0), "s")
	must(t, err)
	defer c.Close()
	cert := <-presented
	if Epoch(cert) != 3 || Life(cert) < 2*time.Hour-time.Minute || Life(cert) > 2*time.Hour+time.Minute {
		t.Errorf("presented: epoch %d, life %v", Epoch(cert), Life(cert))
	}
	if left := time.Until(RenewAt(cert)); left < time.Hour || left > 90*time.Minute {
		t.Errorf("to be renewed in %v", left)
	}
	again, err := LoadIdentity(states["b"])
	must(t, err)
	if !again.Leaf().Equal(cert) {
		t.Error("after a restart it is another one")
	}

	_, foreign := newStates(t, "homelab", "a"), newCluster(t, "homelab", "a", "b")
	for what, der := range map[string][]byte{
		"another CA":  foreign["b"].Leaf().Raw,
		"another key": ca.Identity().Leaf().Raw,
		"nonsense":    []byte("hello"),
	} {
		if err := b.Renew(der); problem.KindOf(err) != problem.Corrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestTheCAsNodeWasOffForTooLong: its certificate expired, and only itself can make out the next one.
func TestTheCAsNodeWasOffForTooLong(t *testing.T) {
	states := newStates(t, "homelab", "a")
	dir := filepath.Join(states["a"], dirName)
	forge(t, dir, "a", "homelab", -48*time.Hour, -time.Hour)
	if _, err := LoadIdentity(states["a"]); problem.KindOf(err) != problem.Permission {
		t.Errorf("an expired identity: %v", err)
	}
	must(t, RenewOwn(states["a"], time.Now()))
	id, err := LoadIdentity(states["a"])
	must(t, err)
	before := id.Leaf()
	must(t, RenewOwn(states["a"], time.Now()))
	if id, err = LoadIdentity(states["a"]); err != nil || !id.Leaf().Equal(before) {
		t.Errorf("renewed although it is not due: %v", err)
	}
}

func TestTheCAKeyMayBeCarriedToAnotherNode(t *testing.T) {
	states := newStates(t, "homelab", "a", "b")
	if _, err := LoadCA(states["b"]); problem.KindOf(err) != problem.NotFound || problem.HintOf(err) == "" {
		t.Errorf("without the key: %v", err)
	}
	must(t, carry(states["a"], states["b"], 0o644))
	if _, err := LoadCA(states["b"]); problem.KindOf(err) != problem.Permission {
		t.Errorf("readable by others: %v", err)
	}
	must(t, carry(states["a"], states["b"], 0o600))
	ca, err := LoadCA(states["b"])
	must(t, err)
	if ca.Identity().Node != "b" || !HasCA(states["b"]) {
		t.Error("b has not the CA")
	}
	other := newStates(t, "homelab", "a")
	must(t, carry(other["a"], states["b"], 0o600))
	if _, err := LoadCA(states["b"]); problem.KindOf(err) != problem.Corrupt {
		t.Errorf("the key of another CA: %v", err)
	}
}

// carry copies the CA's key from one state directory to another.
func carry(from, to string, mode os.FileMode) error {
	path := filepath.Join(to, dirName, caKeyFile)
	data, err := os.ReadFile(filepath.Join(from, dirName, caKeyFile))
	if err == nil {
		err = errors.Join(os.WriteFile(path, data, mode), os.Chmod(path, mode))
	}
	return err
}
