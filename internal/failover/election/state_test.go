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
