package stories

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/testbed"
)

// third is a machine that is no node, with a witness on it.
type third struct {
	*testbed.Node
	l    *lab
	proc *testbed.Proc
	runs int
}

const (
	thirdName = "w"
	heartbeat = 50 * time.Millisecond // of the profile in the lab
)

var thirdAddr = prefix("10.77.0.%d/24", 250)

func (l *lab) keyFile() string { return filepath.Join(l.stage.Dir, "witness.key") }

// witnessed is two nodes and a witness; whoever hears no other node leads by its word alone.
func witnessed(t *testing.T, stage *testbed.Stage) (*lab, *third) {
	key := filepath.Join(stage.Dir, "witness.key")
	l := newLab(t, stage, plan{names: []string{"a", "b"},
		apart: fmt.Sprintf(", isolation: release, witness: { address: %s, key_file: %s }", thirdAddr.Addr(), key)})
	l.mustRevolve("witness", "--make-key", "--key-file", key)
	n, err := l.bed.AddNode(testbed.NodeSpec{ID: thirdName, Disk: testbed.Disk{FS: "tmpfs", Size: 16 << 20},
		Links: []testbed.Attachment{{Link: lan, Addrs: []netip.Prefix{thirdAddr}}}})
	must(t, err)
	w := &third{Node: n, l: l}
	w.start()
	return l, w
}

func (w *third) log() string {
	return filepath.Join(w.l.stage.Dir, "logs", fmt.Sprintf("%s.%d.log", thirdName, w.runs))
}

func (w *third) start() {
	w.l.t.Helper()
	w.runs++
	var err error
	w.proc, err = w.Start(testbed.Command{Argv: []string{os.Getenv(envBin), "witness", "--listen", thirdAddr.Addr().String(), "--key-file", w.l.keyFile()}, Log: w.log()})
	must(w.l.t, err)
	w.l.eventually("the witness listens", lookEvery, func() error {
		if !strings.Contains(w.said(), "witness listens") {
			return fmt.Errorf("it says %q", w.said())
		}
		return nil
	})
}

func (w *third) said() string {
	b, err := os.ReadFile(w.log())
	must(w.l.t, err)
	return string(b)
}

// stop ends it in order.
func (w *third) stop() {
	w.l.t.Helper()
	must(w.l.t, w.proc.Signal(unix.SIGTERM))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if status, err := w.proc.Wait(ctx); err != nil || status != 0 {
		w.l.t.Fatalf("the witness ends with status %d, %v", status, err)
	}
	if !strings.Contains(w.said(), "witness ends") {
		w.l.t.Errorf("it says %q", w.said())
	}
}

// witnessIs waits until the node says so of the witness.
func (n *node) witnessIs(state string) (i control.Isolation) {
	n.lab.t.Helper()
	n.lab.eventually(n.name+" says that the witness is "+state, askEvery, func() error {
		s, err := n.status()
		if err != nil {
			return err
		}
		if i = s.Isolation; i.Witness == nil || i.Witness.State != state {
			return fmt.Errorf("it says %+v", i.Witness)
		}
		return nil
	})
	return i
}

// apart moves a node's cables to the other segments.
func (n *node) apart(do func(*testbed.Node, cluster.LinkID) error) {
	n.lab.t.Helper()
	for _, link := range []cluster.LinkID{lan, fast} {
		must(n.lab.t, do(n.Node, link))
	}
}

// Two nodes and a witness: whichever of the two is cut off, the one that the
// witness is with serves, and never both.
func TestWitnessOfTwo(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l, w := witnessed(t, stage)
		m := l.form()
		s := l.others(m)[0]
		put(t, m.home("before"), "before")
		m.sync()
		l.eventually("the standby hears whom the witness lets lead", askEvery, func() error {
			if i := s.witnessIs("reachable"); i.Policy != "release" || i.Witness.Leads != m.name {
				return fmt.Errorf("it says %+v %+v", i, i.Witness)
			}
			return nil
		})
		if out, _ := m.do("doctor", "--config", l.config()); !strings.Contains(out, "witness "+thirdAddr.Addr().String()+":7374: answers after") {
			t.Errorf("the doctor says nothing of the witness:\n%s", out)
		}

		seen := l.watchBoth()
		s.apart((*testbed.Node).Split) // the standby alone, the master with the witness
		s.says(true, "nothing proves that it is not the one cut off")
		l.serves(m, settle)
		s.apart((*testbed.Node).Mend)
		m = l.settled()
		s = l.others(m)[0]

		m.apart((*testbed.Node).Split) // the master alone, the standby with the witness
		l.newMaster(m)
		m.says(true, "nothing proves that it is not the one cut off")
		put(t, s.home("after"), "after")
		m.apart((*testbed.Node).Mend)
		l.settled()
		must(t, have(m.home("after"), "after"))

		l.witnessGoes(w)
		if n := seen(); n > 0 {
			t.Errorf("both had the address, seen %d times", n)
		}
	})
}

// watchBoth counts until it is called how often both nodes were seen with the
// address. The timeline would not do: its events have the time at which they were
// read, and a busy machine reads those of one node later than those of the other.
// The first node is asked before and after the second one, so that what is counted is true.
func (l *lab) watchBoth() (end func() int) {
	stop, done := make(chan struct{}), make(chan int, 1)
	a, b := l.nodes["a"], l.nodes["b"]
	go func() { // joined by end
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			case <-time.After(time.Millisecond):
			}
			if a.has(vip4.Addr()) && b.has(vip4.Addr()) && a.has(vip4.Addr()) {
				n++
			}
		}
	}()
	end = sync.OnceValue(func() int {
		close(stop)
		return <-done
	})
	l.t.Cleanup(func() { end() })
	return end
}

// has is holds for a goroutine beside the story's: what cannot be read is not there.
func (n *node) has(a netip.Addr) bool {
	list, err := n.Addresses()
	return err == nil && slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Addr() == a })
}

// serves holds that the node, and it alone, has the VIPs for a while. A machine that
// stalls for longer than a heartbeat may cost the master the witness's answers, and
// it lets go: that is told, and it is watched once more.
func (l *lab) serves(m *node, d time.Duration) {
	l.t.Helper()
	for range 5 {
		gap, last := time.Duration(0), time.Now()
		var wrong []string
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(lookEvery / 4) {
			if who := l.holders(); len(who) != 1 || who[0] != m.name {
				wrong = append(wrong, fmt.Sprint(who))
			}
			gap = max(gap, time.Since(last))
			last = time.Now()
		}
		switch {
		case len(wrong) == 0:
			return
		case gap < heartbeat:
			l.t.Fatalf("%s does not serve all the time: the VIPs were on %v; the longest stall of this test was %v", m.name, wrong, gap)
		}
		l.t.Logf("LATE: the VIPs were on %v, and this machine stalled for %v: again", wrong, gap)
		l.eventually(m.name+" serves again", lookEvery, func() error {
			if who := l.holders(); len(who) != 1 || who[0] != m.name {
				return fmt.Errorf("the VIPs are on %v", who)
			}
			return nil
		})
	}
	l.t.Fatal("this machine is too busy for a look of " + d.String())
}

// witnessGoes: without it everything goes on, and everybody is told; a key that
// is not the nodes' is told by the witness itself.
func (l *lab) witnessGoes(w *third) {
	t := l.t
	m := l.settled()
	w.stop()
	m.says(true, "the witness", "does not answer", "will not serve")
	l.serves(m, settle)
	if out, err := m.do("doctor", "--config", l.config()); !strings.Contains(strings.Join(strings.Fields(out), " "), "critical witness "+thirdAddr.Addr().String()+":7374: no") {
		t.Errorf("the doctor says:\n%s%v", out, err)
	}
	good, err := os.ReadFile(l.keyFile())
	must(t, err)
	must(t, os.Remove(l.keyFile()))
	l.mustRevolve("witness", "--make-key", "--key-file", l.keyFile())
	w.start()
	l.eventually("the witness tells of the wrong key", askEvery, func() error {
		if !strings.Contains(w.said(), "its key file is not this witness's") {
			return fmt.Errorf("it says %q", w.said())
		}
		return nil
	})
	w.stop()
	must(t, os.WriteFile(l.keyFile(), good, 0o600))
	w.start()
	m.witnessIs("reachable")
	for _, n := range l.nodes {
		if secret := bytes.TrimSpace(good[bytes.LastIndexByte(bytes.TrimSpace(good), '\n')+1:]); strings.Contains(n.lastLog()+w.said(), string(secret)) {
			t.Error("the key is in a log")
		}
	}
}
