// Package apply writes what a source sent into a volume: durable before it
// replaces anything, atomic for whoever reads, and with nothing discarded.
//
// Operations are staged aside as they arrive. Commit then makes their contents
// durable, publishes them in order by rename, makes the names durable and only
// then moves the journal's position (promise P8): what is acknowledged is on
// the disk. What is replaced or deleted goes to the trash, what nobody else has
// to a divergent set.
//
// It never opens a connection and never decides whom to believe. One goroutine
// uses an Applier.
package apply

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

const (
	stagingDir = tree.Hidden + "/staging"
	// fewFiles: up to this many files are kept open and synced one by one; more are synced by one syncfs (P8),
	// which also waits for everything else that is dirty on the filesystem.
	fewFiles = 128
	// fewDirs is the same for directories. After the first fsync has committed the filesystem's journal the others cost microseconds.
	fewDirs = 1024
)

// Options say what an Applier works on.
type Options struct {
	Root     *tree.Root
	Journal  *journal.Journal
	Node     cluster.NodeID
	Excluded func(rel string) bool
	TrashAge time.Duration
	// TrashEvery and TrashQuota: zero is what P6 says, ten minutes and 5 %.
	TrashEvery time.Duration
	TrashQuota Quota
	Unclean    bool     // the process before this one did not end in order
	Announced  []string // what the process before this one was publishing, and may have published
	Answered   []string // what it had asked for, and was given last
	SyncFull   bool     // nothing flies: contents are durable before anything is seen of them
	Now        func() time.Time
	Stamp      func() time.Time // the clock by which inodes are stamped; nil: Now
	Log        *slog.Logger
	// Published is told of every name that appears, goes or is replaced. May be nil.
	Published func(rel string)
	// Step is told of every step before which a node may die. May be nil; a test dies there.
	Step func(name string)
}

// Applier applies operations to one volume.
type Applier struct {
	o     Options
	began time.Time
	trash trash
	stats Stats
	echo  echo
	own   own
	guard *Guard    // nil: nothing is applied
	moves []dirMove // directories that the source renamed lately

	term       cluster.Term   // reign of the next staged operation
	owed       reconcile.Owed // as the journal will hold it after the commit
	asked      reconcile.Owed // what this node itself asked the source for, under the names of now; some of it may have come
	theirs     reconcile.Owed // trees that the source will compare without being asked, under the names of now
	collapsed  int            // of the journal's debts, as known here
	staged     []staged
	unreceived *string  // of what the operation that was staged last says that nobody has it (staged.owed)
	few        int      // up to so many staged files are synced one by one
	drafts     []string // directories of the staging area, which take turns
	files      int      // staged files that are not yet durable
	bytes      int      // staged bytes
	next       uint64
	touched    map[string]bool       // directories whose names changed in this commit
	held       map[string]*tree.Held // of them, those that are open while a batch is published
	committing bool                  // what is staged is on the disk, and Commit publishes it
	dirTimes   map[string]tree.Meta  // times to set when the commit is published

	origins   origins
	transfers transfers
	missed    [][]byte             // paths to ask the source for, since a rename found nothing
	again     []string             // names to be asked for when the comparison is over: it could not link them, or an answer about them has to come
	unlike    []string             // files to be asked for then, since they look like another one
	names     [][]byte             // files to be asked for
	answers   map[string]bool      // paths that came to a new master and that no record is about, and whether they are gone; at most maxAnswers
	given     latest               // what a master answered lately
	told      latest               // what it told of lately with a record
	unproven  map[string]tree.Meta // paths that are owed for being given only, with what was proven of them
	source    cluster.NodeID       // who sends
	behind    bool                 // the stream has still to bring what the source had when it began
	offers    []uint64             // transfers that are needed
	have      []wire.Have          // what is here in their place

	flights flights

	kept      copies
	absent    Absent
	absentAt  time.Time       // when was looked for them last
	absentNew bool            // they are not written as they are
	unknown   *Set            // what no history explains
	strange   bool            // this tree has no history in common with the source's: whatever differs is kept
	unsure    map[string]bool // trees in which the times of directories may be ahead of what is in them
	doubts    map[string]bool // trees in which names may have come while nobody watched: extras are kept
}

type staged struct {
	op   wire.Op
	term cluster.Term // of the reign that op's sequence belongs to
	file string       // staged content
	// other: a transfer brought another inode than the one that it was offered for.
	other bool
	f     *tree.Draft // staged content that is open
	looks uint32      // of the staged content, as Looks

	synced bool // the content is durable
	owed   bool // by the source when its reign began, and by nobody had: whoever has something else there keeps it
}

// New prepares the volume's hidden directory and empties the staging area: what
// is in there was never published.
func New(o Options) (*Applier, error) {
	a := &Applier{
		o: o, began: o.Now(), touched: map[string]bool{}, held: map[string]*tree.Held{}, dirTimes: map[string]tree.Meta{},
		transfers: transfers{byID: map[uint64]*transfer{}}, given: latest{most: maxGiven}, told: latest{most: maxTold}, doubts: map[string]bool{}, unsure: map[string]bool{}, unproven: map[string]tree.Meta{},
		trash: trash{root: o.Root, every: o.trashEvery(), now: o.Now}, few: openFiles(),
	}
	a.trash.hold, a.trash.letGo = a.hold, a.letGo
	if err := o.Root.MkdirAll(tree.Hidden); err != nil {
		return nil, err
	}
	if err := o.Root.RemoveAll(stagingDir); err != nil {
		return nil, err
	}
	a.reload()
	a.loadAbsent()
	a.loadTold()
	if err := errors.Join(a.loadStrange(), a.loadOrigins()); err != nil {
		return nil, err
	}
	if o.Unclean { // a commit may have been half done; and what the process before published may be here and not on the disk; it would be taken for what came (P8)
		a.Unsure("")
		if err := o.Root.SyncAll(); err != nil {
			return nil, err
		}
	}
	return a, a.makeStaging()
}

// reload takes over what the journal holds.
func (a *Applier) reload() {
	a.term, a.owed = a.o.Journal.Position().Term, a.o.Journal.Owed()
	a.asked, a.theirs = a.owed.Clone(), reconcile.Owed{} // by whoever begins the next stream
}

// Pending is the number of staged operations and the bytes they hold.
func (a *Applier) Pending() (ops, bytes int) { return len(a.staged), a.bytes }

// maxStaged bounds the operations of one commit: a source closes a batch after
// 512 and a follower commits after 4,096.
const maxStaged = 1 << 16

// Stage takes an operation; file content is written aside at once.
func (a *Applier) Stage(op wire.Op) error {
	if len(a.staged) >= maxStaged {
		return fmt.Errorf("more than %d operations without the end of a batch", maxStaged)
	}
	if op.Kind == wire.OpBegun {
		a.term = cluster.Term(op.ID)
	}
	s := staged{op: op, term: a.term, owed: a.unreceived != nil && *a.unreceived == op.Path}
	if a.unreceived = nil; op.Kind == wire.OpDefer && op.Flag {
		a.unreceived = &op.Path
	}
	if op.Kind == wire.OpFile || op.Kind == wire.OpGroup && op.How == wire.GroupData && op.Meta.Kind == tree.File {
		if err := a.stageContent(&s); err != nil {
			return err
		}
	}
	s.op.Data = nil
	a.staged = append(a.staged, s)
	return nil
}

func (a *Applier) setMeta(f *os.File, m tree.Meta) error {
	not, err := tree.SetMeta(f, m)
	a.stats.refused(not)
	return err
}

func (a *Applier) setMetaAt(rel string, m tree.Meta) error {
	not, err := a.o.Root.SetMetaAt(rel, m)
	a.stats.refused(not)
	return err
}

// Abort settles what flies and drops what is staged. No second connection may be served meanwhile.
func (a *Applier) Abort() {
	a.ground()
	for i := range a.staged {
		_ = a.drop(&a.staged[i]) // what stays is removed at the next start
	}
	a.reset()
	a.dropTransfers(func(string) bool { return true })
	a.sweep()
	a.missed, a.offers, a.have, a.again, a.unlike, a.names = nil, nil, nil, nil, nil, nil
	a.unreceived = nil
	if err := a.writeAbsent(); err != nil {
		a.o.Log.Warn("what a person is to decide about is not written for the next start", "err", err)
	}
	a.reload()
}

func (a *Applier) reset() {
	a.staged, a.files, a.bytes = a.staged[:0], 0, 0
	clear(a.touched)
	clear(a.dirTimes)
}

// Commit publishes what is staged and journals it. When it returns nil,
// everything staged, and whatever flew before, is durable and the journal stands at the batch's end.
func (a *Applier) Commit() error {
	if err := a.Settle(); err != nil {
		return err
	}
	if len(a.staged) == 0 {
		return a.o.Journal.Sync()
	}
	a.step("contents")
	if err := a.syncContents(); err != nil {
		return err
	}
	if err := a.announce(0, wire.OpFile, wire.OpRename); err != nil {
		return err
	}
	records, err := a.publishStaged()
	defer a.letGo()
	if err != nil {
		return err
	}
	a.askOrphans()
	for dir, m := range a.dirTimes {
		if err := a.setDirTime(dir, m); err != nil {
			return err
		}
	}
	a.step("names")
	if err := syncTogether(a.o.Root, nil, byPath(a.touched)); err != nil {
		return err
	}
	a.step("journal")
	landed := journal.Record{Kind: journal.Landed, ID: a.flights.id, At: time.Now().Add(-clockTick).UnixNano()}
	if err := a.o.Journal.Append(append(records, landed)...); err != nil {
		return err
	}
	if n := a.o.Journal.Collapsed(); n != a.collapsed { // too many debts: everything is to be compared
		a.collapsed = n
		a.reload()
		a.missed = append(a.missed, []byte(""))
	}
	a.stats.Commits++
	a.reset()
	a.step("acknowledge")
	return errors.Join(a.o.Journal.Sync(), a.trash.countRemovals(a.o.Now()))
}

// publishStaged publishes everything staged, in order.
func (a *Applier) publishStaged() ([]journal.Record, error) {
	records := make([]journal.Record, 0, len(a.staged))
	a.committing = true
	defer func() { a.committing = false }()
	for i := range a.staged {
		s := &a.staged[i]
		a.step("publish")
		more, err := a.publish(s)
		switch s.op.Kind {
		case wire.OpFile, wire.OpDirTime, wire.OpNone:
		case wire.OpRemove, wire.OpDir: // they let go if a directory moves
		default:
			a.letGo() // directories may have moved
		}
		if err != nil {
			return nil, fmt.Errorf("apply %q: %w", s.op.Path, err)
		}
		records = append(records, more...)
		if err := s.close(); err != nil {
			return nil, err
		}
	}
	return records, nil
}

func (a *Applier) step(name string) {
	if a.o.Step != nil {
		a.o.Step(name)
	}
}

// Idle does what is due now and then, also when no operations come: the last of many removals may
// have been too soon after a count to be counted.
func (a *Applier) Idle() error {
	a.toldOfGiven(a.o.Now())
	return errors.Join(a.trash.countRemovals(a.o.Now()), a.lookForAbsent(a.o.Now()))
}

func (a *Applier) setDirTime(dir string, m tree.Meta) error {
	h := a.held[dir]
	if h == nil {
		var err error
		if h, err = a.o.Root.Hold(dir); err != nil {
			return a.setDirTimeAt(dir, m) // it need not be a directory, nor readable
		}
		defer h.Close()
	}
	have, err := h.Meta()
	if err != nil || !have.Same(m, tree.Refused{}) {
		return a.setDirTimeAt(dir, m)
	}
	if have.MTime == m.MTime {
		return nil
	}
	return h.SetTime(m.MTime)
}

func (a *Applier) setDirTimeAt(dir string, m tree.Meta) error {
	have, err := a.o.Root.Lstat(dir)
	if err != nil || have.Kind != tree.Dir {
		return ignoreGone(err)
	}
	if have.Same(m, tree.Refused{}) { // as nearly always: only its names changed
		return ignoreGone(a.o.Root.SetTime(dir, m.MTime))
	}
	return ignoreGone(a.setMetaAt(dir, m))
}

// publish performs one staged operation and returns its journal records.
func (a *Applier) publish(s *staged) ([]journal.Record, error) {
	op := &s.op
	if op.Path != "" && a.o.Excluded(op.Path) {
		return s.record(journal.Dirty), nil
	}
	a.noteAnswer(op)
	records, err := a.publishOne(s)
	if err == nil {
		a.explains(op)
	}
	return a.voidBelow(records, op), err
}

func (a *Applier) publishOne(s *staged) ([]journal.Record, error) {
	op := &s.op
	switch op.Kind {
	case wire.OpFile:
		return a.publishOwed(s)
	case wire.OpGroup:
		return a.publishGroup(s)
	case wire.OpDir:
		made, err := a.publishDir(op.Path, op.Meta)
		records, err := a.paidBy(s, err)
		if made && op.Seq == 0 && err == nil { // an answer, and no record tells what is in it
			records = a.miss(records, op.Path)
		}
		return records, err
	case wire.OpSymlink, wire.OpNode:
		return a.paidBy(s, a.publishMade(op.Path, op.Meta))
	case wire.OpRemove:
		if err := a.remove(op.Path); err != nil {
			return nil, err
		}
		records := a.paid(s.record(journal.Removed), op.Path)
		if op.Seq == 0 { // no Removed record will say it
			for _, d := range a.owed.Under(op.Path) {
				records = append(records, journal.Record{Kind: journal.Paid, Path: d.Path, Below: d.Tree})
			}
		}
		a.owed.Removed(op.Path)
		a.asked.Removed(op.Path)
		a.theirs.Removed(op.Path)
		a.forgetKept(op.Path)
		return records, nil
	case wire.OpRename:
		return a.rename(s)
	case wire.OpDefer:
		return a.deferred(s)
	case wire.OpDirTime:
		a.dirTimes[op.Path] = op.Meta
		return nil, nil
	case wire.OpTree:
		if op.Flag && op.Seq == 0 {
			a.theirs.Add(reconcile.Debt{Path: op.Path, Tree: true})
		}
		return a.owe(s.record(journal.Tree), reconcile.Debt{Path: op.Path, Tree: true}), nil
	case wire.OpPaid:
		return a.treePaid(op.Path), nil
	case wire.OpSame:
		return a.same(s)
	case wire.OpBegun:
		return []journal.Record{{Kind: journal.Begun, Reign: cluster.Reign{Term: cluster.Term(op.ID), Owner: cluster.NodeID(op.Old)}}}, nil
	case wire.OpNone:
		return s.record(journal.Dirty), nil
	}
	return nil, fmt.Errorf("unknown operation %d", op.Kind)
}

// record is the journal's entry for the operation, none if it is an answer outside of the sequence.
func (s *staged) record(kind journal.Kind) []journal.Record {
	if s.op.Seq == 0 {
		return nil
	}
	return []journal.Record{{
		Kind: kind, Pos: cluster.Position{Term: s.term, Seq: s.op.Seq}, Path: s.op.Path, Old: s.op.Old,
		Below: kind == journal.Tree && s.op.Flag || kind == journal.Dirty && s.owed,
	}}
}
