// Package links knows which names an inode of the volume has, for the few inodes
// that have more than one.
//
// The kernel tells a change under the name that was used, and no file system
// that we support tells an inode's other names. A Finder reads the directories'
// names (no inode is looked at) when a reign begins and when a name is
// missing, keeps the names of what turned up twice, and is told of what comes, goes
// and is renamed. Inodes with one name cost it sixteen bytes for a while, and nothing else.
//
// It never writes, and never decides what becomes of a group. Every name that it
// gives was looked at in that moment.
//
//	f := links.New(root, excluded)
//	go f.Run(ctx, func(names []string) error { return journal(names) })
//	names, sure := f.Names("a", meta)
package links

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"revolve/internal/mirror/tree"
)

const (
	// maxNames bounds the names read by one scan (16 bytes each while they are kept); what lies beyond is not found.
	maxNames = 16 << 20
	// maxKnown bounds the names of multi-linked inodes that are remembered (about 200 bytes each); beyond it they are found by scans only.
	maxKnown = 250_000
	// maxQueue bounds the changes whose other names are still to be found; beyond it Lost is reported.
	maxQueue = 100_000
	// keepTable is how long what a scan read is kept for the next question.
	keepTable = time.Minute
	// pace: a scan begins no sooner after the last than this many times what that one took.
	pace = 4
	// lately is how long a name that was not found may still turn up because a directory moved under the scan; events are read within seconds.
	lately = 10 * time.Second
)

// Finder finds names. Its methods may be called from any goroutine.
type Finder struct {
	root     *tree.Root
	excluded func(rel string) bool
	wake     chan struct{} // holds one token when there is work for Run

	mu     sync.Mutex
	known  map[uint64]map[string]bool // names of inodes that have more than one
	paths  map[string]uint64          // the same the other way round
	table  []place                    // of everything, in order of inode; nil if it was let go of
	dirs   []string
	asked  map[uint64]int // number of scans begun when an inode's names were not all known
	short  map[uint64]int // names of an inode that a scan did not find: they are not in the volume
	doubts []doubt
	queue  []change
	lost   bool
	busy   bool          // what was taken from the queue is being followed
	wanted bool          // a scan is
	begun  int           // scans
	made   int           // number of the scan that made the table
	moved  bool          // directories were renamed since the last scan began
	turns  int           // renames of directories that were told
	then   int           // of these, when the scan began that made the table
	done   chan struct{} // closed when the next scan ends
	used   time.Time
	stats  Stats
}

// Stats count what a Finder did.
type Stats struct{ Asked, Scans, Looks int }

type place struct {
	inode uint64
	dir   uint32
}

// doubt is an inode of which a scan found fewer names than it has.
type doubt struct {
	inode uint64
	path  string
	at    time.Time
}

// change is a change of an inode that was told under one of its names.
type change struct {
	inode  uint64
	path   string
	linked bool // path is a new name: there was another, which may not be known
}

// New makes a Finder for the volume at root; excluded names are found, and not given.
func New(root *tree.Root, excluded func(rel string) bool) *Finder {
	f := &Finder{root: root, excluded: excluded, wake: make(chan struct{}, 1), done: make(chan struct{})}
	f.Reset()
	return f
}

// Reset forgets everything: others changed the tree meanwhile.
func (f *Finder) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known, f.paths = map[uint64]map[string]bool{}, map[string]uint64{}
	f.asked, f.short = map[uint64]int{}, map[uint64]int{}
	f.table, f.dirs, f.doubts, f.queue, f.lost = nil, nil, nil, nil, false
}

// Look asks for a scan: a reign begins, and whatever has two names is to be known.
func (f *Finder) Look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wantLocked()
}

func (f *Finder) wantLocked() {
	f.wanted = true
	f.signal()
}

func (f *Finder) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Stats returns the counters.
func (f *Finder) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// Busy reports whether the other names of something that changed are still to be told.
func (f *Finder) Busy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.busy || len(f.queue) > 0 || f.lost
}

// Scanned returns a channel that is closed when the next scan ends.
func (f *Finder) Scanned() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

// Note says that path is a name of the inode, which has several.
func (f *Finder) Note(path string, inode uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noteLocked(path, inode)
}

func (f *Finder) noteLocked(path string, inode uint64) {
	if was, ok := f.paths[path]; ok && was == inode {
		return
	}
	f.forgetLocked(path)
	if len(f.paths) >= maxKnown {
		return
	}
	if f.known[inode] == nil {
		f.known[inode] = map[string]bool{}
	}
	delete(f.short, inode) // a new name, or a new inode of the same number
	f.known[inode][path], f.paths[path] = true, inode
}

func (f *Finder) forgetLocked(path string) {
	inode, ok := f.paths[path]
	if !ok {
		return
	}
	delete(f.paths, path)
	delete(f.known[inode], path)
	if len(f.known[inode]) == 0 {
		delete(f.known, inode)
	}
}

// Changed says that what is at path changed; inode is its number if the
// watcher knows that it is a further name of it, else 0. The other names are found and given to
// Run's function: the change is theirs, too, even if path is gone by then.
func (f *Finder) Changed(path string, inode uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	linked := inode != 0
	if !linked {
		inode = f.paths[path]
	}
	if inode == 0 {
		return
	}
	f.noteLocked(path, inode)
	f.queueLocked(change{inode, path, linked})
}

// Removed says that path, and all below it if it was a directory, are gone. The kernel merges a change
// with the removal that follows it, so the other names may have changed.
func (f *Finder) Removed(path string, dir bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.paths) > 0 {
		f.removeLocked(path, dir)
	}
}

func (f *Finder) removeLocked(path string, dir bool) {
	for _, p := range f.atLocked(path, dir) {
		if inode, ok := f.paths[p]; ok {
			f.queueLocked(change{inode: inode, path: p})
			f.forgetLocked(p)
		}
	}
}

func (f *Finder) queueLocked(c change) {
	if len(f.queue) >= maxQueue {
		f.queue, f.lost = nil, true
	}
	f.queue = append(f.queue, c)
	f.signal()
}

// Renamed says that old, with all below it if it is a directory, is now path.
func (f *Finder) Renamed(old, path string, dir bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if dir {
		f.turnedLocked(old, path)
	}
	if len(f.paths) > 0 {
		if f.paths[path] != f.paths[old] {
			f.removeLocked(path, dir)
		}
		for _, p := range f.atLocked(old, dir) {
			if inode, ok := f.paths[p]; ok {
				f.forgetLocked(p)
				f.noteLocked(tree.Moved(p, old, path), inode)
			}
		}
	}
	for i, d := range f.dirs {
		if dir && tree.Below(d, old) {
			f.dirs[i] = tree.Moved(d, old, path)
		}
	}
}

// atLocked are the known names at path and, if it is a directory, below it.
func (f *Finder) atLocked(path string, dir bool) (names []string) {
	if !dir {
		return []string{path}
	}
	for p := range f.paths {
		if tree.Below(p, path) {
			names = append(names, p)
		}
	}
	return names
}

// doubtLocked notes that a scan did not find all names of an inode. It is looked for anew at once if a directory's rename
// was told since that scan began: they may be below it.
func (f *Finder) doubtLocked(path string, inode uint64, missing int) {
	if f.turns != f.then {
		f.asked[inode] = f.begun
		f.wantLocked()
		f.queueLocked(change{inode: inode, path: path})
		return
	}
	delete(f.asked, inode)
	if len(f.short) >= maxKnown {
		clear(f.short)
	}
	f.short[inode] = missing
	if len(f.doubts) < maxQueue {
		f.doubts = append(f.doubts, doubt{inode, path, time.Now()})
	}
}

// turnedLocked looks anew for the names that were lacking lately: a directory's rename has just been told, and they may be
// below it. What is found is told as changed, behind the rename: so every follower gets it, and owes it until then.
func (f *Finder) turnedLocked(old, path string) {
	f.turns++
	f.moved = true
	for _, d := range f.doubts {
		if time.Since(d.at) >= lately {
			continue
		}
		if tree.Below(d.path, old) {
			d.path = tree.Moved(d.path, old, path)
		}
		f.queueLocked(change{inode: d.inode, path: d.path})
	}
	f.doubts = nil
	clear(f.short)
}

// Names returns the other names in the volume of the inode that m, just read at
// path, describes. sure is false if there may be more: then a scan is under
// way, and the answer comes after it.
func (f *Finder) Names(path string, m tree.Meta) (names []string, sure bool) {
	f.mu.Lock()
	f.stats.Asked++
	f.used = time.Now()
	f.noteLocked(path, m.Inode)
	candidates := map[string]bool{}
	for p := range f.known[m.Inode] {
		candidates[p] = true
	}
	f.mu.Unlock()
	delete(candidates, path)
	found := f.verify(candidates, m.Inode)
	if 1+len(found) < int(m.Links) {
		more := f.inTable(m.Inode)
		maps.DeleteFunc(more, func(p string, _ bool) bool { return p == path || candidates[p] })
		found = append(found, f.verify(more, m.Inode)...)
	}
	sure = f.judge(path, m, 1+len(found))
	for _, p := range found {
		if !tree.IsHidden(p) && !f.excluded(p) {
			names = append(names, p)
			f.Note(p, m.Inode)
		}
	}
	slices.Sort(names)
	return names, sure
}

// judge decides whether the names found are all that can be.
func (f *Finder) judge(path string, m tree.Meta, found int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	missing := int(m.Links) - found
	if missing <= f.short[m.Inode] {
		delete(f.asked, m.Inode)
		return true
	}
	if at, ok := f.asked[m.Inode]; ok && f.made > at {
		f.doubtLocked(path, m.Inode, missing)
		return true
	} else if !ok {
		if len(f.asked) >= maxKnown {
			clear(f.asked)
		}
		f.asked[m.Inode] = f.begun
	}
	f.wantLocked()
	return false
}

// verify returns those of the paths where the inode is now, and forgets the others.
func (f *Finder) verify(paths map[string]bool, inode uint64) (found []string) {
	for p := range paths {
		m, err := f.root.Lstat(p)
		f.mu.Lock()
		f.stats.Looks++
		if err == nil && m.Inode == inode {
			found = append(found, p)
		} else if f.paths[p] == inode {
			f.forgetLocked(p)
		}
		f.mu.Unlock()
	}
	return found
}

// Run scans when names are missing, and tells the other names of what changed,
// until ctx ends. tell may be called with no names if too many changes came at once to be followed:
// then anything may have changed.
func (f *Finder) Run(ctx context.Context, tell func(names []string, lost bool) error) error {
	rest := time.Time{}
	for {
		f.mu.Lock()
		scan := f.wanted
		f.mu.Unlock()
		wait := keepTable
		if scan {
			wait = max(0, time.Until(rest))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-f.wake:
		case <-timer.C:
			f.rest()
		}
		timer.Stop()
		if scan && time.Until(rest) <= 0 {
			began := time.Now()
			if err := f.scan(ctx); err != nil || ctx.Err() != nil {
				return err
			}
			rest = time.Now().Add(pace * time.Since(began))
		}
		if err := f.follow(tell); err != nil {
			return err
		}
	}
}

// rest lets go of what was not used for a while.
func (f *Finder) rest() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.used) >= keepTable {
		f.table, f.dirs = nil, nil
	}
}

// follow finds the other names of what changed.
func (f *Finder) follow(tell func(names []string, lost bool) error) error {
	f.mu.Lock()
	queue, lost := f.queue, f.lost
	f.queue, f.lost, f.busy = nil, false, true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.busy = false
	}()
	told := map[string]bool{}
	var names, later = []string{}, []change{}
	for _, c := range queue {
		all, sure := f.all(c)
		if !sure {
			later = append(later, c)
		}
		for _, p := range all {
			if p != c.path && !told[p] {
				told[p] = true
				names = append(names, p)
			}
		}
	}
	if len(later) > 0 {
		f.mu.Lock()
		f.queue = append(later, f.queue...)
		f.mu.Unlock()
	}
	if len(names) == 0 && !lost {
		return nil
	}
	return tell(names, lost)
}

// all are the names of a changed inode. What nobody finds any more has gone.
func (f *Finder) all(c change) (names []string, sure bool) {
	f.mu.Lock()
	candidates := map[string]bool{c.path: true}
	for p := range f.known[c.inode] {
		candidates[p] = true
	}
	f.mu.Unlock()
	found := f.verify(candidates, c.inode)
	if len(found) == 0 {
		if found = f.verify(f.inTable(c.inode), c.inode); len(found) == 0 {
			return nil, !c.linked || f.judge(c.path, tree.Meta{Inode: c.inode, Links: 1}, 0)
		}
	}
	m, err := f.root.Lstat(found[0])
	if err != nil || m.Inode != c.inode {
		return nil, false // it moves: once more
	}
	others, sure := f.Names(found[0], m)
	if !tree.IsHidden(found[0]) && !f.excluded(found[0]) {
		others = append(others, found[0])
	}
	return others, sure
}
