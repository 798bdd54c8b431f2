package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/peer"
	"revolve/internal/roster"
)

// TestAnOlderMasterIsNotAskedForATrial: it would ignore the deadline, and change
// everything for good. A change without a deadline it carries out.
func TestAnOlderMasterIsNotAskedForATrial(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	text := strings.NewReplacer("10.77.0.11", "127.0.0.2", "10.77.0.12", "127.0.0.1", "vips:\n  - { address: 10.77.0.200/24, link: lan }", fmt.Sprintf("port: %d", port)).Replace(formerly)
	cfg := parse(t, text)
	states := [2]string{t.TempDir(), t.TempDir()}
	if err := peer.Init(states[0], "homelab", "a"); err != nil {
		t.Fatal(err)
	}
	if err := peer.Issue(states[0], "b", 0, peer.DefaultLife, states[1]); err != nil {
		t.Fatal(err)
	}
	var ids [2]*peer.Identity
	for i, s := range states {
		if ids[i], err = peer.LoadIdentity(s); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	master, err := peer.Listen(ctx, ids[1], func(cluster.NodeID) bool { return true }, []netip.AddrPort{netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", port))}, log)
	if err != nil {
		t.Fatal(err)
	}
	var orders atomic.Int32
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = master.Serve(ctx, func(_ context.Context, c *peer.Conn) { // as of before trials: it hangs up at what it does not know
			defer c.Close()
			if c.Service() == serviceOrder {
				orders.Add(1)
			}
		})
	}()
	defer func() { stop(); <-ended }()
	a := &Agent{o: Options{Config: cfg, Roster: holding(t, roster.Roster{Generation: 1, Config: text}), Node: "a", Log: log}, id: ids[0], report: beat.Report{Role: cluster.Standby, Master: "b"}}
	for i, deadline := range []time.Duration{time.Minute, 0} {
		_, err := a.change(ctx, control.Change{Config: text, Deadline: deadline})
		if err == nil || orders.Load() != int32(i) {
			t.Errorf("deadline %v: %d orders reached the master; %v", deadline, orders.Load(), err)
		}
	}
}
