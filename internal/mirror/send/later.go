package send

import (
	"time"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// later knows which names the backlog still renames, removes or makes dirty:
// what stands under such a name now may be another file than the one a record
// was about.
type later struct {
	olds  map[string]int // old names of renames to come
	paths map[string]int // names that records to come are about
}

func (l *later) add(r journal.Record) {
	if !r.Kind.IsChange() {
		return
	}
	if l.olds == nil {
		l.olds, l.paths = map[string]int{}, map[string]int{}
	}
	l.paths[r.Path]++
	if r.Kind == journal.Renamed {
		l.olds[r.Old]++
	}
}

// pass takes a record out: its turn has come.
func (l *later) pass(r journal.Record) {
	if !r.Kind.IsChange() {
		return
	}
	drop(l.paths, r.Path)
	if r.Kind == journal.Renamed {
		drop(l.olds, r.Old)
	}
}

func drop(m map[string]int, key string) {
	if m[key]--; m[key] <= 0 {
		delete(m, key)
	}
}

// renamed reports whether path, or a directory above it, will be renamed.
func (l *later) renamed(path string) bool {
	if len(l.olds) == 0 {
		return false
	}
	for p := path; p != ""; p = tree.Parent(p) {
		if l.olds[p] > 0 {
			return true
		}
	}
	return false
}

// touched reports whether a record to come is about exactly this path.
func (l *later) touched(path string) bool { return l.paths[path] > 0 }

// lack notes that what d names cannot be read now. The follower owes it once it was
// told, which is done again: it may have been sent, and have gone, since then.
func (s *Stream) lack(d reconcile.Debt) {
	s.absent.Add(d)
	delete(s.told, d.Path)
	s.untold = append(s.untold, d.Path)
}

// tell tells the follower what it still cannot have.
func (s *Stream) tell() error {
	untold := s.untold
	s.untold = nil
	for _, path := range untold {
		if _, still := s.absent.Get(path); !still {
			continue
		}
		if _, known := s.told[path]; known {
			continue
		}
		s.told[path] = time.Now()
		if err := s.op(wire.Op{Kind: wire.OpDefer, Path: path}); err != nil {
			return err
		}
	}
	return nil
}

// tick pings, and looks again at what could not be read.
func (s *Stream) tick() error {
	found := !s.scanning()
	for path, since := range s.told {
		d, still := s.absent.Get(path)
		switch {
		case !still:
			delete(s.told, path)
			delete(s.looking, path)
		case len(s.backlog) == 0 && (s.looking[path] && found || !s.looking[path] && time.Since(since) > time.Second):
			// No record came that explains it: the follower gets what is there now, which may be nothing.
			delete(s.told, path)
			delete(s.looking, path)
			s.absent.Pay(path, true)
			if d.Tree {
				s.trees = append(s.trees, treeJob{path: path, extras: wire.ExtrasTrash})
			} else if err := s.answer(path); err != nil {
				return err
			}
		}
	}
	if err := s.giveUpGone(); err != nil {
		return err
	}
	if err := s.endBatch(); err != nil {
		return err
	}
	s.settle()
	s.catchUp(time.Now())
	s.mu.Lock()
	s.big.retry()
	s.mu.Unlock()
	return s.ping()
}

// giveUpGone answers for large files that are wanted under names where nothing
// is any more, and that no record explains: the follower would wait for them for ever.
func (s *Stream) giveUpGone() error {
	if len(s.backlog) > 0 {
		return nil
	}
	s.mu.Lock()
	paths := s.big.stuck()
	s.mu.Unlock()
	for _, path := range paths {
		m, err := s.o.Root.Lstat(path)
		if err == nil && m.Kind == tree.File || err != nil && !tree.IsGone(err) {
			continue
		}
		s.removeBig(path)
		if err := s.answer(path); err != nil {
			return err
		}
	}
	return nil
}
