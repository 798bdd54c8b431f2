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
	if op.Seq != 0 && a.stays() || op.Path == "" && op.Kind != wire.OpDir && op.Kind != wire.OpDirTime {
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

// given is a path that a master told of: what it read there may be ahead of the record that it was read for, or there is no
// record at all yet, for a notification that it had not read. As long as it lives, the record comes.
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
	// maxTold and toldLast bound what was told with a record, which is every change: each is looked at anew when the master dies.
	maxTold  = 1024
	toldLast = 3 * time.Second
	// maxToldBytes bounds their paths: the debts of a stream that are more than a frame takes are one for everything.
	maxToldBytes = 128 << 10
)

// latest are the newest of a list that is bounded by most, oldest first.
type latest struct {
	list []given
	most int
}

// add appends g. Of twice as many as count the older half is forgotten at once.
func (l *latest) add(g given) {
	l.list = append(l.list, g)
	if len(l.list) >= 2*l.most {
		n := copy(l.list, l.list[len(l.list)-l.most:])
		clear(l.list[n:])
		l.list = l.list[:n]
	}
}

// counting are those that count.
func (l *latest) counting() []given { return l.list[max(0, len(l.list)-l.most):] }

// since forgets what is older.
func (l *latest) since(at time.Time) {
	i := 0
	for i < len(l.list) && l.list[i].at.Before(at) {
		i++
	}
	l.list = l.list[i:]
}

// fewNewest is how many of what was told last are looked through for each time of a directory.
const fewNewest = 16

// within reports whether one of the newest is in dir, or is it.
func (l *latest) within(dir string) bool {
	return slices.ContainsFunc(l.list[max(0, len(l.list)-fewNewest):], func(g given) bool { return g.path == dir || tree.Parent(g.path) == dir })
}

// by forgets what others than this master told.
func (l *latest) by(master cluster.NodeID) {
	l.list = slices.DeleteFunc(l.list, func(g given) bool { return g.by != master })
}

func (a *Applier) noteGiven(op *wire.Op) {
	switch op.Kind {
	case wire.OpFile, wire.OpGroup:
		if op.ID != 0 { // large: to ask for it again would send it again
			return
		}
	case wire.OpDir, wire.OpSymlink, wire.OpNode, wire.OpRemove, wire.OpSame:
	case wire.OpDirTime:
		if op.Path == "" || a.given.within(op.Path) || a.told.within(op.Path) { // told when a stream begins, or with what is in it
			return
		}
	case wire.OpRename:
		if op.Seq == 0 {
			return
		}
	default:
		return
	}
	list := &a.given
	if op.Seq != 0 && !a.behind || op.Kind == wire.OpDirTime {
		list = &a.told
	}
	now := a.o.Now()
	list.add(given{op.Path, op.Kind == wire.OpRemove, a.source, now})
	for _, name := range op.Names {
		list.add(given{name, op.Kind == wire.OpRemove, a.source, now})
	}
}

// CaughtUp is told when the stream has brought what the source had when it began. What came before was read for records that others
// may have had long ago, and may be newer than what they got: it counts as given.
func (a *Applier) CaughtUp() { a.behind = false }

// toldOfGiven forgets the answers whose records must have come: the stream goes on.
func (a *Applier) toldOfGiven(now time.Time) {
	a.given.since(now.Add(-givenLast))
	a.told.since(now.Add(-toldLast))
}

// loadTold takes what was told last before this node stopped from the journal. Where that has been trimmed trees are compared anyway.
func (a *Applier) loadTold() {
	reign, from := a.o.Journal.History().Reign(), a.o.Journal.Position()
	if reign.Owner == a.o.Node {
		return
	}
	from.Seq -= min(from.Seq, maxTold)
	tail, err := a.o.Journal.Tail(from, maxTold)
	if err != nil {
		return
	}
	for _, r := range tail {
		if r.Path != "" && r.Kind.IsChange() && r.Pos.Term == reign.Term {
			a.told.add(given{r.Path, r.Kind == journal.Removed, reign.Owner, a.o.Now()})
		}
	}
	for _, path := range slices.Concat(a.o.Announced, a.o.Answered) {
		a.given.add(given{path, false, reign.Owner, a.o.Now()}) // apart: they may be old, and push nothing out that was told last
	}
}

// maxProven bounds the bytes that Prove reads.
const maxProven = 64 << 20

// OweGiven owes, when another master is followed, what the last one may have given ahead of records that will not come: the
// others may have something else there. Where whole trees are compared anyway, what was told with a record is seen then.
func (a *Applier) OweGiven(master cluster.NodeID, compared bool) error {
	var debts []reconcile.Debt
	var anew []string
	told, bytes := a.told.counting(), 0
	if compared {
		told = nil
	}
	for i, g := range slices.Backward(told) {
		if bytes += len(g.path); bytes > maxToldBytes {
			told = told[i+1:]
			break
		}
	}
	for _, g := range slices.Concat(told, a.given.counting()) {
		if g.by == master {
			continue
		}
		if _, owed := a.owed.Get(g.path); !owed { // what is owed for another reason may not be here, or not on the disk
			anew = append(anew, g.path)
		}
		debts = append(debts, reconcile.Debt{Path: g.path})
	}
	a.given.by(master) // it may be lost still
	a.told.by(master)
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

// TakeGiven are the paths without a record for a new master, who tells them to the others.
func (a *Applier) TakeGiven() (list []Answer) {
	known := map[string]bool{}
	for _, g := range slices.Backward(a.given.counting()) { // the last word about a path counts
		if !known[g.path] && !tree.IsHidden(g.path) {
			known[g.path] = true
			list = append(list, Answer{g.path, g.gone})
		}
	}
	a.given.list, a.told.list = nil, nil // the others ask for what they were told themselves
	slices.Reverse(list)
	return list
}
