package stories

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// keeper is the keepalived of every node, with the published example as its
// configuration: only the paths and the switch for safe places are the stage's.
type keeper struct {
	*lab
	conf  string
	procs map[string]*testbed.Proc
	n     int
}

// alone skips the story where another engine cannot be run.
func needsEngine(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil || os.Geteuid() != 0 {
		t.Skipf("SKIPPED PART: a real %s: it needs root and the program (%v)", program, err)
	}
}

func newKeeper(t *testing.T, stage *testbed.Stage) *keeper {
	t.Helper()
	needsEngine(t, "keepalived")
	k := &keeper{lab: newLab(t, stage, plan{engine: "external"}), procs: map[string]*testbed.Proc{}}
	b, err := os.ReadFile("../../examples/keepalived/keepalived.conf")
	must(t, err)
	state := filepath.Join(k.bed.Self(), "state")
	text := strings.NewReplacer(
		"/var/lib/revolve/eligible", state+"/eligible",
		"/usr/bin/revolve eligible", os.Getenv(envBin)+" eligible --state "+state,
		"    enable_script_security\n", "", // it refuses programs below a directory that all may write, such as /tmp
		"    timeout 1\n", "    timeout 15\n", // a machine that runs other tests needs seconds to start a program
	).Replace(string(b))
	k.conf = filepath.Join(stage.Dir, "keepalived.conf")
	must(t, os.WriteFile(k.conf, []byte(text), 0o644))
	return k
}

// keep starts the node's keepalived.
func (k *keeper) keep(n *node) {
	k.t.Helper()
	k.n++
	p, err := n.Start(testbed.Command{
		Argv: []string{"keepalived", "--dont-fork", "--vrrp", "--log-console", "--log-detail", "--use-file", k.conf,
			"--pid", filepath.Join(k.bed.Self(), fmt.Sprintf("keepalived.%d.pid", k.n)), "--vrrp_pid", filepath.Join(k.bed.Self(), fmt.Sprintf("vrrp.%d.pid", k.n))},
		Log: filepath.Join(k.stage.Dir, "logs", fmt.Sprintf("%s.keepalived.%d.log", n.name, k.n)),
	})
	must(k.t, err)
	k.procs[n.name] = p
}

// signal reaches all of the node's keepalived.
func (k *keeper) signal(n *node, s unix.Signal) {
	k.t.Helper()
	if s == unix.SIGKILL {
		// The child asks the kernel for SIGTERM when its parent ends (PR_SET_PDEATHSIG) and would
		// take its addresses away before its own turn comes.
		k.signal(n, unix.SIGSTOP)
	}
	pids, err := n.Processes()
	must(k.t, err)
	found := 0
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.HasPrefix(string(b), "keepalived") {
			must(k.t, unix.Kill(pid, s))
			found++
		}
	}
	if found == 0 {
		k.t.Fatalf("no keepalived runs on %s", n.name)
	}
}

// rise starts agents and keepalived everywhere.
func (k *keeper) rise() *node {
	k.t.Helper()
	for _, name := range k.names {
		k.nodes[name].start()
		k.keep(k.nodes[name])
	}
	m, since := k.settled(), time.Now()
	for time.Since(since) < calm {
		if now := k.settled(); now != m {
			m, since = now, time.Now()
		}
		time.Sleep(askEvery)
	}
	return m
}

// calm is how long nothing must have moved: keepalived, which starts while nobody is
// eligible yet, may move the addresses back and forth in its first seconds.
const calm = 2 * time.Second

// back gives a node power, an agent and a keepalived.
func (k *keeper) back(n *node) {
	k.t.Helper()
	n.boot()
	k.keep(n)
}

// penalty is what the node tells keepalived.
func (n *node) penalty() string {
	b, _ := os.ReadFile(filepath.Join(n.state(), "eligible"))
	return strings.TrimSpace(string(b))
}

// leads waits until the node's own status says that it leads with all volumes.
func (l *lab) leads(n *node) {
	l.t.Helper()
	l.eventually(n.name+" to lead", askEvery, func() error {
		s, err := n.status()
		if err != nil {
			return err
		}
		if s.Master != n.name || len(s.Volumes) == 0 || s.Volumes[0].State != "leading" {
			return fmt.Errorf("%s says: %s is master, %s", n.name, s.Master, s.Reasons)
		}
		return nil
	})
}

// hushed drops the node's TCP: it is heard, and follows nothing.
func (n *node) hushed(t *testing.T) {
	t.Helper()
	for _, hook := range []string{"input", "output"} {
		for _, line := range []string{"add table inet hush", "add chain inet hush " + hook + " { type filter hook " + hook + " priority 0; }", "add rule inet hush " + hook + " meta l4proto tcp drop"} {
			if out, err := n.Run(t.Context(), "nft", line); err != nil {
				t.Fatalf("nft %s: %v\n%s", line, err, out)
			}
		}
	}
}

// Real keepalived places the addresses. Its master loses power, then ends in
// order; neither a standby that lags nor a clean end loses anything.
func TestKeepalivedFollowed(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		k := newKeeper(t, stage)
		m := k.rise()
		if out, _, status := k.revolve("switch", "--state", m.state()); status != 13 {
			t.Errorf("switch with another engine: exit status %d\n%s", status, out)
		}
		fill(t, m.home("calm"), 20)
		m.sync()
		// The standby of higher priority lags: the other one gets the addresses.
		lagging, fit := k.others(m)[0], k.others(m)[1]
		k.eventually("both standbys to be fit", lookEvery, func() error {
			if lagging.penalty() != "0" || fit.penalty() != "0" {
				return fmt.Errorf("penalties %s on %s, %s on %s", lagging.penalty(), lagging.name, fit.penalty(), fit.name)
			}
			return nil
		})
		lagging.hushed(t)
		put(t, m.home("late"), "only the fit one has it")
		k.eventually("the lagging one to say so", lookEvery, func() error {
			if err := have(fit.home("late"), "only the fit one has it"); err != nil || lagging.penalty() != "254" || fit.penalty() != "0" {
				return fmt.Errorf("%w; penalties %s on %s, %s on %s", err, lagging.penalty(), lagging.name, fit.penalty(), fit.name)
			}
			return nil
		})
		if _, _, status := k.revolve("eligible", "--state", lagging.state()); status != 1 {
			t.Errorf("eligible on a lagging node: exit status %d", status)
		}
		k.eventually("the fit one's acknowledgement", askEvery, func() error { return acked(m, fit, "home") })
		term := k.term(m)
		m.off()
		next := k.newMaster(m)
		if next != fit {
			t.Fatalf("%s was in-sync and %s lagged, yet %s holds the addresses", fit.name, lagging.name, next.name)
		}
		k.leads(next)
		if now := k.term(next); now <= term {
			t.Errorf("term %d after %d", now, term)
		}
		if out, err := lagging.Run(t.Context(), "nft", "delete table inet hush"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		k.back(m)
		if k.settled() != next {
			t.Errorf("the addresses went back to %v by themselves", k.holders())
		}
		k.everywhere("late", "only the fit one has it")
		// A planned end of keepalived, in the middle of writes.
		for i := range 50 {
			put(t, next.home("planned", fmt.Sprint(i)), fmt.Sprintf("written %d", i))
		}
		k.signal(next, unix.SIGTERM)
		after := k.newMaster(next)
		k.leads(after)
		k.keep(next)
		k.settled()
		for i := range 50 {
			k.everywhere(fmt.Sprintf("planned/%d", i), fmt.Sprintf("written %d", i))
		}
		k.equal(after)
		for _, n := range k.nodes {
			if list := n.divergent(); len(list) > 0 {
				t.Errorf("%s keeps aside %+v", n.name, list)
			}
		}
	})
}

func (l *lab) term(n *node) uint64 {
	l.t.Helper()
	s, err := n.status()
	must(l.t, err)
	return uint64(s.Term)
}

// both waits until both nodes hold the addresses and the older one is frozen.
func (k *keeper) both(old *node) (young *node) {
	k.t.Helper()
	k.eventually("a second holder", lookEvery, func() error {
		who := k.holders()
		if i := slices.IndexFunc(who, func(n string) bool { return n != old.name }); len(who) == 2 && i >= 0 {
			young = k.nodes[who[i]]
			return nil
		}
		return fmt.Errorf("the VIPs are on %v", who)
	})
	k.eventually("the older reign to freeze", askEvery, func() error {
		s, err := old.status()
		if err == nil && (!s.Frozen || s.Verdict != control.Critical || !strings.Contains(strings.Join(s.Reasons, "\n"), "two holders")) {
			err = fmt.Errorf("frozen %v, verdict %s, reasons %q", s.Frozen, s.Verdict, s.Reasons)
		}
		return err
	})
	k.leads(young)
	return young
}

// Two holders: the master's keepalived freezes, and later another one is killed
// and leaves its addresses behind. Nothing that is written on either is lost,
// and what the lower reign writes reaches nobody.
func TestKeepalivedTwoHolders(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		k := newKeeper(t, stage)
		m := k.rise()
		put(t, m.home("agreed"), "as all agreed")
		m.sync()
		k.signal(m, unix.SIGSTOP)
		young := k.both(m)
		k.twoPens(m, young, "frozen")
		k.signal(m, unix.SIGCONT)
		k.oneHolder()
		k.kept(m, young, "frozen")

		// An orphan: nobody is in charge of the addresses that are left behind.
		old := k.settled()
		k.signal(old, unix.SIGKILL)
		young = k.both(old)
		k.twoPens(old, young, "orphan")
		// The agent of the orphan starts anew: what it finds is not a new gain.
		old.stop()
		old.start()
		k.both(old)
		for _, a := range []string{vip4.String(), vip6.String()} {
			out, err := old.Run(t.Context(), "ip", "addr", "del", a, "dev", string(lan))
			if err != nil {
				t.Fatalf("ip addr del %s: %v\n%s", a, err, out)
			}
		}
		k.oneHolder()
		k.kept(old, young, "orphan")
		must(t, have(young.home("agreed"), "as all agreed"))
	})
}

// twoPens writes on both holders; only the younger reign's words travel.
func (k *keeper) twoPens(old, young *node, what string) {
	k.t.Helper()
	put(k.t, young.home(what, "young"), what+": young")
	put(k.t, young.home(what, "shared"), what+": shared by the young")
	put(k.t, old.home(what, "old"), what+": old")
	put(k.t, old.home(what, "shared"), what+": shared by the old")
	third := k.third(old, young)
	k.eventually("the young one's words to travel", lookEvery, func() error {
		return errors.Join(have(third.home(what, "young"), what+": young"), have(third.home(what, "shared"), what+": shared by the young"))
	})
	for _, n := range []*node{young, third} {
		if list := found(k.t, n.home(), what+": old"); len(list) > 0 {
			k.t.Errorf("what the lower reign wrote is on %s: %v", n.name, list)
		}
	}
	if err := have(old.home(what, "shared"), what+": shared by the old"); err != nil {
		k.t.Errorf("the higher reign wrote over a holder's file: %v", err)
	}
}

func (k *keeper) oneHolder() {
	k.t.Helper()
	k.eventually("one holder", lookEvery, func() error {
		if who := k.holders(); len(who) != 1 {
			return fmt.Errorf("the VIPs are on %v", who)
		}
		return nil
	})
}

// kept checks that the words of the younger reign are everywhere, and those of the older one somewhere.
func (k *keeper) kept(old, young *node, what string) {
	k.t.Helper()
	m := k.settled()
	k.everywhere(what+"/young", what+": young")
	k.everywhere(what+"/shared", what+": shared by the young")
	k.equal(m)
	for _, word := range []string{what + ": old", what + ": shared by the old"} {
		if len(found(k.t, old.home(hidden, "divergent"), word)) == 0 {
			k.t.Errorf("%q, written on %s while %s reigned, is not kept aside there", word, old.name, young.name)
		}
	}
	alarmed(k.t, old)
}
