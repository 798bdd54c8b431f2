package election

import "revolve/internal/cluster"

// PeerView is what a node knows of another one.
type PeerView struct {
	Ever    bool   // heard since this node's start
	Alive   bool   // heard within T_dead, and it did not say that it ends
	Suspect bool   // alive, but silent for longer than the suspect time
	Beacon  Beacon // its latest
	Heard   uint8  // bitmap of the links on which it was heard within T_dead
}

// Peer is the view of node i.
func (s *State) Peer(i int) PeerView {
	p := &s.peers[i]
	v := PeerView{Ever: p.ever, Alive: s.alive(i), Beacon: p.b}
	v.Suspect = v.Alive && s.now-p.last >= s.cfg.Timers.Suspect
	for l := range MaxLinks {
		if v.Alive && s.now-p.heard[l] < s.cfg.Timers.Dead {
			v.Heard |= 1 << l
		}
	}
	return v
}

// Role is this node's role.
func (s *State) Role() cluster.Role { return s.role }

// Class is this node's class as it counts for the others.
func (s *State) Class() cluster.Class { return s.class() }

// Holding reports whether the VIPs are to be up here now.
func (s *State) Holding() bool { return s.holding() }

// Master is the reign that is proven to last, this node's own or another's; ok
// is false when there is none.
func (s *State) Master() (r Reign, ok bool) {
	if s.role == cluster.Master {
		return s.reign, true
	}
	if i, ok := s.lead(); ok {
		return s.peers[i].stand.reign, true
	}
	return Reign{Owner: Nobody}, false
}

// SeenTerm is the highest term of any reign seen.
func (s *State) SeenTerm() cluster.Term { return s.seen }

// NeedTerms is the term up to which the agent should reserve, 0 if enough are reserved.
func (s *State) NeedTerms() cluster.Term {
	if s.nextTerm()+TermsAhead <= s.word.Reserved+1 {
		return 0
	}
	return s.nextTerm() + 2*TermsAhead
}

// Handover is the order whose flush is awaited; ID 0 if none is.
func (s *State) Handover() Switch {
	if s.hand.id == 0 || s.hand.granted {
		return Switch{}
	}
	return Switch{s.hand.id, s.hand.to}
}

// SwitchResult is the outcome of the last finished order; ID 0 if there was none.
func (s *State) SwitchResult() (id uint64, why Failure) { return s.resultID, s.result }

// Good is the bitmap of the VIP links that work here.
func (s *State) Good() uint8 { return s.good() }

// HearsOn is the bitmap of the nodes heard on link l within T_dead.
func (s *State) HearsOn(l int) uint16 { return s.hears(l) }

// Blocked reports whether a holder's card answers for the VIPs while its
// heartbeats do not arrive: something filters them, or its beat hangs.
func (s *State) Blocked() bool { return s.blocked != 0 }

// Stopped reports whether the node has ended in order.
func (s *State) Stopped() bool { return s.stopped }
