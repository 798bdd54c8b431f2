package stories

import (
	"encoding/json"
	"fmt"
	"os/user"
	"strings"
	"testing"
	"time"

	"revolve/internal/failover/history"
	"revolve/internal/testbed"
)

// rehearse runs one on the node, with more arguments.
func (n *node) rehearse(more ...string) (r history.Rehearsal, complaint string, status int) {
	n.lab.t.Helper()
	out, complaint, status := n.lab.revolve(append([]string{"rehearse", "--json", "--state", n.state()}, more...)...)
	if status == 0 {
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			n.lab.t.Fatalf("rehearse: %v\n%s", err, out)
		}
	}
	return r, complaint, status
}

// rehearsed is the last rehearsal that a node knows of.
func (n *node) rehearsed() (r history.Rehearsal) {
	if list := n.history().Rehearsals; len(list) > 0 {
		return list[0]
	}
	return r
}

// ready waits until a rehearsal could begin, as the node says: heartbeats say in-sync a moment later than streams.
func (n *node) ready() (r history.Rehearsal) {
	n.lab.t.Helper()
	n.lab.eventually("a rehearsal that could begin", askEvery, func() error {
		var complaint string
		var status int
		if r, complaint, status = n.rehearse("--dry-run"); status != 0 {
			return fmt.Errorf("%s", complaint)
		}
		return nil
	})
	return r
}

// TestRehearse: there and back, measured and written down with who ordered it; it
// does not begin while hold or a maintenance is on, and without an in-sync standby.
func TestRehearse(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		other := l.others(m)[0]
		dry := other.ready()
		if dry.Result != history.Possible || string(dry.Node) != m.name || dry.To == "" || len(m.history().Rehearsals) > 0 {
			t.Errorf("a dry run: %+v", dry)
		}
		if who := l.holders(); len(who) != 1 || who[0] != m.name {
			t.Fatalf("a dry run moved the VIPs to %v", who)
		}
		r, complaint, status := other.rehearse("--stay", "1s", string(dry.To))
		if status != 0 {
			t.Fatalf("status %d: %s", status, complaint)
		}
		me, err := user.Current()
		must(t, err)
		if r.Result != history.Done || r.There == nil || r.Back == nil || r.There.RTO == nil || r.Back.RTO == nil || r.Back.Term <= r.There.Term ||
			string(r.Master) != m.name || r.Ordered.Why != history.WhyRehearsal || string(r.Ordered.Node) != other.name || !strings.HasSuffix(r.Ordered.User, me.Username) {
			t.Errorf("got %+v", r)
		}
		if who := l.holders(); len(who) != 1 || who[0] != m.name {
			t.Errorf("the VIPs are on %v", who)
		}
		legs := 0
		for _, x := range other.history().Records {
			if x.Ordered == nil || x.Ordered.Why != history.WhyRehearsal {
				continue
			}
			legs++
			if x.Cause != history.CauseSwitch || string(x.Ordered.Node) != other.name || x.Ordered.User != r.Ordered.User {
				t.Errorf("a leg says %+v %+v", x, x.Ordered)
			}
		}
		if legs != 2 || other.rehearsed().Result != history.Done {
			t.Errorf("%d legs are recorded; the rehearsal: %+v", legs, other.rehearsed())
		}
		t.Log("\n" + l.mustRevolve("history", "--state", other.state()))
		t.Log("\n" + l.mustRevolve("history", fmt.Sprint(r.Back.Term), "--state", m.state()))
		l.settled()
		refused := func(why string, more ...string) {
			t.Helper()
			r, complaint, status := m.rehearse(append([]string{"--stay", "0s"}, more...)...)
			if status == 0 || !strings.Contains(complaint, why) {
				t.Errorf("want a refusal for %q, got status %d, %+v, %s", why, status, r, complaint)
			}
			if who := l.holders(); len(who) != 1 || who[0] != m.name {
				t.Fatalf("the VIPs are on %v", who)
			}
		}
		m.ready()
		refused("it is the master", m.name)
		refused("not in the configuration", "nobody")
		refused("cannot be asked to lead for", "--stay", "1h")
		l.mustRevolve("hold", "on", "--state", other.state())
		refused("hold is on")
		l.mustRevolve("hold", "off", "--state", other.state())
		m.ready()
		l.mustRevolve("maintenance", "on", "--state", other.state())
		l.eventually("the maintenance to be known", askEvery, func() error {
			if _, complaint, _ := m.rehearse("--dry-run"); !strings.Contains(complaint, "maintenance") {
				return fmt.Errorf("%s", complaint)
			}
			return nil
		})
		refused("is in maintenance")
		l.mustRevolve("maintenance", "off", "--state", other.state())
		for _, x := range l.others(m) {
			x.stop()
		}
		l.eventually("nobody to be left", askEvery, func() error {
			if _, complaint, _ := m.rehearse("--dry-run"); !strings.Contains(complaint, "in-sync") {
				return fmt.Errorf("%s", complaint)
			}
			return nil
		})
		refused("no standby is in-sync")
	})
}

// TestOrdersOneAfterTheOther: a switch, one back, and a rehearsal, typed one after the other without a look in between, are carried
// out: what follows a move is waited for. What will not pass by itself is not.
func TestOrdersOneAfterTheOther(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		m.ready()
		other := l.others(m)[0]
		for range 3 {
			l.mustRevolve("switch", other.name, "--state", m.state())
			l.mustRevolve("switch", m.name, "--state", other.state())
			for _, n := range []*node{m, other} {
				if r, complaint, status := n.rehearse("--stay", "0s"); status != 0 || string(r.Node) != m.name {
					t.Fatalf("typed on %s: status %d, %+v: %s", n.name, status, r, complaint)
				}
			}
		}
		l.mustRevolve("hold", "on", "--state", m.state())
		l.mustRevolve("hold", "off", "--state", m.state())
		if _, complaint, status := other.rehearse("--dry-run"); status != 0 {
			t.Errorf("after the end of a hold: %s", complaint)
		}
		other.stop()
		l.settled()
		_, complaint, status := l.revolve("switch", other.name, "--state", m.state())
		if status == 0 || !strings.Contains(complaint, other.name+" is ") || strings.Contains(complaint, "waited") {
			t.Errorf("to a node that is off: status %d: %s", status, complaint)
		}
	})
}

// TestRehearsalAborts: hold, turned on while the standby leads, ends the rehearsal:
// the standby stays master, the command fails and says so, and status reminds of it.
// A standby that dies meanwhile ends it, too.
func TestRehearsalAborts(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		m.ready()
		type end struct {
			complaint string
			status    int
		}
		begin := func(m *node) (*node, chan end) {
			ended := make(chan end, 1)
			go func() {
				_, complaint, status := m.rehearse("--stay", "5m")
				ended <- end{complaint, status}
			}()
			return l.newMaster(m), ended
		}
		wait := func(ended chan end, why string) {
			t.Helper()
			select {
			case e := <-ended:
				if e.status == 0 || !strings.Contains(e.complaint, "aborted") || !strings.Contains(e.complaint, why) {
					t.Errorf("status %d: %s", e.status, e.complaint)
				}
			case <-time.After(patience):
				t.Fatal("it goes on")
			}
		}
		t.Log("--- hold is turned on")
		next, ended := begin(m)
		l.mustRevolve("hold", "on", "--state", next.state())
		wait(ended, "hold was turned on")
		if who := l.holders(); len(who) != 1 || who[0] != next.name {
			t.Errorf("the VIPs are on %v", who)
		}
		if r := m.rehearsed(); r.Result != history.Aborted || !strings.Contains(r.Why, "hold") || string(r.Master) != next.name || r.There == nil || r.Back != nil {
			t.Errorf("got %+v", r)
		}
		s, err := m.status()
		must(t, err)
		if !strings.Contains(strings.Join(s.Reasons, "\n"), "was aborted: hold was turned on") {
			t.Errorf("status says %v", s.Reasons)
		}
		l.mustRevolve("hold", "off", "--state", next.state())
		l.settled()
		t.Log("--- the standby that leads dies")
		next.ready()
		third, ended := begin(next)
		third.off()
		l.newMaster(third)
		wait(ended, "master")
		if r := next.rehearsed(); r.Result != history.Aborted || r.Back != nil {
			t.Errorf("got %+v", r)
		}
	})
}

// rehearsedWithin is the minute for which a master rests before it rehearses by itself, and patience.
const rehearsedWithin = time.Minute + patience

// TestRehearsalInWindow: with a window that is open the master rehearses by itself;
// while hold is on it does not, and says so.
func TestRehearsalInWindow(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: scheduled rehearsals (-short)")
	}
	t.Parallel() // it waits for a minute of calm, and measures nothing
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{drill: "daily 00:00-00:00"})
		m := l.form()
		l.mustRevolve("hold", "on", "--state", m.state())
		l.within(rehearsedWithin, "a rehearsal that was refused", time.Second, func() error {
			if r := m.rehearsed(); r.Result != history.Refused || !r.Scheduled || !strings.Contains(r.Why, "hold") {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		s, err := m.status()
		must(t, err)
		if s.Rehearsal == nil || !strings.Contains(strings.Join(s.Reasons, "\n"), "was refused: ") {
			t.Errorf("status says %+v, %v", s.Rehearsal, s.Reasons)
		}
		l.mustRevolve("hold", "off", "--state", m.state())
		l.within(rehearsedWithin, "a rehearsal that is done", time.Second, func() error {
			if r := m.rehearsed(); r.Result != history.Done || !r.Scheduled || r.Ordered.User != "" || r.Node != r.Master {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		t.Log("\n" + l.mustRevolve("history", "--state", m.state()))
	})
}
