package beat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"revolve/internal/failover/witness"
)

// What the tests of two nodes that cannot hear each other need beside the lab.

// third is a machine on the first link that is no node. Its port at the bridge is w0.
type third struct {
	l    *lab
	room *room
	name string
}

func (l *lab) third(name string, addrs ...netip.Addr) *third {
	m := &third{l: l, room: newRoom(l.t), name: name}
	l.must(l.hub.run(func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(m.room.fd)}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		p, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("br0")
		return errors.Join(err, netlink.LinkSetMaster(p, br), netlink.LinkSetUp(p))
	}))
	l.must(m.room.run(func() error {
		e, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		errs := []error{netlink.LinkSetUp(e)}
		for _, a := range addrs {
			bits := map[bool]int{true: 24, false: 64}[a.Is4()]
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}, Flags: 2 /* IFA_F_NODAD */}
			errs = append(errs, netlink.AddrAdd(e, addr))
		}
		return errors.Join(errs...)
	}))
	return m
}

// up plugs the machine in or out.
func (m *third) up(up bool) {
	m.l.must(m.l.hub.run(func() error {
		p, err := netlink.LinkByName(m.name)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(p)
		}
		return netlink.LinkSetDown(p)
	}))
}

// witness runs one on the machine until stop. It is a process of its own, as it
// is in life: in the test's it would wait for the test's goroutines.
func (m *third) witness() (stop func()) {
	said := &notes{t: m.l.t, ready: make(chan struct{})}
	c := exec.Command("/proc/self/exe")
	c.Env, c.Stderr = append(os.Environ(), witnessArg+"=1"), said
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.l.must(m.room.run(c.Start)) // a child is born in its thread's namespace
	stop = sync.OnceFunc(func() {
		m.l.must(c.Process.Signal(syscall.SIGTERM))
		m.l.must(c.Wait())
	})
	m.l.t.Cleanup(stop)
	select {
	case <-said.ready:
	case <-time.After(10 * time.Second):
		m.l.t.Fatal("the witness does not listen")
	}
	return stop
}

// witnessArg makes a copy of the test a witness, until it is asked to end.
const witnessArg = "REVOLVE_TEST_BEAT_WITNESS"

func witnessMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := witness.Serve(ctx, witness.Options{Listen: witnessAt, Keys: []witness.Key{witnessKey}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// notes is the log of a witness in that of the test.
type notes struct {
	t     *testing.T
	ready chan struct{}
	once  sync.Once
}

func (n *notes) Write(p []byte) (int, error) {
	n.t.Logf("%s witness: %s", time.Now().Format("05.000"), strings.TrimSpace(string(p)))
	if strings.Contains(string(p), "witness listens") {
		n.once.Do(func() { close(n.ready) })
	}
	return len(p), nil
}

// between drops every frame from node i to node j and back.
func between(i, j int) []string {
	return []string{fmt.Sprintf(`iifname "p%d-*" oifname "p%d-*"`, i, j), fmt.Sprintf(`iifname "p%d-*" oifname "p%d-*"`, j, i)}
}

// pair is two nodes with one link.
func pair(t *testing.T, set func(*Config)) *lab {
	if testing.Short() {
		t.Skip("SKIPPED PART: two beat processes that cannot hear each other (-short)")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIPPED PART: two beat processes that cannot hear each other (nft is not installed)")
	}
	l := newLab(t, 2, "lan")
	set(&l.cfg)
	return l
}

// watch finds out until stop how often both nodes had an address, and how often none had.
func (l *lab) watch() (stop func() (both, none time.Duration)) {
	end, done := make(chan struct{}), make(chan [2]time.Duration, 1)
	go func() { // joined by stop
		var sum [2]time.Duration
		for last := time.Now(); ; {
			select {
			case <-end:
				done <- sum
				return
			case <-time.After(time.Millisecond):
			}
			// Asked one after the other, with this thread perhaps waiting in between: both have an
			// address only if the first one has it before and after the second one was asked.
			a, b := l.held(0) > 0, l.held(1) > 0
			now := time.Now()
			if a && b && l.held(0) > 0 {
				sum[0] += now.Sub(last)
			}
			if !a && !b {
				sum[1] += now.Sub(last)
			}
			last = now
		}
	}()
	once := sync.OnceValues(func() (time.Duration, time.Duration) {
		close(end)
		s := <-done
		return s[0], s[1]
	})
	l.t.Cleanup(func() { once() })
	return once
}

func (l *lab) saw(i int, want WitnessState) bool {
	w := l.report(i).Witness
	return w != nil && w.State == want
}

// kill is a power cut of node i: nothing of it runs, and its card is silent.
func (l *lab) kill(i int) {
	l.port(i, 0, false)
	l.must(l.beats[i].cmd.Process.Kill())
	<-l.ends[i]
	l.ends[i] = nil
	l.stop[i]()
}

// during holds a state for a while and fails if what must not happen does.
func (l *lab) during(d time.Duration, what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if !ok() {
			l.t.Fatalf("not all the time: %s; %v", what, []int{l.held(0), l.held(1)})
		}
	}
}

// steady waits until one node has served, alone, for a while, and says which. It is
// m, unless this machine stalled: a witness that gets no time answers nobody, and
// then its node lets go as it must.
func (l *lab) steady(m int, d time.Duration) int {
	l.t.Helper()
	for range attempts {
		gap, moved, last := time.Duration(0), false, time.Now()
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			moved = moved || !l.only(m)
			gap = max(gap, time.Since(last))
			last = time.Now()
		}
		if !moved {
			return m
		}
		if gap < time.Duration(l.cfg.Timers.Heartbeat) {
			l.t.Fatalf("%s does not serve all the time: %v; the longest stall of this test was %v", l.cfg.Nodes[m].ID, []int{l.held(0), l.held(1)}, gap)
		}
		l.t.Logf("LATE: the addresses moved, and this machine stalled for %v: again", gap)
		l.within(3*time.Second, "one of them serves", func() bool { return l.only(0) || l.only(1) })
		if l.only(1 - m) {
			m = 1 - m
		}
	}
	l.t.Fatalf("this machine is too busy: no %v without a stall in %d attempts", d, attempts)
	return m
}
