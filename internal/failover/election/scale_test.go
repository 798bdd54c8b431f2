package election

import (
	"testing"

	"revolve/internal/cluster"
)

// What 16 nodes cost, and how long a power cut of the master lasts: docs/failover.md,
// "Scale", has the numbers that this prints. It fails if the time depends on the number of nodes.
func TestScale(t *testing.T) {
	const cuts = 4
	for _, name := range []string{"default", "fast", "patient"} {
		p := profile(t, name)
		var longest [MaxNodes + 1]Time
		for _, nodes := range []int{2, 3, 8, MaxNodes} {
			sum, sent := Time(0), 0.0
			for seed := range uint64(cuts) {
				d, rate := powerCut(t, name, nodes, seed)
				sum, sent = sum+d, sent+rate
				longest[nodes] = max(longest[nodes], d)
			}
			t.Logf("%-7s %2d nodes, 2 links: %5.0f packets/s sent by a node; power cut: mean %4d ms, longest %4d ms from the last heartbeat",
				name, nodes, sent/cuts, sum/cuts/Millisecond, longest[nodes]/Millisecond)
		}
		if limit := p.Dead + p.Probe + p.ClaimGap + p.Heartbeat; longest[MaxNodes] > limit {
			t.Errorf("%s: a power cut among %d nodes lasts %d ms, more than %d", name, MaxNodes, longest[MaxNodes]/Millisecond, limit/Millisecond)
		}
	}
}

// powerCut is the time from the last heartbeat of a master to the first announcement of
// the next one, and how many packets a node sends in a second before.
func powerCut(t *testing.T, profile string, nodes int, seed uint64) (Time, float64) {
	s := cast{nodes: nodes, links: 2, profile: profile, seed: seed + 1, vips: 1}.world()
	for i := range s.n {
		s.start(i)
	}
	s.runFor(5*Second + Time(seed)*7*Millisecond)
	before := s.packets()
	s.runFor(Second)
	rate := float64(s.packets()-before) / float64(nodes)
	m := s.settled()
	if m < 0 {
		t.Fatalf("%d nodes have no master", nodes)
	}
	last := s.n[m].sentAt
	s.crash(m)
	for begun := s.begun; s.begun == begun; {
		s.runFor(Millisecond)
		if s.now-last > 20*Second || len(s.bad) > 0 {
			t.Fatalf("%d nodes: nobody takes over: %v", nodes, s.bad)
		}
	}
	return s.now - last, rate
}

// packets is how many heartbeats were ever sent.
func (s *sim) packets() (n int) {
	for i := range s.n {
		for j := range s.n {
			n += int(s.n[i].outSeq[j]) * s.links
		}
	}
	return n
}

// learner is a node of the design in docs/failover.md, "Scale": it takes no part in the
// heartbeats, has a stream from the master, and asks the candidates in turn when that falls silent.
type learner struct {
	follows int
	heard   Time // the last frame of the stream
	turn    int  // whom it asks next
	busy    Time // waiting for an answer until then
}

const (
	learnerRTT  = 200_000          // an answer of a candidate that runs
	learnerWait = 50 * Millisecond // for one that does not; also between two rounds
)

// step is a millisecond of a learner; asked counts its questions.
func (l *learner) step(s *sim, asked *[MaxNodes]int) {
	t := s.cfg.Timers
	if l.follows >= 0 && s.leading(l.follows) && (s.now/Millisecond)%(t.Dead/2/Millisecond) == 0 {
		l.heard = s.now
	}
	if l.follows >= 0 && s.now-l.heard <= t.Dead {
		return
	}
	for l.follows = -1; l.busy <= s.now; {
		who := l.turn % len(s.n)
		l.turn++
		asked[who]++
		if !s.n[who].up {
			l.busy = s.now + learnerWait
			return
		}
		if r, ok := s.lead(who); ok && s.leading(int(r.Owner)) {
			l.follows, l.heard = int(r.Owner), s.now
			return
		}
		if l.busy = max(l.busy, s.now) + learnerRTT; l.turn%len(s.n) == 0 {
			l.busy = s.now + learnerWait
		}
	}
}

func (s *sim) leading(i int) bool { return i < len(s.n) && s.n[i].up && s.n[i].role == cluster.Master }

// 100 learners of 16 candidates, of which one loses its power as master: how long until the last one
// follows the next, and how many questions come in on the way. The streams are not simulated packet by packet.
func TestScaleOfLearners(t *testing.T) {
	s := cast{nodes: MaxNodes, links: 2, profile: "default", seed: 1, vips: 1}.world()
	for i := range s.n {
		s.start(i)
	}
	s.runFor(5 * Second)
	old := s.settled()
	learners := make([]learner, 100)
	var asked [MaxNodes]int
	for k := range learners {
		learners[k] = learner{follows: old, heard: s.now, turn: k}
	}
	for range 500 {
		s.runFor(Millisecond)
		for k := range learners {
			learners[k].step(s, &asked)
		}
	}
	last := s.n[old].sentAt
	s.crash(old)
	for done := 0; done < len(learners); {
		s.runFor(Millisecond)
		done = 0
		for k := range learners {
			learners[k].step(s, &asked)
			if f := learners[k].follows; f >= 0 && f != old {
				done++
			}
		}
		if s.now-last > 20*Second {
			t.Fatalf("only %d of %d learners follow", done, len(learners))
		}
	}
	most, all := 0, 0
	for _, n := range asked {
		most, all = max(most, n), all+n
	}
	t.Logf("the last of %d learners follows the new master %d ms after the old one's last heartbeat; %d questions, at most %d to one candidate",
		len(learners), (s.now-last)/Millisecond, all, most)
	if limit := s.cfg.Timers.Dead*5/2 + 2*learnerWait; s.now-last > limit {
		t.Errorf("it took longer than %d ms", limit/Millisecond)
	}
}
