package apply

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// A Flight is what was published and is not known to be durable yet. Only new
// names may fly (promise P8): a file that replaces another is synced before its
// rename even here. The journal learns the paths before they are published, so
// that a node that dies meanwhile owes them, and the changes only when all of the
// flight is on the disk; nothing is acknowledged before.
//
// While one flight is being synced the next one fills: under load a sync serves
// many batches, and nobody waits for a disk to see a new file.
type Flight struct {
	id      uint64
	files   []*tree.Draft         // to be synced
	many    bool                  // too many to hold open: the whole filesystem is synced
	dirs    map[string]*tree.Held // whose names changed; nil: opened when they are synced
	records []journal.Record
	batches uint64
	before  time.Time // nothing of a later flight was published before

	syncing sync.Mutex // held around the sync; guards what follows
	synced  bool
	err     error // sticks: after a failed fsync the next one may succeed without the bytes
}

// flights are those of an Applier, oldest first.
type flights struct {
	id     uint64  // of the last Fly
	open   *Flight // takes what is published now
	queue  []*Flight
	landed uint64 // batches that are durable and not yet taken
}

// MaxFlying bounds the operations that are published and not yet durable: about
// a megabyte of paths in the journal, and what a crash makes come again.
const MaxFlying = 1 << 14

// clockTick is how far the time of an inode may lie behind the clock: a kernel
// with 100 Hz stamps inodes every 10 ms.
const clockTick = 20 * time.Millisecond

// Fly publishes what is staged, which holds the ends of this many batches, and
// leaves it to Settle to make it durable. False: something in it may not be seen
// before it is durable; nothing was done, and Commit will do.
func (a *Applier) Fly(batches uint64) (bool, error) {
	if !a.mayFly() {
		return false, nil
	}
	f := a.flights.open
	if f == nil {
		f = &Flight{dirs: map[string]*tree.Held{}}
	}
	a.flights.id++ // a failed one is behind every flight that lands
	if err := a.announce(a.flights.id, wire.OpFile, wire.OpDir, wire.OpSymlink, wire.OpNode); err != nil {
		return true, err
	}
	a.step("fly")
	defer a.letGo()
	records, err := a.publishAhead()
	if err != nil {
		return true, err
	}
	for dir, m := range a.dirTimes {
		if err := a.setDirTime(dir, m); err != nil {
			return true, err
		}
	}
	a.board(f, records, batches)
	return true, nil
}

// announce journals what of these kinds is about to be published, before anything of it is seen. The flight is 0 if it
// will be durable before it is.
func (a *Applier) announce(flight uint64, kinds ...wire.OpKind) error {
	var ahead []journal.Record
	for i := range a.staged {
		s := &a.staged[i]
		if !slices.Contains(kinds, s.op.Kind) {
			continue
		}
		r := journal.Record{Kind: journal.Ahead, Path: s.op.Path, ID: flight, Looks: s.looks}
		switch s.op.Kind {
		case wire.OpFile:
			r.Pos.Seq = uint64(s.op.Meta.Size) + 1
		case wire.OpRename:
			looks, size, here := a.renaming(i)
			if !here {
				continue
			}
			r.Looks, r.Pos.Seq = looks, uint64(size+1)
		}
		ahead = append(ahead, r)
	}
	a.step("ahead")
	return a.o.Journal.Append(ahead...)
}

// renaming tells of the file that the staged rename at i will move: what the batch brings there before, or else what is there.
func (a *Applier) renaming(i int) (looks uint32, size int64, here bool) {
	old := a.staged[i].op.Old
	for _, s := range slices.Backward(a.staged[max(0, i-fewBefore):i]) {
		if s.op.Path == old {
			return s.looks, s.op.Meta.Size, s.op.Kind == wire.OpFile
		}
	}
	m, err := a.o.Root.Glance(old)
	return Looks(m), -1, err == nil && m.Kind == tree.File // the batch may bring another one farther before
}

// fewBefore is how far before a rename the file comes that it puts in its place: programs write and rename.
const fewBefore = 64

// board moves what was just published into the flight.
func (a *Applier) board(f *Flight, records []journal.Record, batches uint64) {
	f.id, f.batches = a.flights.id, f.batches+batches
	f.records = append(f.records, records...)
	for i := range a.staged {
		s := &a.staged[i]
		if s.f != nil && s.synced {
			s.close()
		} else if s.f != nil {
			f.files = append(f.files, s.f)
			s.f = nil
		} else if s.file != "" && !s.synced {
			f.many = true
		}
	}
	if f.many = f.many || len(f.files) > a.few; f.many {
		f.closeFiles()
	}
	for dir := range a.touched {
		if h := a.held[dir]; h != nil && f.dirs[dir] == nil && !f.many && f.held() < a.openDirs() {
			f.dirs[dir] = h
			delete(a.held, dir)
		} else if f.dirs[dir] == nil {
			f.dirs[dir] = nil
		}
	}
	a.flights.open = f
	a.reset()
}

// mayFly reports whether everything staged may be seen before it is durable, and
// touches nothing that a crash would have to explain otherwise.
func (a *Applier) mayFly() bool {
	if a.o.SyncFull || a.stays() || a.strange || len(a.kept.sets)+len(a.doubts) > 0 {
		return false
	}
	seen := make(map[string]bool, len(a.staged))
	for i := range a.staged {
		op := &a.staged[i].op
		switch op.Kind {
		case wire.OpNone, wire.OpDirTime:
			continue
		case wire.OpFile, wire.OpDir, wire.OpSymlink, wire.OpNode:
		default:
			return false
		}
		if seen[op.Path] {
			return false // the order counts
		}
		seen[op.Path] = true
		if op.Path == "" || op.ID != 0 {
			return false
		}
		if _, owed := a.owed.Get(op.Path); owed || op.Kind != wire.OpDir && len(a.owed.Under(op.Path)) > 0 {
			return false
		}
	}
	return true
}

// publishAhead publishes what is staged and returns its records in order. The
// kernel itself says whether a name is new (RENAME_NOREPLACE); the files that
// replace something are synced together and follow.
func (a *Applier) publishAhead() (records []journal.Record, err error) {
	each := make([][]journal.Record, len(a.staged))
	var replacing []int
	for i := range a.staged {
		s := &a.staged[i]
		a.step("publish")
		if s.op.Kind != wire.OpFile || a.o.Excluded(s.op.Path) {
			each[i], err = a.publish(s) // a directory that gives way is let go of
		} else if err = a.flyNew(s); isExist(err) {
			replacing, err = append(replacing, i), nil
		} else {
			each[i] = s.record(journal.Dirty)
		}
		if err != nil {
			return nil, fmt.Errorf("apply %q: %w", s.op.Path, err)
		}
	}
	if err := a.syncReplacing(replacing); err != nil {
		return nil, err
	}
	if len(replacing) > 0 {
		a.letGo()
	}
	for _, i := range replacing {
		a.step("replace")
		if each[i], err = a.publish(&a.staged[i]); err != nil {
			return nil, fmt.Errorf("apply %q: %w", a.staged[i].op.Path, err)
		}
	}
	return slices.Concat(each...), nil
}

// flyNew publishes staged content under a name that is not taken; fs.ErrExist if it is.
func (a *Applier) flyNew(s *staged) error {
	err := a.putNew(s)
	if tree.IsGone(err) {
		a.letGo()
		if err := a.makeParents(s.op.Path); err != nil {
			return err
		}
		err = a.putNew(s)
	}
	if err != nil {
		return err
	}
	a.noteAnswer(&s.op)
	a.stats.Files++
	a.stats.Bytes += s.op.Meta.Size
	a.touch(s.op.Path)
	a.there(s.op.Path)
	return nil
}

// syncReplacing makes the staged files durable that will replace something.
func (a *Applier) syncReplacing(replacing []int) error {
	if len(replacing) == 0 {
		return nil
	}
	if a.files > a.few {
		return a.o.Root.SyncAll()
	}
	files := make([]*tree.Draft, len(replacing))
	for k, i := range replacing {
		files[k] = a.staged[i].f
	}
	err := syncTogether(a.o.Root, files, nil)
	for _, i := range replacing {
		a.staged[i].synced = err == nil
	}
	return err
}

// Flying is the number of journal records that wait for their flight to land.
func (a *Applier) Flying() (n int) {
	if a.flights.open != nil {
		n = len(a.flights.open.records)
	}
	for _, f := range a.flights.queue {
		n += len(f.records)
	}
	return n
}

// Depart closes the open flight and returns the oldest that has not landed, nil if
// there is none. Its Sync may run while the Applier is used for other things.
func (a *Applier) Depart() *Flight {
	if f := a.flights.open; f != nil {
		f.before = time.Now().Add(-clockTick)
		a.flights.queue = append(a.flights.queue, f)
		a.flights.open = nil
	}
	if len(a.flights.queue) == 0 {
		return nil
	}
	return a.flights.queue[0]
}

// Sync makes everything of the flight durable. It may be called from any
// goroutine, and twice.
func (f *Flight) Sync(root *tree.Root) error {
	f.syncing.Lock()
	defer f.syncing.Unlock()
	if f.synced || f.err != nil {
		return f.err
	}
	f.err = f.sync(root)
	f.synced = f.err == nil
	f.closeFiles()
	return f.err
}

func (f *Flight) sync(root *tree.Root) error {
	if f.many {
		return root.SyncAll() // names included
	}
	return syncTogether(root, f.files, f.dirs)
}

func (f *Flight) closeFiles() {
	for _, file := range f.files {
		file.Close()
	}
	f.files = nil
	for dir, h := range f.dirs {
		if h != nil {
			h.Close()
			f.dirs[dir] = nil
		}
	}
}

// Land journals a flight that Depart returned and Sync made durable; nothing if it
// has landed already. It is acknowledged after the journal's next Sync.
func (a *Applier) Land(f *Flight) error {
	if len(a.flights.queue) == 0 || a.flights.queue[0] != f {
		return nil
	}
	if err := a.o.Journal.Append(append(f.records, journal.Record{Kind: journal.Landed, ID: f.id, At: f.before.UnixNano()})...); err != nil {
		return err
	}
	a.flights.queue[0] = nil // its records are not kept with the queue
	a.flights.queue = a.flights.queue[1:]
	a.flights.landed += f.batches
	a.stats.Commits++
	return a.trash.countRemovals(a.o.Now())
}

// Settle makes everything durable and journaled that flies.
func (a *Applier) Settle() error {
	for f := a.Depart(); f != nil; f = a.Depart() {
		a.step("flight")
		if err := f.Sync(a.o.Root); err != nil {
			return err
		}
		a.step("land")
		if err := a.Land(f); err != nil {
			return err
		}
	}
	return a.o.Journal.Sync()
}

// TakeLanded is how many batches have landed since it was last asked.
func (a *Applier) TakeLanded() (batches uint64) {
	batches, a.flights.landed = a.flights.landed, 0
	return batches
}

// ground settles what flies before an Applier is used for another stream. What
// cannot be made durable stays visible, and owed in the journal.
func (a *Applier) ground() {
	if err := a.Settle(); err != nil {
		a.o.Log.Warn("what was published last is not durable; it is asked for again", "err", err)
	}
	for _, f := range a.flights.queue {
		f.closeFiles()
		var owe []journal.Record
		for _, r := range f.records {
			delete(a.unproven, r.Path)
			owe = append(owe, journal.Record{Kind: journal.Owe, Path: r.Path})
		}
		if err := a.o.Journal.Append(owe...); err != nil {
			a.o.Log.Warn("nor can the journal be written; it owes them at the next start", "err", err)
		}
	}
	a.flights = flights{id: a.flights.id}
}
