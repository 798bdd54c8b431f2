package election

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"revolve/internal/cluster"
)

// widen is the view of a cluster in which node 1 does not exist, put into the
// indices of one in which it does.
func widen(i uint8) uint8 {
	if i >= 1 && i != Nobody {
		return i + 1
	}
	return i
}

func widenSet(m uint16) uint16 { return m&1 | m&^1<<1 }

func widenBeacon(b Beacon) Beacon {
	b.From, b.Successor, b.Reign.Owner = widen(b.From), widen(b.Successor), widen(b.Reign.Owner)
	for l := range b.Hears {
		b.Hears[l] = widenSet(b.Hears[l])
	}
	return b
}

func drawEvent(t *rapid.T, count int, self uint8) Event {
	e := Event{Kind: rapid.SampledFrom([]Kind{Tick, Tick, Heard, Heard, Heard, Said, Carrier, Probed, Answer, Lost}).Draw(t, "kind")}
	node := uint8(rapid.IntRange(0, count-1).Draw(t, "node"))
	e.Node, e.Link, e.Up = node, uint8(rapid.IntRange(0, 1).Draw(t, "link")), rapid.Bool().Draw(t, "up")
	switch e.Kind {
	case Heard:
		for node == self {
			node = (node + 1) % uint8(count)
		}
		b := &Beacon{From: node, Role: cluster.Role(rapid.IntRange(int(cluster.Listening), int(cluster.Limbo)).Draw(t, "role")),
			Class: cluster.Class(rapid.IntRange(0, int(cluster.InSync)).Draw(t, "class")), Quality: 3, Good: 1, FenceMs: 140, Priority: 100,
			SeenTerm: cluster.Term(rapid.IntRange(0, 9).Draw(t, "seen")), Flags: Flags(rapid.IntRange(0, 127).Draw(t, "flags")),
			Successor: uint8(rapid.IntRange(0, count-1).Draw(t, "successor")),
			Reign:     Reign{cluster.Term(rapid.IntRange(0, 9).Draw(t, "term")), uint8(rapid.IntRange(0, count-1).Draw(t, "owner"))}}
		switch {
		case b.Reign.Term == 0: // as a node without a reign says it
			b.Reign.Owner = Nobody
			if b.holds() {
				b.Role = cluster.Standby
			}
		case b.holds():
			b.Reign.Owner = node
		}
		b.GrantTerm, b.ClaimTerm = b.Reign.Term+1, b.Reign.Term+1
		b.Hears[0] = uint16(rapid.IntRange(0, 1<<count-1).Draw(t, "hears"))
		e.Beacon = b
	case Said:
		e.Word = &Word{Class: cluster.InSync, Reserved: 64, Switch: Switch{uint64(rapid.IntRange(0, 3).Draw(t, "order")), uint8(rapid.IntRange(0, count-1).Draw(t, "to"))},
			Flushed: uint64(rapid.IntRange(0, 3).Draw(t, "flushed"))}
	}
	return e
}

// TestReshapeIsAsIfItHadAlwaysBeenSo: a node that learns of a new member stands
// where it would stand if it had known of it, silent, from the start; and one
// that forgets a silent member stands where it would stand had it never known it.
func TestReshapeIsAsIfItHadAlwaysBeenSo(t *testing.T) {
	timers := profile(t, "default")
	rapid.Check(t, func(t *rapid.T) {
		self := uint8(rapid.IntRange(0, 2).Draw(t, "self"))
		small := Config{Self: self, Count: 3, VIPLinks: 1, Timers: timers}
		large := Config{Self: widen(self), Count: 4, VIPLinks: 1, Timers: timers}
		for i := range 3 {
			small.Members[i] = Member{Candidate: true, Priority: 100}
			large.Members[widen(uint8(i))] = small.Members[i]
		}
		few, many := New(small, Boot{SeenTerm: 1}, 0), New(large, Boot{SeenTerm: 1}, 0)
		now := Time(0)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now += Time(rapid.IntRange(0, 60).Draw(t, "ms")) * Millisecond
			e := drawEvent(t, 3, self)
			e.Now = now
			few.Step(e)
			e.Node = widen(e.Node)
			if e.Beacon != nil {
				b := widenBeacon(*e.Beacon)
				e.Beacon = &b
			}
			if e.Word != nil {
				w := *e.Word
				w.Switch.To = widen(w.Switch.To)
				e.Word = &w
			}
			many.Step(e)
		}
		grow, shrink := [MaxNodes]uint8{0, Nobody, 1, 2}, [MaxNodes]uint8{0, 2, 3}
		for i := 4; i < MaxNodes; i++ {
			grow[i] = Nobody
		}
		for i := 3; i < MaxNodes; i++ {
			shrink[i] = Nobody
		}
		option := cmp.AllowUnexported(State{}, peer{}, Config{}, Boot{}, Member{}, Timers{}, Beacon{}, Reign{}, standing{}, Word{}, Switch{}, claim{}, handover{}, observation{}, Fitness{})
		if diff := cmp.Diff(many, few.Reshape(large, grow), option); diff != "" {
			t.Fatalf("grown differs (-always so +grown):\n%s", diff)
		}
		if diff := cmp.Diff(few, many.Reshape(small, shrink), option); diff != "" {
			t.Fatalf("shrunk differs (-always so +shrunk):\n%s", diff)
		}
	})
}

// TestWhoeverWasGrantedIsForgotten: a switch to a node that is removed meanwhile gives the addresses back.
func TestWhoeverWasGrantedIsForgotten(t *testing.T) {
	s := follower(t, 0)
	s.become(cluster.Master)
	s.newReign(5, cluster.InSync)
	s.word, s.hasWord, s.wordAt, s.carrier = Word{Class: cluster.InSync, Reserved: 64}, true, s.now, 0xff
	s.peers[0].holder = false
	s.hand = handover{id: 7, to: 2, since: s.now}
	cfg, was := s.cfg, [MaxNodes]uint8{0, 1}
	for i := 2; i < MaxNodes; i++ {
		was[i] = Nobody
	}
	cfg.Count = 2
	n := s.Reshape(cfg, was)
	if id, why := n.SwitchResult(); id != 7 || why != SuccessorLost {
		t.Errorf("result %d %v", id, why)
	}
	if f := n.Step(Event{Kind: Tick, Now: s.now + Millisecond}); !f.AddVIPs {
		t.Error("the addresses do not come back")
	}
}

func TestExpelledReleases(t *testing.T) {
	s := follower(t, 0)
	s.become(cluster.Master)
	s.newReign(5, cluster.InSync)
	s.word, s.hasWord, s.wordAt, s.carrier = Word{Class: cluster.InSync, Reserved: 64}, true, s.now, 0xff
	s.Step(Event{Kind: Expelled, Now: s.now})
	if f := s.Step(Event{Kind: Tick, Now: s.now}); !f.DeleteVIPs || s.Role() == cluster.Master {
		t.Errorf("it goes on as %v", s.Role())
	}
	if s.Class() != cluster.Barred {
		t.Errorf("class %v", s.Class())
	}
}

func TestANewerListBarsWhileItIsHeard(t *testing.T) {
	s := follower(t, 0)
	s.word, s.hasWord, s.wordAt, s.carrier = Word{Class: cluster.InSync, Reserved: 64}, true, s.now, 0xff
	s.penance = never
	before := s.Class()
	s.Step(Event{Kind: Newer, Now: s.now, Beacon: &Beacon{Role: cluster.Standby, Class: cluster.Barred}})
	if s.Class() != before {
		t.Errorf("class %v although the unknown node cannot lead", s.Class())
	}
	s.Step(Event{Kind: Newer, Now: s.now, Beacon: &Beacon{Role: cluster.Standby, Class: cluster.InSync}})
	if s.Class() != cluster.Barred || before == cluster.Barred {
		t.Errorf("class %v before, %v while a newer list is heard", before, s.Class())
	}
	s.now += s.cfg.Timers.Dead
	s.wordAt = s.now
	if s.Class() != before {
		t.Errorf("class %v after the silence", s.Class())
	}
}

func TestANewcomerDoesNotClaimBeforeAllKnowIt(t *testing.T) {
	s := follower(t, 0)
	hear := func(without bool) cluster.Class {
		s.Step(Event{Kind: Heard, Now: s.now, Beacon: &Beacon{From: 2, Role: cluster.Standby, Without: without}})
		return s.Class()
	}
	if c := hear(true); c != cluster.Barred {
		t.Errorf("class %v while a live node does not know this one", c)
	}
	if c := hear(false); c == cluster.Barred {
		t.Error("still barred when it does")
	}
}

func TestAMasterWithAnOldListYieldsToOneThatItDoesNotKnow(t *testing.T) {
	for name, tt := range map[string]struct {
		term  cluster.Term
		stays bool
	}{"lesser": {4, true}, "equal": {5, false}, "higher": {6, false}} {
		s := follower(t, 0)
		s.become(cluster.Master)
		s.newReign(5, cluster.InSync)
		s.peers[0].holder = false
		s.word, s.hasWord, s.wordAt, s.carrier = Word{Class: cluster.InSync, Reserved: 64}, true, s.now, 0xff
		s.Step(Event{Kind: Newer, Now: s.now, Beacon: &Beacon{Role: cluster.Master, Quality: 3, Reign: Reign{Term: tt.term}}})
		if f := s.Step(Event{Kind: Tick, Now: s.now}); f.DeleteVIPs == tt.stays {
			t.Errorf("%s term: released %v", name, f.DeleteVIPs)
		}
	}
}

func TestAMasterIsNotMuteBecauseOfOneWithAnOldList(t *testing.T) {
	s := follower(t, 0)
	s.become(cluster.Master)
	s.newReign(8, cluster.InSync)
	for range 40 {
		s.Step(Event{Kind: Said, Now: s.now, Word: &Word{Class: cluster.InSync, Reserved: 100}})
		s.Step(Event{Kind: Heard, Now: s.now, Beacon: &Beacon{From: 2, Role: cluster.Standby, Without: true}})
		s.Step(Event{Kind: Tick, Now: s.now + 25*Millisecond})
	}
	if s.Role() != cluster.Master {
		t.Errorf("it is %v", s.Role())
	}
}

// TestListeningLastsWhileTheAgentAsks: a node that may have missed a change does
// not lead, and nobody takes it for unfit meanwhile; whoever leads already is followed.
func TestListeningLastsWhileTheAgentAsks(t *testing.T) {
	cfg := Config{Self: 0, Count: 1, VIPLinks: 1, Timers: profile(t, "default")}
	cfg.Members[0].Candidate = true
	s := New(cfg, Boot{SeenTerm: 1}, 0)
	s.Step(Event{Kind: Carrier, Up: true})
	say := func(at Time, asking bool) {
		s.Step(Event{Kind: Said, Now: at, Word: &Word{Class: cluster.InSync, Reserved: 100, Asking: asking}})
		s.Step(Event{Kind: Tick, Now: at})
	}
	for at := Time(0); at < 2*Second; at += 50 * Millisecond {
		say(at, true)
	}
	if s.Role() != cluster.Listening || s.Class() == cluster.Barred {
		t.Errorf("while the agent asks: %v, %v", s.Role(), s.Class())
	}
	say(2*Second, false)
	if s.Role() != cluster.Standby {
		t.Errorf("after it: %v", s.Role())
	}
}
