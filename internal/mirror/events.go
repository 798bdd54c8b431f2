package mirror

import (
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/links"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
)

// events takes what the watcher saw: into the journal where this node's reign
// is the last one, into the pending list otherwise.
func (v *volume) events(batch []watch.Event) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.open
	if o == nil {
		return nil
	}
	for i := range batch {
		if batch[i].Path == "." {
			batch[i].Path = ""
		}
	}
	if v.mode == record {
		return local(v.journalEvents(o, batch))
	}
	for _, e := range batch {
		if o.echoes() && v.ownApply(e) {
			continue
		}
		v.remember(e)
	}
	return nil
}

// take begins to record local changes, or to collect them; the lock is held.
func (v *volume) take(o *opened, m mode) {
	v.mode = m
	if o.watcher != nil { // a test's volume may have none
		o.watcher.Await(m == record)
	}
}

// overlook has this node's own files told of by nobody: on a standby half of what the kernel would tell, and
// a wake-up of a master's for each change.
func (v *volume) overlook(o *opened) {
	for _, dir := range append(o.applier.Staging(), v.e.journalDir(v.c.Name)) {
		if !o.watcher.Overlook(dir) {
			v.log.Debug("this node's own files are told of by the kernel, and dropped here", "dir", dir)
		}
	}
}

// remember keeps a local change that may not be journaled now.
func (v *volume) remember(e watch.Event) {
	if e.Kind == watch.Overflow || len(v.pending) >= maxPending || v.bytes >= maxPendingBytes {
		v.pending, v.written, v.bytes, v.lost = nil, nil, 0, true
	}
	if v.lost {
		v.turnForeign() // what is compared instead
		return
	}
	_, known := v.written[e.Path]
	if e.Kind == watch.Dirty && !e.Tree && known {
		// Already noted, unless a rename came between; writing it twice does no harm, so only exact repeats at the end are folded.
		if n := len(v.pending); n > 0 && v.pending[n-1] == e {
			return
		}
	}
	v.pending = append(v.pending, e)
	v.noteWritten(e)
	v.turnForeign()
}

// putBack has what could not be set aside wait on, before what has come since.
func (v *volume) putBack(events []watch.Event, lost bool, doubts []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pending, v.gap, v.doubts = append(events, v.pending...), v.gap || lost, append(doubts, v.doubts...)
	v.noteAll()
}

// noteAll notes the paths of all that is pending.
func (v *volume) noteAll() {
	v.written, v.bytes = nil, 0
	for _, e := range v.pending {
		v.noteWritten(e)
	}
}

// noteWritten notes the paths of a change that is pending.
func (v *volume) noteWritten(e watch.Event) {
	if v.written == nil {
		v.written = map[string]bool{}
	}
	v.bytes += len(e.Path) + len(e.Old)
	v.written[e.Path] = v.written[e.Path] || e.Tree || e.Kind == watch.Renamed
	if _, known := v.written[e.Old]; e.Old != "" && !known {
		v.written[e.Old] = false
	}
}

// waits reports whether a change at path is known and waits to be set aside: there, or of a tree that it belongs to.
func (v *volume) waits(path string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.pending) == 0 {
		return false
	}
	_, here := v.written[path]
	return here || v.broughtTo(path)
}

// putHere reports whether something was moved to path, or with a directory above it, and that waits to be set aside.
func (v *volume) putHere(path string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.broughtTo(path)
}

// broughtTo reports whether a pending change is about path with all that is below it, or about a directory above it; the lock is held.
func (v *volume) broughtTo(path string) bool {
	for ; path != "" && !v.written[path]; path = tree.Parent(path) {
	}
	return path != ""
}

// moved says that the master renamed a directory: what waits below it has another name by now.
func (v *volume) moved(old, new string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.pending) == 0 {
		return
	}
	for i := range v.pending {
		e := &v.pending[i]
		if tree.Below(e.Path, old) {
			e.Path = tree.Moved(e.Path, old, new)
		}
	}
	v.noteAll()
}

// renamedSince gives what waits the names that it has by now: what was read after the master had
// renamed a directory above it was not renamed with it.
func (v *volume) renamedSince(now func(path string) string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.pending) == 0 {
		return
	}
	for i := range v.pending {
		if e := &v.pending[i]; e.Kind != watch.Removed && e.Path != "" {
			e.Path = now(e.Path)
		}
	}
	v.noteAll()
}

// asideLast is how long a change that was treated as foreign is remembered as
// possibly the first of a new reign.
const asideLast = time.Minute

// asideLocked remembers changes that are about to be treated as foreign.
func (v *volume) asideLocked(events []watch.Event) {
	now := time.Now()
	if now.Sub(v.asideAt) > asideLast || len(v.aside) > maxPending {
		v.aside = nil
	}
	v.aside, v.asideAt = append(v.aside, events...), now
}

// writtenHere reports whether path, something above or something below it was
// changed on this node while it took over.
func (v *volume) writtenHere(path string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, here := v.written[path]; here {
		return true
	}
	for w := range v.written {
		if tree.Below(w, path) && w != path {
			return true
		}
	}
	return false
}

// journalEvents appends changes behind the journal's last position.
func (v *volume) journalEvents(o *opened, batch []watch.Event) error {
	if err := v.journalRecords(o, batch); err != nil {
		return err
	}
	for _, e := range batch {
		seeLinks(o.links, e)
	}
	return nil
}

func (v *volume) journalRecords(o *opened, batch []watch.Event) error {
	next := o.journal.Next()
	records := make([]journal.Record, 0, len(batch))
	for _, e := range batch {
		r, ok := recordOf(e)
		if !ok {
			continue
		}
		r.Pos = next
		next.Seq++
		records = append(records, r)
	}
	if len(records) == 0 {
		return nil
	}
	if err := o.journal.Append(records...); err != nil {
		return err
	}
	v.markLocked(records[len(records)-1].Pos)
	for _, r := range records {
		v.changed(r.Path)
		if r.Old != "" {
			v.changed(r.Old)
		}
	}
	return nil
}

// seeLinks tells the finder of names what happens to them.
func seeLinks(f *links.Finder, e watch.Event) {
	switch e.Kind {
	case watch.Dirty:
		f.Changed(e.Path, e.Inode)
	case watch.Removed:
		f.Changed(e.Path, e.Inode) // made, written and removed at once
		f.Removed(e.Path, e.Dir)
	case watch.Renamed:
		f.Renamed(e.Old, e.Path, e.Dir)
	case watch.Overflow:
		f.Reset()
		f.Look()
	}
}

// alsoChanged journals the other names of what was changed under one name: the
// name that was used may be gone before a standby is told, or be replaced.
func (v *volume) alsoChanged(names []string, lost bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.open
	if o == nil || v.mode != record {
		return nil
	}
	var batch []watch.Event
	for _, name := range names {
		batch = append(batch, watch.Event{Kind: watch.Dirty, Path: name})
	}
	if lost {
		batch = []watch.Event{{Kind: watch.Overflow}}
	}
	return local(v.journalRecords(o, batch))
}

// changed tells who wants to know that something changed here.
func (v *volume) changed(path string) {
	if v.e.o.Changed == nil {
		return
	}
	if path == "" {
		path = "."
	}
	v.e.o.Changed(v.c.Name, path)
}

func recordOf(e watch.Event) (journal.Record, bool) {
	switch e.Kind {
	case watch.Dirty:
		if e.Tree {
			return journal.Record{Kind: journal.Tree, Path: e.Path}, true
		}
		return journal.Record{Kind: journal.Dirty, Path: e.Path}, true
	case watch.Removed:
		return journal.Record{Kind: journal.Removed, Path: e.Path}, true
	case watch.Renamed:
		return journal.Record{Kind: journal.Renamed, Path: e.Path, Old: e.Old}, true
	case watch.Overflow:
		// What is absent afterwards was not seen going: it is not deleted elsewhere without a word (P6).
		return journal.Record{Kind: journal.Tree, Path: "", Below: true}, true
	}
	return journal.Record{}, false
}

func (v *volume) markLocked(p cluster.Position) {
	now := time.Now()
	if n := len(v.marks); n > 0 && now.Sub(v.marks[n-1].at) < time.Millisecond {
		v.marks[n-1].pos = p
		return
	}
	if len(v.marks) >= maxMarks {
		v.marks = append(v.marks[:0], v.marks[maxMarks/2:]...)
	}
	v.marks = append(v.marks, mark{p, now})
}

// lagLocked is how long ago the first change behind acked was journaled.
func (v *volume) lagLocked(acked cluster.Position) time.Duration {
	for _, m := range v.marks {
		if m.pos.Compare(acked) > 0 {
			return time.Since(m.at)
		}
	}
	return 0
}

// echoes reports whether the notifications hold this node's own changes, too.
func (o *opened) echoes() bool { return o.watcher != nil && o.watcher.OwnUnknown() }

// ownApply reports, for a backend that cannot tell, whether an event is the echo
// of what this node's own applier did: then the path looks as it was applied.
func (v *volume) ownApply(e watch.Event) bool {
	if e.Kind == watch.Overflow || e.Kind == watch.RootLost {
		return false
	}
	return v.open.applier.Applied(e.Path) && (e.Old == "" || v.open.applier.Applied(e.Old))
}
