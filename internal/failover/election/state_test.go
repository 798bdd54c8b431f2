package election

import (
	"testing"

	"revolve/internal/cluster"
)

// follower is node 1 of three, which has heard node 0 reign until now.
func follower(t *testing.T, now Time) State {
	cfg := Config{Self: 1, Count: 3, VIPLinks: 1, Timers: profile(t, "default")}
	for i := range 3 {
		cfg.Members[i].Candidate = true
	}
	s := New(cfg, Boot{}, now)
	s.Step(Event{Kind: Carrier, Now: now, Up: true})
	s.Step(Event{Kind: Said, Now: now, Word: &Word{Class: cluster.InSync, Reserved: 100}})
	s.Step(Event{Kind: Heard, Now: now, Beacon: &Beacon{Role: cluster.Master, Quality: 3, Reign: Reign{7, 0}, SeenTerm: 7}})
	s.Step(Event{Kind: Tick, Now: now})
	if s.Role() != cluster.Standby {
		t.Fatalf("role %v", s.Role())
	}
	return s
}

// A standby that was asleep accuses nobody: no probe, no claim, and what lay
// unread is thrown away.
func TestLateStandbyAccusesNobody(t *testing.T) {
	s := follower(t, Second)
	f := s.Step(Event{Kind: Tick, Now: 3 * Second})
	if !f.Drain || f.Probe != 0 || f.DeleteVIPs || s.claim.on {
		t.Errorf("%+v", f)
	}
	if m, ok := s.Master(); !ok || m != (Reign{7, 0}) {
		t.Errorf("master %v %v", m, ok)
	}
	f = s.Step(Event{Kind: Tick, Now: 3*Second + 99*Millisecond})
	if f.Probe != 0 {
		t.Error("suspicion before the suspect time has passed again")
	}
	f = s.Step(Event{Kind: Tick, Now: 3*Second + 100*Millisecond})
	if f.Probe != 1 {
		t.Errorf("probes %b after the suspect time", f.Probe)
	}
}

// An answer beyond the lifetime is no reason to claim: the heartbeats are blocked.
func TestBlockedHeartbeats(t *testing.T) {
	s := follower(t, Second)
	now, noted := Second, 0
	for now < 6*Second {
		now += 10 * Millisecond
		if now%(90*Millisecond) == 0 {
			s.Step(Event{Kind: Said, Now: now, Word: &Word{Class: cluster.InSync, Reserved: 100}})
		}
		f := s.Step(Event{Kind: Tick, Now: now})
		for _, n := range f.Notes[:f.NoteCount] {
			if n.Code == NoteClaim {
				t.Fatalf("claim at %d ms", now/Millisecond)
			}
		}
		if f.Probe != 0 {
			s.Step(Event{Kind: Probed, Now: now})
			f := s.Step(Event{Kind: Answer, Now: now})
			noted += int(f.NoteCount)
		}
	}
	if noted != 1 || !s.Blocked() {
		t.Errorf("noted %d times, blocked %v", noted, s.Blocked())
	}
}

// Terms: asked for in time, never beyond what is reserved, never twice.
func TestTerms(t *testing.T) {
	s := New(Config{Count: 1, Timers: profile(t, "default"), Members: [MaxNodes]Member{{Candidate: true}}}, Boot{SeenTerm: 3, Reserved: 16}, 0)
	if n := s.NeedTerms(); n <= 16 {
		t.Fatalf("needs terms up to %d", n)
	}
	run := func(reserved cluster.Term, from, to Time) {
		for now := from; now < to; now += 10 * Millisecond {
			s.Step(Event{Kind: Said, Now: now, Word: &Word{Class: cluster.InSync, Reserved: reserved}})
			s.Step(Event{Kind: Tick, Now: now})
		}
	}
	run(16, 0, 3*Second)
	if s.Role() == cluster.Master {
		t.Fatal("reigns without a reserved term")
	}
	run(40, 3*Second, 4*Second)
	if r, ok := s.Master(); !ok || r.Term != 17 {
		t.Errorf("reign %v %v, want term 17", r, ok)
	}
	if n := s.NeedTerms(); n != 0 {
		t.Errorf("needs terms up to %d with 23 left", n)
	}
}

func TestProfiles(t *testing.T) {
	for _, name := range []string{"", "default", "fast", "patient"} {
		profile(t, name)
	}
	if _, ok := Profile("turbo"); ok {
		t.Error("a profile that does not exist")
	}
	bad := profile(t, "default")
	bad.Fence = bad.Dead
	if bad.Wrong() == "" {
		t.Error("a fence as late as death is accepted")
	}
}

// A wish moves nothing by itself: the master's agent learns of it when it has
// stood for long enough, comes from a better node that is in-sync, and hold is off.
func TestWish(t *testing.T) {
	cfg := Config{Self: 1, Count: 2, Timers: profile(t, "default"), Members: [MaxNodes]Member{{Candidate: true, Priority: 200}, {Candidate: true, Priority: 100}}}
	s := New(cfg, Boot{SeenTerm: 1}, 0)
	word := Word{Class: cluster.InSync, Reserved: 100}
	peer := Beacon{Role: cluster.Standby, Class: cluster.InSync, Priority: 200, Flags: Wishing}
	peer.Hears[0] = 1 << 1
	run := func(from, to Time) {
		for now := from; now < to; now += 50 * Millisecond {
			s.Step(Event{Kind: Said, Now: now, Word: &word})
			s.Step(Event{Kind: Tick, Now: now})
			if now > 3*Second {
				s.Step(Event{Kind: Heard, Now: now, Beacon: &peer})
			}
		}
	}
	run(0, 60*Second)
	if i, ok := s.Wisher(); ok || s.Role() != cluster.Master {
		t.Fatalf("role %v, wisher %d after less than a minute", s.Role(), i)
	}
	run(60*Second, 70*Second)
	if i, ok := s.Wisher(); !ok || i != 0 {
		t.Fatalf("wisher %d %v", i, ok)
	}
	word.Hold = true
	run(70*Second, 71*Second)
	if _, ok := s.Wisher(); ok {
		t.Error("a wish is granted in spite of hold")
	}
	word.Hold, peer.Flags = false, 0
	run(71*Second, 72*Second)
	peer.Flags = Wishing
	run(72*Second, 80*Second)
	if _, ok := s.Wisher(); ok {
		t.Error("a wish that was withdrawn need not stand anew")
	}
}

// A witness grants to one at a time, and nothing just after its start.
func TestLease(t *testing.T) {
	p := profile(t, "default")
	l := NewLease(0, p)
	for _, q := range []struct {
		node uint8
		at   Time
		want bool
	}{{0, p.Dead - 1, false}, {0, p.Dead, true}, {1, p.Dead + 50*Millisecond, false}, {0, p.Dead + 100*Millisecond, true},
		{1, 2*p.Dead + 99*Millisecond, false}, {1, 2*p.Dead + 100*Millisecond, true}, {0, 2*p.Dead + 101*Millisecond, false}} {
		if got := l.Ask(q.node, false, q.at, p); got != q.want {
			t.Errorf("node %d at %d ms: %v", q.node, q.at/Millisecond, got)
		}
	}
}

// The witness's word lasts no longer because its node slept: the lease ran on meanwhile.
func TestGrantIsNotStretched(t *testing.T) {
	p := profile(t, "default")
	s := New(Config{Count: 2, VIPLinks: 1, Members: [MaxNodes]Member{{Candidate: true}, {Candidate: true}}, Timers: p, Isolation: Release, Witness: true}, Boot{}, 0)
	word := Word{Class: cluster.InSync, Reserved: 16}
	now := Time(0)
	step := func(e Event) Effects {
		e.Now = now
		return s.Step(e)
	}
	step(Event{Kind: Carrier, Up: true})
	for ; now < 5*Second; now += p.Heartbeat { // nobody else was ever heard
		step(Event{Kind: Said, Word: &word})
		step(Event{Kind: Witnessed, Up: true})
		step(Event{Kind: Tick})
	}
	now -= p.Heartbeat
	if !s.Holding() {
		t.Fatalf("it does not serve by the witness's word: %v", s.Role())
	}
	granted := now
	now += p.Heartbeat + 120*Millisecond // late by less than the fence time
	step(Event{Kind: Tick})
	if s.Holding() {
		t.Errorf("it serves %d ms after the witness's last word, whose lease is over after %d ms and may have begun a heartbeat before", (now-granted)/Millisecond, p.Dead/Millisecond)
	}
}

// A witness that has just started believes the first one that says that it leads, and
// only that one; and whoever gives the lease back lets the other one have it at once.
func TestLeaseLedAndGiven(t *testing.T) {
	p := profile(t, "default")
	l := NewLease(0, p)
	if l.Ask(1, false, 1, p) || !l.Ask(0, true, 2, p) || l.Ask(1, true, 3, p) || l.Ask(1, false, p.Dead, p) {
		t.Error("just after its start the witness believes the wrong one")
	}
	if got := l.Holder(p.Dead); got != 0 {
		t.Errorf("%d holds the lease", got)
	}
	l.Give(1, p.Dead)
	if l.Ask(1, true, p.Dead, p) {
		t.Error("a node gave back what it did not have")
	}
	l.Give(0, p.Dead)
	if l.Holder(p.Dead) != Nobody || !l.Free(1, p.Dead) || !l.Ask(1, false, p.Dead, p) || l.Ask(0, true, p.Dead, p) {
		t.Error("a lease that was given back is not free")
	}
	l.Give(0, p.Dead) // late, and not its own any more
	if l.Holder(p.Dead) != 1 {
		t.Error("a late farewell took the lease from the next one")
	}
}

// The profiles are the published ones.
func TestProfileTimers(t *testing.T) {
	want := map[string]Timers{
		"default": {Heartbeat: 50, Suspect: 100, Fence: 140, Dead: 200, Probe: 100, ClaimGap: 15},
		"fast":    {Heartbeat: 10, Suspect: 20, Fence: 30, Dead: 40, Probe: 20, ClaimGap: 5},
		"patient": {Heartbeat: 200, Suspect: 600, Fence: 1200, Dead: 1500, Probe: 100, ClaimGap: 30},
	}
	for name, w := range want {
		got := profile(t, name)
		for _, v := range []*Time{&w.Heartbeat, &w.Suspect, &w.Fence, &w.Dead, &w.Probe, &w.ClaimGap} {
			*v *= Millisecond
		}
		if got != w {
			t.Errorf("%s: %+v, want %+v", name, got, w)
		}
	}
}

// BenchmarkStep is the price of one heartbeat taken in, and of the tick after it, among 16 nodes.
func BenchmarkStep(b *testing.B) {
	s := cast{nodes: 16, links: 2, profile: "default", vips: 1}.world()
	for i := range s.n {
		s.start(i)
	}
	s.runFor(Second)
	st, beacon, now := &s.n[1].st, s.n[0].st.Beacon(), s.local(1)
	b.ReportAllocs()
	for b.Loop() {
		now += 1000
		st.Step(Event{Kind: Heard, Now: now, Beacon: &beacon})
		st.Step(Event{Kind: Tick, Now: now})
	}
}

// A master whose disk holds whoever asks gives way to a well candidate that has
// its data, in-sync or not; not to an ill one or a stale one: somebody serves.
func TestUnfitMasterGivesWay(t *testing.T) {
	for name, c := range map[string]struct {
		peer Beacon
		want bool
	}{
		"lagging": {Beacon{From: 1, Role: cluster.Standby, Class: cluster.Lagging}, true},
		"ill":     {Beacon{From: 1, Role: cluster.Standby, Class: cluster.InSync, Flags: Ill}, false},
		"stale":   {Beacon{From: 1, Role: cluster.Standby, Class: cluster.Stale}, false},
		"starts":  {Beacon{From: 1, Role: cluster.Listening, Class: cluster.InSync}, false},
	} {
		cfg := Config{Count: 2, VIPLinks: 1, Timers: profile(t, "default"), Members: [MaxNodes]Member{{Candidate: true}, {Candidate: true}}}
		s := New(cfg, Boot{Virgin: true}, 0)
		s.Step(Event{Kind: Carrier, Up: true})
		now := Time(0)
		word := Word{Class: cluster.InSync, Reserved: 16}
		live := func(until Time) (f Effects) {
			for now < until {
				now += 5 * Millisecond
				s.Step(Event{Kind: Said, Now: now, Word: &word})
				if s.Role() == cluster.Master {
					b := c.peer
					b.Hears[0] = 1
					s.Step(Event{Kind: Heard, Now: now, Beacon: &b})
				}
				if f = s.Step(Event{Kind: Tick, Now: now}); f.DeleteVIPs {
					return f
				}
			}
			return f
		}
		if live(5 * Second); s.Role() != cluster.Master {
			t.Fatalf("%s: %v", name, s.Role())
		}
		word.Unfit, word.Ill = true, true
		f := live(6 * Second)
		if f.DeleteVIPs != c.want || (s.Role() == cluster.Standby) != c.want {
			t.Errorf("%s: %+v, %v", name, f, s.Role())
		}
	}
}
