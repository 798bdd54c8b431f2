package mirror

import (
	"context"
	"errors"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
)

// scanMargin is how far before the journal's last write a change may lie
// without being in it: events settle for up to two seconds, and a master's
// journal is synced every journalSync.
const scanMargin = 5 * time.Second

// durableEvery is how often a master makes the files of its own writes durable
// and says so in the journal. The applications' own fsync is theirs; this one
// only bounds what has to come again after a power cut.
const durableEvery = 5 * time.Second

// markDurable makes everything written so far durable and notes up to which
// position that is.
func markDurable(o *opened) error {
	p := o.journal.Position()
	if o.journal.Durable().Compare(p) >= 0 {
		return nil
	}
	if err := o.root.SyncAll(); err != nil {
		return err
	}
	if err := o.journal.Append(journal.Record{Kind: journal.Durable, Pos: p}); err != nil {
		return err
	}
	return o.journal.Sync()
}

// keepMarking marks while this node journals its own reign.
func (v *volume) keepMarking(ctx context.Context, o *opened) error {
	tick := time.NewTicker(durableEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		v.mu.Lock()
		own := v.mode == record
		v.mu.Unlock()
		if own {
			if err := markDurable(o); err != nil {
				return local(err)
			}
		}
	}
}

// maxOwed bounds the changes behind the last durable mark that are looked at one by one.
const maxOwed = 100_000

// oweUnsynced owes every path that was changed behind the last durable mark: the
// journal knows the change, but the power cut may have taken the bytes. Whoever
// received them sends them again (promise P8).
func (v *volume) oweUnsynced(o *opened) error {
	tail, err := o.journal.Tail(o.journal.Durable(), maxOwed)
	if errors.Is(err, journal.ErrTrimmed) {
		return o.journal.Append(journal.Record{Kind: journal.Owe, Below: true})
	}
	if err != nil {
		return err
	}
	var owe []journal.Record
	for _, r := range tail {
		if !r.Kind.IsChange() || r.Path == "" {
			continue
		}
		owe = append(owe, journal.Record{Kind: journal.Owe, Path: r.Path, Below: r.Kind != journal.Dirty && r.Kind != journal.Removed})
		if r.Old != "" {
			owe = append(owe, journal.Record{Kind: journal.Owe, Path: r.Old})
		}
	}
	// Nothing tells of what was deleted or renamed while nobody watched: whoever leads next is compared with as a whole.
	return o.journal.Append(append(owe, journal.Record{Kind: journal.Owe, Below: true})...)
}

// afterStop brings the journal up to what is on the disk after an unclean stop
// of a node whose own reign was the last it knew: its journal cannot know its
// last writes. Everything whose inode changed since shortly before the journal
// was last written counts as changed. (A standby needs no scan: its journal is
// written behind its files, and what is above it is sent again.)
func (v *volume) afterStop(o *opened, found journal.Opened) error {
	if found.Clean || o.journal.History().Reign().Owner != v.e.o.Node {
		return nil
	}
	if err := v.oweUnsynced(o); err != nil {
		return err
	}
	began := time.Now()
	since := found.LastWrite.Add(-scanMargin).UnixNano()
	next := o.journal.Next()
	n := 0
	var batch []journal.Record
	flush := func() error {
		err := o.journal.Append(batch...)
		batch = batch[:0]
		return err
	}
	err := walk(o.root, "", v.excluded, func(rel string, m tree.Meta) error {
		if m.CTime < since || m.Kind == tree.Other {
			return nil
		}
		batch = append(batch, journal.Record{Kind: journal.Dirty, Pos: next, Path: rel})
		next.Seq++
		n++
		if len(batch) == 1000 {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	o.found = true
	v.log.Info("scanned after an unclean stop", "changed", n, "took", time.Since(began).Round(time.Millisecond))
	return o.journal.Sync()
}

// relist lists what a power cut left kept aside and not listed. Where it cannot, the volume works all the same.
func (v *volume) relist(o *opened, found journal.Opened) {
	if found.Clean {
		return
	}
	n, err := apply.Relist(o.root)
	if err != nil {
		v.log.Warn("could not look whether all that was kept aside is listed", "err", err, "hint", "the files are in .revolve/divergent")
	}
	if n > 0 {
		v.log.Warn("what was kept aside before an unclean stop is listed now", "changes", n, "hint", "revolve divergent list")
	}
}

// maxDoubts bounds the directories that are compared one by one; beyond it the whole tree is.
const maxDoubts = 1000

// unwatched finds what others wrote while this node's agent did not run, by the
// time at which an inode last changed (ctime: no program can set it): files as if
// the watcher had seen them, and the directories in which names came or went.
// What this node writes itself is journaled behind it, and announced before it, so nothing of that lies
// between the journal's last write and the opening but what it was publishing when it was killed. It reads beside the stream: a
// standby that merely restarts waits for nothing.
func (v *volume) unwatched(ctx context.Context, o *opened) error {
	defer close(o.scanned)
	switch {
	case o.since.IsZero():
		return nil // new here: the first comparison finds everything
	case o.found:
		return nil // it is in the journal, as this node's own: once another's reign has begun here, it would count as others' once more
	}
	since, written, until := o.since.UnixNano(), o.written.UnixNano(), o.until.UnixNano()
	own := map[string]bool{}
	// What others wrote into files waits for foreignDelay to be set aside: the end may have come before.
	early := since - 2*int64(foreignDelay)
	if early < written {
		var sure bool
		if own, sure = publishedLately(o); !sure { // some of its own might count as others'
			early = since
		}
	}
	var files []watch.Event
	var dirs []string
	see := func(rel string, m tree.Meta) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case o.publishing(rel, m):
		case m.CTime <= early || m.CTime <= since && m.Kind == tree.Dir || m.CTime > until || m.CTime <= written && (own[rel] || m.Kind == tree.Dir):
		case m.Kind == tree.Dir:
			dirs = append(dirs, rel)
		case m.Kind != tree.Other:
			files = append(files, watch.Event{Kind: watch.Dirty, Path: rel})
		}
		return nil
	}
	m, err := o.root.Lstat("")
	if err == nil {
		err = errors.Join(see("", m), walk(o.root, "", v.excluded, see))
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return local(err)
	case len(files)+len(dirs) == 0:
		return v.noteUnproven(o, nil)
	case len(dirs) > maxDoubts:
		dirs = []string{""}
	}
	v.log.Info("written while the agent did not run", "files", len(files), "directories", len(dirs))
	if err := v.doubt(o, dirs); err != nil {
		return err
	}
	return v.noteUnproven(o, files)
}

// doubt has directories compared in which names came or went while nobody watched: with the master's, or, if this node leads by
// now, by the standbys. What is absent here was not seen going, so nothing is deleted there.
func (v *volume) doubt(o *opened, dirs []string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mode == collect {
		v.doubts = dirs
		v.turnForeign()
		return nil
	}
	records, next := make([]journal.Record, len(dirs)), o.journal.Next()
	for i, dir := range dirs {
		records[i] = journal.Record{Kind: journal.Tree, Pos: next, Path: dir, Below: true}
		next.Seq++
	}
	return local(o.journal.Append(records...))
}

// publishWithin is how long after their announcement names are seen, unless the machine stands still.
const publishWithin = time.Second

// publishing reports whether an inode is what this node was about to publish there when it stopped: nobody has
// touched it since. After publishWithin even what looks so counts as others', who may have changed what
// apply.Looks does not sum up.
func (o *opened) publishing(rel string, m tree.Meta) bool {
	f, known := o.flown[rel]
	return known && f.Looks == apply.Looks(m) && m.CTime <= o.written.Add(publishWithin).UnixNano()
}

// missed reports whether an inode changed while nobody watched, as long as the search for all of those is under way.
func (o *opened) missed(rel string, m tree.Meta) bool {
	select {
	case <-o.scanned:
		return false
	default:
	}
	return !o.since.IsZero() && m.CTime > o.written.UnixNano() && m.CTime <= o.until.UnixNano() && !o.publishing(rel, m)
}

// publishedLately are the paths that this node published shortly before it
// stopped and that its journal knows: the last of its changes, and what it owes
// because it was seen before it was durable. sure is false if there may have been others.
func publishedLately(o *opened) (own map[string]bool, sure bool) {
	own, sure = map[string]bool{}, true
	from, oldest := o.journal.Position(), o.journal.Oldest()
	if from.Seq > apply.MaxFlying {
		from.Seq -= apply.MaxFlying
	} else { // what came before this term counts as well
		from = oldest
	}
	if from.Compare(oldest) <= 0 {
		from, sure = oldest, oldest == cluster.Position{} // else something came before the journal begins
	}
	tail, err := o.journal.Tail(from, 2*apply.MaxFlying)
	if err != nil {
		tail, sure = nil, false // then they count as foreign: kept aside, compared with the master's and taken back
	}
	for _, r := range tail {
		own[r.Path] = true
	}
	owed := o.journal.Owed()
	for _, d := range owed.List() {
		own[d.Path] = true
	}
	return own, sure
}

// walk calls see for everything below dir, directories before their entries.
func walk(root *tree.Root, dir string, excluded func(string) bool, see func(rel string, m tree.Meta) error) error {
	list, err := root.List(dir)
	if tree.IsGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		rel := tree.Join(dir, e.Name)
		if excluded(rel) {
			continue
		}
		if err := see(rel, e.Meta); err != nil {
			return err
		}
		if e.Meta.Kind == tree.Dir {
			if err := walk(root, rel, excluded, see); err != nil {
				return err
			}
		}
	}
	return nil
}
