package stories

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// progWait is this test binary as a client that waits for an answer.
const progWait = "stories-wait"

// portWaits is where a server listens on every node that never says a word.
const portWaits = "7070"

// waitMain connects, sends nothing and waits; when its connection is reset it
// connects again, and so on. It writes a line for each.
func waitMain(address string) int {
	d := net.Dialer{Timeout: time.Second, KeepAlive: -1} // Go's own questions would find out after 15 s; most programs ask none
	for {
		c, err := d.Dial("tcp", address)
		if err != nil {
			fmt.Println("refused", err)
			time.Sleep(lookEvery)
			continue
		}
		fmt.Println("connected")
		_, err = c.Read(make([]byte, 1))
		if errors.Is(err, syscall.ECONNRESET) {
			err = errors.New("reset")
		}
		fmt.Println(err)
		c.Close()
	}
}

// waiter is what such a client saw.
type waiter struct{ file string }

func (w waiter) lines(word string) (n int) {
	b, _ := os.ReadFile(w.file)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, word) {
			n++
		}
	}
	return n
}

func (l *lab) waiter(client *testbed.Node, name string, vip netip.Prefix) waiter {
	l.t.Helper()
	exe, err := os.Executable()
	must(l.t, err)
	w := waiter{filepath.Join(l.stage.Dir, name)}
	_, err = client.Start(testbed.Command{Argv: []string{exe, progWait, net.JoinHostPort(vip.Addr().String(), portWaits)}, Log: w.file})
	must(l.t, err)
	return w
}

// silentServer starts a server that accepts and never says a word.
func (n *node) silentServer() {
	exe, err := os.Executable()
	must(n.lab.t, err)
	_, err = n.Start(testbed.Command{Argv: []string{exe, progListen, "[::]:" + portWaits}, Log: filepath.Join(n.lab.stage.Dir, "listen-"+n.name)})
	must(n.lab.t, err)
}

// TestClientsAreTold: a client that only waits learns of a power cut, and of a
// planned switch, when the addresses have moved, over IPv4 and IPv6. Without it
// the client would wait for ever: it has nothing to send. The daemon of the node that
// had the addresses learns of it too, also after an agent that was killed.
func TestClientsAreTold(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		client, err := l.bed.AddNode(testbed.NodeSpec{ID: "client", Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{
			{Link: lan, Addrs: []netip.Prefix{prefix("10.77.0.%d/24", 99), prefix("fd77::%d/64", 99)}}}})
		must(t, err)
		m := l.form()
		for _, n := range l.nodes {
			n.silentServer()
		}
		waiters := []waiter{l.waiter(client, "wait4", vip4), l.waiter(client, "wait6", vip6)}
		known := func(m *node, connected int) {
			t.Helper()
			l.eventually("the standbys to know both connections", askEvery, func() error {
				for _, w := range waiters {
					if n := w.lines("connected"); n < connected {
						return fmt.Errorf("%s connected %d times", w.file, n)
					}
				}
				for _, x := range l.others(m) {
					if s, err := x.status(); err != nil || s.ClientsKnown != len(waiters) {
						return fmt.Errorf("%s knows %d (%v)", x.name, s.ClientsKnown, err)
					}
				}
				return nil
			})
			for _, w := range waiters {
				if n := w.lines("connected"); n != connected || w.lines("reset") != connected-1 {
					t.Fatalf("%s: %d times connected, %d times reset, before anything moved", w.file, n, w.lines("reset"))
				}
			}
		}
		told := func(m *node, resets int) {
			t.Helper()
			began := time.Now()
			l.eventually("both clients to be reset, and connected again", lookEvery, func() error {
				for _, w := range waiters {
					if w.lines("reset") < resets || w.lines("connected") < resets+1 {
						return fmt.Errorf("%s: %d resets, connected %d times", w.file, w.lines("reset"), w.lines("connected"))
					}
				}
				return nil
			})
			t.Logf("reset, and connected again: after %v", time.Since(began).Round(time.Millisecond))
			l.eventually("the record to say so", askEvery, func() error {
				r := m.latest()
				if r.ClientsTold == nil || *r.ClientsTold != len(waiters) || r.Times.Packet == nil || r.Times.Answer == nil {
					return fmt.Errorf("%+v", r)
				}
				if r.Times.Answer.Before(*r.Times.Packet) || r.Times.Address != nil && r.Times.Answer.Before(*r.Times.Address) {
					t.Fatalf("an answer before there was a question or an address: %+v", r.Times)
				}
				return nil
			})
			t.Log("\n" + l.mustRevolve("history", fmt.Sprint(m.latest().Term), "--state", m.state()))
		}
		known(m, 1)
		t.Log("--- the power of the master is cut")
		m.off()
		next := l.newMaster(m)
		told(next, 1)
		m.boot()
		m.silentServer()
		l.settled()
		known(next, 2)
		t.Log("--- a planned switch")
		l.eventually("a switch", askEvery, func() error {
			if _, complaint, status := l.revolve("switch", "--state", next.state()); status != 0 {
				return errors.New(complaint)
			}
			return nil
		})
		last := l.newMaster(next)
		told(last, 2)
		l.eventually("the old master's connections to end", lookEvery, next.nothingOpen)
		l.settled()
		known(last, 3)
		t.Log("--- the master's agent is killed, and started again")
		must(t, last.agent.Signal(unix.SIGKILL))
		last.waitEnd()
		told(l.newMaster(last), 3)
		if last.nothingOpen() == nil {
			t.Error("the connections have ended although no agent ran")
		}
		last.start()
		l.eventually("what a killed agent left open to end", lookEvery, last.nothingOpen)
		l.settled()
		for _, w := range waiters {
			if n := w.lines("reset"); n != 3 {
				t.Errorf("%s was reset %d times", w.file, n)
			}
		}
	})
}

// nothingOpen: no client has a TCP connection with an address here, as far as this node's kernel knows.
func (n *node) nothingOpen() error {
	n.lab.t.Helper()
	for _, vip := range []netip.Prefix{vip4, vip6} {
		ctx, cancel := context.WithTimeout(context.Background(), commandFor)
		out, err := n.Run(ctx, "ss", "-Htn", "state", "connected", "src", strings.TrimSuffix(net.JoinHostPort(vip.Addr().String(), "*"), ":*"))
		cancel()
		must(n.lab.t, err)
		if len(out) > 0 {
			return fmt.Errorf("%s has %s", n.name, out)
		}
	}
	return nil
}
