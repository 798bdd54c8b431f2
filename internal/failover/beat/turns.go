package beat

import (
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
)

// maxTurns bounds the turns that wait for the agent: it is told of each at once.
const maxTurns = 8

// turns watches how reigns end and begin, for the record of a failover. It
// decides nothing, and allocates only when this node begins a reign.
type turns struct {
	before   election.Reign // the last one that was known
	fresh    cluster.Position
	last     election.Time // when its owner was heard
	released election.Time
	why      string // it was released
	suspect  election.Time
	claim    election.Time

	open    bool // this node has begun a reign in the step that is carried out
	rival   uint8
	cause   string
	began   election.Time
	address election.Time
	sent    election.Time
	done    []Turn
}

// unset is the time of what did not happen: the loop's clock begins at 0.
const unset election.Time = -1

func (t *turns) init() {
	*t = turns{before: election.Reign{Owner: election.Nobody}, done: make([]Turn, 0, maxTurns)}
	t.forget()
}

func (t *turns) forget() {
	t.last, t.released, t.suspect, t.claim, t.address, t.sent = unset, unset, unset, unset, unset, unset
	t.why = ""
}

// heard takes note of what the owner of the last reign says of it.
func (t *turns) heard(b *election.Beacon, now election.Time) {
	if t.before.Term == 0 || b.From != t.before.Owner {
		return
	}
	t.last, t.suspect = now, unset
	holds := b.Role == cluster.Master && b.Flags&election.HandingOver == 0
	if holds {
		t.released, t.fresh = unset, b.Fresh
		return
	}
	if t.released != unset {
		return
	}
	t.released = now
	switch {
	case b.Flags&(election.HandingOver|election.Granted) != 0:
		t.why = EndSwitch
	case b.Flags&election.Leaving != 0:
		t.why = EndStopped
	case b.Flags&election.Maintenance != 0:
		t.why = EndAside
	case b.Role == cluster.Limbo:
		t.why = EndFenced
	default:
		t.why = EndReleased
	}
}

// begin looks at a step before it is carried out.
func (t *turns) begin(st *election.State, f *election.Effects, now election.Time) {
	for _, n := range f.Notes[:f.NoteCount] {
		switch n.Code {
		case election.NoteClaim:
			t.claim = now
		case election.NoteMaster:
			t.open, t.began, t.cause = true, now, ""
		case election.NoteWonOver:
			t.open, t.began, t.cause, t.rival = true, now, EndMet, n.Node
		}
	}
	if t.open {
		return
	}
	if r, ok := st.Master(); ok {
		if r != t.before {
			t.before = r
			t.forget()
		}
		if st.Role() != cluster.Master {
			t.watch(st, now)
		}
	} else if t.before.Term != 0 && st.Role() != cluster.Master {
		t.watch(st, now)
	}
}

// watch notes since when the last reign's owner is suspiciously silent.
func (t *turns) watch(st *election.State, now election.Time) {
	if int(t.before.Owner) >= election.MaxNodes || t.suspect != unset {
		return
	}
	if v := st.Peer(int(t.before.Owner)); v.Ever && (v.Suspect || !v.Alive) {
		t.suspect = now
	}
}

func (t *turns) held(now election.Time) {
	if t.open && t.address == unset {
		t.address = now
	}
}

func (t *turns) announced(now election.Time) {
	if t.open && t.sent == unset {
		t.sent = now
	}
}

// end writes the turn down, when its step has been carried out.
func (t *turns) end(l *loop) {
	if !t.open {
		return
	}
	t.open = false
	reign, ok := l.st.Master()
	if !ok || reign.Owner != l.names.self || len(t.done) == cap(t.done) {
		return
	}
	wall, now := time.Now(), l.now()
	at := func(x election.Time) time.Time {
		if x == unset {
			return time.Time{}
		}
		return wall.Add(-time.Duration(now - x))
	}
	turn := Turn{Reign: l.reign(reign), From: l.reign(t.before), Cause: t.ended(l.names.self), Began: at(t.began), Heard: at(t.last), Released: at(t.released),
		Suspect: at(t.suspect), Claim: at(t.claim), Address: at(t.address), Announce: at(t.sent), Fresh: t.fresh}
	if t.cause == EndMet {
		turn.From = cluster.Reign{Owner: l.names.name(t.rival)}
		turn.Heard, turn.Released, turn.Suspect, turn.Claim = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	}
	t.done = append(t.done, turn)
	t.before = reign
	t.forget()
}

// ended is why the reign before has ended.
func (t *turns) ended(self uint8) string {
	switch {
	case t.cause != "":
		return t.cause
	case t.before.Term == 0:
		return EndNone
	case t.before.Owner == self:
		return EndAgain
	case t.released != unset:
		return t.why
	}
	return EndSilence
}

func (l *loop) reign(r election.Reign) cluster.Reign {
	if r.Term == 0 {
		return cluster.Reign{}
	}
	return cluster.Reign{Term: r.Term, Owner: l.names.name(r.Owner)}
}

// reshaped follows a change of the members: indices mean other nodes now.
func (t *turns) reshaped(now func(uint8) uint8) {
	if t.before.Term == 0 {
		return
	}
	if t.before.Owner = now(t.before.Owner); t.before.Owner == election.Nobody {
		t.before.Term = 0
		t.forget()
	}
}
