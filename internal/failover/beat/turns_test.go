package beat

import (
	"syscall"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
)

// TestTurnCauses: what the old master said last decides why its reign counts as ended.
func TestTurnCauses(t *testing.T) {
	reign := func() *election.Beacon { return &election.Beacon{From: 1, Role: cluster.Master} }
	for want, last := range map[string]election.Beacon{
		EndSwitch:   {From: 1, Role: cluster.Master, Flags: election.HandingOver},
		EndStopped:  {From: 1, Role: cluster.Standby, Flags: election.Leaving},
		EndAside:    {From: 1, Role: cluster.Standby, Flags: election.Maintenance},
		EndFenced:   {From: 1, Role: cluster.Limbo},
		EndReleased: {From: 1, Role: cluster.Standby},
		EndSilence:  {From: 1, Role: cluster.Master},
	} {
		var x turns
		x.init()
		x.before = election.Reign{Term: 4, Owner: 1}
		x.heard(reign(), 100)
		x.heard(&last, 200)
		later := last
		if later.Flags&election.HandingOver != 0 { // what follows a handover that was flushed
			later = election.Beacon{From: 1, Role: cluster.Standby, Flags: election.Granted}
		}
		x.heard(&later, 300)
		if got := x.ended(0); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if want != EndSilence && x.released != 200 || x.last != 300 {
			t.Errorf("%s: released at %d, heard at %d", want, x.released, x.last)
		}
	}
	var x turns
	x.init()
	if x.ended(0) != EndNone {
		t.Errorf("got %s", x.ended(0))
	}
	x.before = election.Reign{Term: 4, Owner: 0}
	if x.ended(0) != EndAgain {
		t.Errorf("got %s", x.ended(0))
	}
}

// TestTurnsAreTold: real processes tell how they came to their reigns, in order of time.
func TestTurnsAreTold(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: real beat processes (-short)")
	}
	l := newLab(t, 2, "lan", "side")
	l.start(0)
	l.start(1)
	l.within(5*time.Second, "first master", func() bool { return l.only(0) })
	l.within(2*time.Second, "the start is told", func() bool {
		r := l.turned(0)
		return r.Cause == EndNone && r.Reign.Owner == "a" && !r.Announce.Before(r.Address) && !r.Address.IsZero() && r.Heard.IsZero()
	})
	l.within(2*time.Second, "b follows", func() bool { return l.report(1).Master == "a" })
	l.mu[0].Lock()
	l.words[0].Switch = SwitchOrder{1, "b"}
	l.mu[0].Unlock()
	l.within(2*time.Second, "switched", func() bool { return l.only(1) })
	l.within(2*time.Second, "the switch is told", func() bool {
		r := l.turned(1)
		return r.Cause == EndSwitch && r.From.Owner == "a" && r.Announce.After(r.Released) && r.Claim.IsZero()
	})
	l.within(2*time.Second, "a follows", func() bool { return l.report(0).Master == "b" && l.report(0).Class == cluster.InSync })
	l.mu[1].Lock()
	l.words[1].Fresh = cluster.Position{Term: 2, Seq: 17}
	l.mu[1].Unlock()
	l.within(2*time.Second, "a knows how far b is", func() bool { return l.report(0).Peers[0].Fresh.Seq == 17 })
	l.must(syscall.Kill(l.beats[1].Pid(), syscall.SIGSTOP))
	l.within(5*time.Second, "taken over", func() bool { return l.only(0) })
	l.within(2*time.Second, "the silence is told", func() bool { return l.turned(0).Cause == EndSilence })
	r := l.turned(0)
	t.Logf("%+v", r)
	for i, at := range []time.Time{r.Suspect, r.Claim, r.Began, r.Address, r.Announce} {
		if before := []time.Time{r.Heard, r.Suspect, r.Claim, r.Began, r.Address}[i]; before.IsZero() || at.Before(before) {
			t.Errorf("step %d is not in its place: %+v", i, r)
		}
	}
	if r.From.Owner != "b" || r.Fresh.Seq != 17 || !r.Released.IsZero() {
		t.Errorf("got %+v", r)
	}
}

// turned is the last turn that node i told.
func (l *lab) turned(i int) Turn {
	l.mu[i].Lock()
	defer l.mu[i].Unlock()
	if n := len(l.turns[i]); n > 0 {
		return l.turns[i][n-1]
	}
	return Turn{}
}
