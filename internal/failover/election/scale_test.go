package election

import "testing"

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
