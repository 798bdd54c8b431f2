package election

import "revolve/internal/cluster"

// agent says a word every 100 ms, judges its data and keeps the record.
func (s *sim) agent(i int) {
	n := &s.n[i]
	if !n.up || n.agentDead {
		return
	}
	again := simEvent{kind: evWord, b: uint8(i), life: n.life}
	if wait := max(n.agentFrozen, n.asleep()); s.now < wait {
		s.push(wait-s.now+simLag, again)
		return
	}
	if !s.sticky {
		s.judge(i)
	}
	s.report(i)
	s.speak(i)
	s.push(simWord, again)
}

func (s *sim) speak(i int) {
	n := &s.n[i]
	n.word.Reserved = n.disk.reserved
	n.other = append(n.other, simEvent{kind: evWord})
	s.poke(i)
}

// report is the agent's reading of the beat's report: it notes terms, reserves
// more of them, notes who lives, and flushes a handover (agent, glue.go).
func (s *sim) report(i int) {
	n := &s.n[i]
	if !n.up || n.agentDead || s.now < n.agentFrozen {
		return
	}
	n.mem.seen = max(n.mem.seen, n.st.SeenTerm())
	if need := n.st.NeedTerms(); need > n.disk.reserved {
		n.mem.reserved = max(n.mem.reserved, need)
	}
	if n.st.Role() != cluster.Listening {
		n.mem.others = 0
		for j := range s.n {
			if j != i && s.peer(i, j).Alive {
				n.mem.others |= 1 << j
			}
		}
	}
	s.write(i)
	h := n.st.Handover()
	h.To = n.list.node(h.To)
	if h.ID != n.handID {
		n.handID, n.handSince = h.ID, s.now
	}
	if h.ID != 0 && !n.noFlush && !n.unfit && !s.sticky && n.word.Flushed != h.ID && s.now-n.handSince >= 10*Millisecond {
		if !s.reaches(i, int(h.To)) {
			return
		}
		s.n[h.To].pos = n.pos
		n.word.Flushed = h.ID
		s.speak(i)
	}
}

// write makes the record durable, one write at a time, as fast as the disk is.
func (s *sim) write(i int) {
	n := &s.n[i]
	if n.diskBusy || n.mem == n.disk {
		return
	}
	n.diskBusy, n.writing = true, n.mem
	if s.sticky {
		n.diskBusy, n.disk = false, n.mem
		return
	}
	s.push(simDisk, simEvent{kind: evDisk, b: uint8(i), life: n.life})
}

func (s *sim) written(i int) {
	n := &s.n[i]
	if !n.on {
		return
	}
	if s.now < n.diskUntil {
		s.push(simDisk, simEvent{kind: evDisk, b: uint8(i), life: n.life})
		return
	}
	more := n.writing.reserved > n.disk.reserved
	n.diskBusy, n.disk = false, n.writing
	s.write(i)
	if more && n.up && !n.agentDead && s.now >= max(n.agentFrozen, n.asleep()) {
		s.speak(i)
	}
}

// reaches: the mirror's stream from i to j, on any link.
func (s *sim) reaches(i, j int) bool {
	if !s.n[j].up || s.now < max(s.n[j].asleep(), s.n[j].agentFrozen) {
		return false
	}
	for l := range s.links {
		if s.open(i, j, l) && s.open(j, i, l) {
			return true
		}
	}
	return false
}

// judge is a rough mirror: the master's position grows, a standby that reaches
// it has the same one unless it lags, and is in-sync 300 ms after it has begun to
// follow. A standby that lags falls behind after a second.
func (s *sim) judge(i int) {
	n := &s.n[i]
	r, ok := s.lead(i)
	switch {
	case n.st.Role() == cluster.Master:
		n.pos = cluster.Position{Term: max(r.Term, n.pos.Term), Seq: n.pos.Seq + 1}
		n.behind, n.follows = false, never
	case !ok || int(r.Owner) >= len(s.n) || !s.reaches(i, int(r.Owner)) || s.n[r.Owner].st.Role() != cluster.Master:
		n.follows = never
	case n.lag:
		n.behind = n.behind || s.now-n.lagAt > Second
		n.follows = never
	default:
		if n.follows == never {
			n.follows = s.now
		}
		n.pos = s.n[r.Owner].pos
		n.behind = n.behind && s.now-n.follows < 300*Millisecond
	}
	n.word.Fresh, n.word.Class = n.pos, cluster.InSync
	if n.behind {
		n.word.Class = cluster.Lagging
	}
	n.word.Ill, n.word.Unfit = n.ill || n.unfit, n.unfit
}
