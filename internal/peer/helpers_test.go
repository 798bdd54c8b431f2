package peer

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"revolve/internal/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notes is a log that tests can read while it is written.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.String()
}

func (n *notes) log() *slog.Logger { return slog.New(slog.NewTextHandler(n, nil)) }

// eventually polls until the log has the text.
func (n *notes) eventually(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if strings.Contains(n.String(), text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in the log:\n%s", text, n)
		}
	}
}

// newCluster makes identities of the named nodes, the first one with the CA.
func newCluster(t *testing.T, name string, nodes ...cluster.NodeID) map[cluster.NodeID]*Identity {
	t.Helper()
	states := newStates(t, name, nodes...)
	ids := map[cluster.NodeID]*Identity{}
	for _, n := range nodes {
		id, err := LoadIdentity(states[n])
		if err != nil {
			t.Fatal(err)
		}
		ids[n] = id
	}
	return ids
}

func newStates(t *testing.T, name string, nodes ...cluster.NodeID) map[cluster.NodeID]string {
	t.Helper()
	dir, states := t.TempDir(), map[cluster.NodeID]string{}
	for i, n := range nodes {
		states[n] = filepath.Join(dir, string(n))
		var err error
		if i == 0 {
			err = Init(states[n], name, n)
		} else {
			err = Issue(states[nodes[0]], n, 0, DefaultLife, states[n])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return states
}

func all(cluster.NodeID) bool { return true }

// echo answers every frame with the same until the peer is gone.
func echo(_ context.Context, c *Conn) {
	for {
		kind, payload, err := c.Read()
		if err != nil || c.Write(kind, payload) != nil || c.Flush() != nil {
			return
		}
	}
}

// start serves on a free port of the addresses until the test ends.
func start(t *testing.T, id *Identity, known func(cluster.NodeID) bool, handle func(context.Context, *Conn), hosts ...string) (*Listener, *notes) {
	t.Helper()
	var addrs []netip.AddrPort
	for _, h := range hosts {
		addrs = append(addrs, netip.AddrPortFrom(netip.MustParseAddr(h), 0))
	}
	n := &notes{}
	l, err := Listen(t.Context(), id, known, addrs, n.log())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, handle) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve did not end with its context")
		}
	})
	return l, n
}

func to(l *Listener, i int) []Path {
	return []Path{{Link: "lan", Local: l.Addrs()[i].Addr(), Remote: l.Addrs()[i]}}
}

// tcp is a pair of connected TCP sockets.
func tcp(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
