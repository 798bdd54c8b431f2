package apply

import (
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// A source's journal holds names, and its files hold the present: what came for
// a change may be a later state than that change's. The change that explains it follows within
// moments, unless the source dies before. Then two standbys at one position may
// have different states of a path, and nothing in the journals says so. So an
// Applier remembers which paths were published in the last moments of a stream:
// the next master tells their states again, and who follows it asks for them.

const (
	// latelyLast: a file that is written all the time is told every 2 s (watch settles for so long), and a second on the way is much.
	latelyLast = 5 * time.Second
	// latelyMax bounds the paths remembered; more in latelyLast, and the whole volume is compared.
	latelyMax = 16384
	// latelyTail is how many changes of the journal stand for what an Applier before this one published last.
	latelyTail = 256
)

type lately struct {
	paths  map[string]published
	newest time.Time
	full   time.Time // when there were more than latelyMax
}

// published is when something came to a path, and what, if that was a file's content.
type published struct {
	at          time.Time
	size, mtime int64
	known       bool
}

func (l *lately) note(rel string, now time.Time) {
	if rel == "" || tree.IsHidden(rel) {
		return
	}
	if l.paths == nil {
		l.paths = map[string]published{}
	}
	l.newest = now
	if l.paths[rel] = (published{at: now}); len(l.paths) <= latelyMax {
		return
	}
	for p, was := range l.paths {
		if now.Sub(was.at) > latelyLast {
			delete(l.paths, p)
		}
	}
	if len(l.paths) > latelyMax/2 {
		clear(l.paths)
		l.full = now
	}
}

// again notes a path whose content may stay what it is.
func (l *lately) again(rel string, now time.Time) {
	was := l.paths[rel]
	l.note(rel, now)
	if was.known {
		was.at = now
		l.paths[rel] = was
	}
}

// renamed moves what is remembered below old; a file's own new name is noted by whoever renames it.
func (l *lately) renamed(old, new string) {
	for p, was := range l.paths {
		if tree.Below(p, old) {
			delete(l.paths, p)
			l.paths[tree.Moved(p, old, new)] = was
		}
	}
}

// is notes the content that was just published.
func (l *lately) is(rel string, m tree.Meta) {
	if was, noted := l.paths[rel]; noted {
		l.paths[rel] = published{was.at, m.Size, m.MTime, true}
	}
}

// stranger reports whether the file at rel is known not to be what was published there.
func (l *lately) stranger(rel string, have tree.Meta) bool {
	was, noted := l.paths[rel]
	return noted && was.known && have.Kind == tree.File && (have.Size != was.size || have.MTime != was.mtime)
}

// Suspect says of paths that what is here may be a later state than the master
// has: it is kept in the set if an answer removes it, or an older one takes its place.
func (a *Applier) Suspect(set *Set, paths []string) {
	a.suspects = make(map[string]*Set, len(paths)) // of one change of masters
	for _, p := range paths {
		a.suspects[p] = set
	}
}

// keepSuspect keeps what is at rel if it is a suspect and its time is above that of what comes.
func (a *Applier) keepSuspect(rel string, comes int64) error {
	set := a.suspects[rel]
	if set == nil {
		return nil
	}
	delete(a.suspects, rel)
	have, err := a.o.Root.Lstat(rel)
	if err != nil || have.Kind != tree.File || have.MTime <= comes {
		return ignoreGone(err)
	}
	return set.Keep(rel)
}

// keepStranger keeps a file that somebody wrote here and that is about to be
// replaced before its notification was read: as a foreign one, since the trash may have a version of this path already.
func (a *Applier) keepStranger(rel string, have tree.Meta) error {
	if have.Links > 1 || !a.lately.stranger(rel, have) { // with another name it is kept already: among the divergent, or in the volume
		return nil
	}
	if a.foreign == nil {
		a.foreign = NewSet(a.o.Root, a.o.Node, a.o.Journal.Position().Term, WhyForeign, a.o.Now())
	}
	a.o.Log.Warn("a file that was written on a standby is kept aside; the master's takes its place", "path", rel, "set", a.foreign.Name(), "hint", "revolve divergent list")
	return a.foreign.Keep(rel)
}

// TakeLately are the paths that were published in the last moments of what this
// Applier was used for; all says that they are too many to tell. They are forgotten.
func (a *Applier) TakeLately() (paths []string, all bool) {
	l := &a.lately
	for p, was := range l.paths {
		if l.newest.Sub(was.at) <= latelyLast {
			paths = append(paths, p)
		}
	}
	all = !l.full.IsZero() && l.newest.Sub(l.full) <= latelyLast
	a.lately = lately{}
	return paths, all
}

// noteTail remembers what the process before this one published last, of which no times are known.
func (a *Applier) noteTail() {
	if a.o.Journal.History().Reign().Owner == a.o.Node {
		return // its own reign's changes came from nobody
	}
	from := a.o.Journal.Position()
	from.Seq -= min(from.Seq, latelyTail)
	if oldest := a.o.Journal.Oldest(); from.Compare(oldest) < 0 {
		from = oldest
	}
	tail, err := a.o.Journal.Tail(cluster.Position{Term: from.Term, Seq: from.Seq}, 2*latelyTail)
	if err != nil {
		a.lately.full = a.o.Now() // compared, then
		a.lately.newest = a.lately.full
		return
	}
	for _, r := range tail {
		if r.Kind.IsChange() {
			a.lately.note(r.Path, a.o.Now())
		}
	}
}

// Touches reports whether what is staged is about a path that is chosen.
func (a *Applier) Touches(chosen func(path string) bool) bool {
	for i := range a.staged {
		switch op := &a.staged[i].op; op.Kind {
		case wire.OpNone, wire.OpDirTime, wire.OpBegun, wire.OpTree, wire.OpPaid:
		default:
			if chosen(op.Path) || op.Old != "" && chosen(op.Old) || slices.ContainsFunc(op.Names, chosen) {
				return true
			}
		}
	}
	return false
}
