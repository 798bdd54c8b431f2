package apply

import (
	"maps"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// maxAnswers bounds the paths that TakeAnswers returns.
const maxAnswers = 4096

// Answer is a path that a survivor answered for, to a new master and without a record.
type Answer struct {
	Path string
	Gone bool // the survivor said that nothing is there; what is only on its way to here is not gone
}

// noteAnswer remembers what a survivor says outside of the sequence. The last word about a path counts.
func (a *Applier) noteAnswer(op *wire.Op) {
	if op.Seq != 0 || op.Path == "" {
		return
	}
	if !a.stays() {
		a.noteGiven(op)
		return
	}
	if _, known := a.answers[op.Path]; !known && len(a.answers) >= maxAnswers {
		return
	}
	if a.answers == nil {
		a.answers = map[string]bool{}
	}
	a.answers[op.Path] = op.Kind == wire.OpRemove || op.Kind == wire.OpPaid
}

// TakeAnswers are the paths that survivors gave a new master without a record, in order: other standbys at
// the same position may have something else there. They are forgotten; all says that there may be more.
func (a *Applier) TakeAnswers() (list []Answer, all bool) {
	for _, path := range slices.Sorted(maps.Keys(a.answers)) {
		list = append(list, Answer{path, a.answers[path]})
	}
	a.answers = nil
	return list, len(list) >= maxAnswers
}

// given is a path that a master answered for outside of the sequence: what it said may be ahead of its records, for a
// notification that it had not read. As long as it lives, the record comes.
type given struct {
	path string
	gone bool
	by   cluster.NodeID
	at   time.Time
}

const (
	// maxGiven bounds the answers that count (some 100 bytes each), the newest; of twice as many the older half is forgotten at once.
	maxGiven = 4096
	// givenLast is how long a record may come after what it tells of was given: the watcher settles for up to 2 s.
	givenLast = 10 * time.Second
)

func (a *Applier) noteGiven(op *wire.Op) {
	switch op.Kind {
	case wire.OpFile, wire.OpGroup:
		if op.ID != 0 { // large: to ask for it again would send it again
			return
		}
	case wire.OpDir, wire.OpSymlink, wire.OpNode, wire.OpRemove:
	default:
		return
	}
	now := a.o.Now()
	for _, path := range append([]string{op.Path}, op.Names...) {
		a.given = append(a.given, given{path, op.Kind == wire.OpRemove, a.source, now})
	}
	if len(a.given) >= 2*maxGiven {
		n := copy(a.given, a.given[len(a.given)-maxGiven:])
		clear(a.given[n:])
		a.given = a.given[:n]
	}
}

// lately are the answers that count, oldest first.
func (a *Applier) lately() []given { return a.given[max(0, len(a.given)-maxGiven):] }

// toldOfGiven forgets the answers whose records must have come: the stream goes on.
func (a *Applier) toldOfGiven(now time.Time) {
	i := 0
	for i < len(a.given) && now.Sub(a.given[i].at) > givenLast {
		i++
	}
	a.given = a.given[i:]
}

// OweGiven owes, when another master is followed, what the last one gave ahead of records that will not come: the others may
// have something else there.
func (a *Applier) OweGiven(master cluster.NodeID) error {
	var debts []reconcile.Debt
	for _, g := range a.lately() {
		if g.by != master {
			debts = append(debts, reconcile.Debt{Path: g.path})
		}
	}
	a.given = nil
	return a.Owe(debts)
}

// TakeGiven are the same paths for a new master, who tells them to the others.
func (a *Applier) TakeGiven() (list []Answer) {
	known := map[string]bool{}
	for _, g := range slices.Backward(a.lately()) { // the last word about a path counts
		if !known[g.path] && !tree.IsHidden(g.path) {
			known[g.path] = true
			list = append(list, Answer{g.path, g.gone})
		}
	}
	a.given = nil
	slices.Reverse(list)
	return list
}
