package apply

import (
	"errors"
	"maps"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
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
	case wire.OpDir, wire.OpSymlink, wire.OpNode, wire.OpRemove, wire.OpSame:
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

// maxProven bounds the bytes that Prove reads.
const maxProven = 64 << 20

// OweGiven owes, when another master is followed, what the last one gave ahead of records that will not come: the others may
// have something else there.
func (a *Applier) OweGiven(master cluster.NodeID) error {
	var debts []reconcile.Debt
	var anew []string
	for _, g := range a.lately() {
		if g.by == master {
			continue
		}
		if _, owed := a.owed.Get(g.path); !owed { // what is owed for another reason may not be here, or not on the disk
			anew = append(anew, g.path)
		}
		debts = append(debts, reconcile.Debt{Path: g.path})
	}
	a.given = nil
	if err := a.Owe(debts); err != nil {
		return err
	}
	for _, rel := range anew {
		a.unproven[rel] = tree.Meta{}
	}
	return nil
}

// Prove adds to debts that OweGiven made what is here: most of it is what the new master has, too. What flew is settled by then.
func (a *Applier) Prove(debts []wire.Debt) error {
	if len(a.flights.queue) > 0 || a.flights.open != nil {
		return errors.New("apply: what is here is proven only when it is durable")
	}
	bytes, still := 0, map[string]tree.Meta{} // owed; what was paid is forgotten
	for i, d := range debts {
		rel := string(d.Path)
		if _, given := a.unproven[rel]; !given || d.Tree {
			continue
		}
		still[rel] = tree.Meta{}
		if bytes >= maxProven {
			continue
		}
		m, data, rests, err := a.o.Root.ReadSmall(rel, wire.InlineMax)
		if err != nil || !rests || int64(len(data)) != m.Size || m.Links > 1 {
			continue // it comes
		}
		bytes += len(data)
		debts[i].Sum = wire.SumOf(m, data)
		still[rel] = m
	}
	a.unproven = still
	return nil
}

// same pays what this node has proven to have, if it is still that: others may have written there since. It counts as given, for
// the source may be ahead of its records with it.
func (a *Applier) same(s *staged) ([]journal.Record, error) {
	rel := s.op.Path
	was, proven := a.unproven[rel]
	m, err := a.o.Root.Glance(rel)
	if err != nil && !tree.IsGone(err) {
		return nil, err
	}
	if !proven || err != nil || m.Inode != was.Inode || m.CTime != was.CTime || m.Size != was.Size {
		if _, owed := a.owed.Get(rel); owed {
			a.names = append(a.names, []byte(rel))
		}
		return nil, nil
	}
	a.origins.note(m.Inode, s.op.Meta.Origin)
	return a.paid(nil, rel), nil
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
