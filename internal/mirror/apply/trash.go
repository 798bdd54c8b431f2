package apply

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"time"

	"revolve/internal/mirror/tree"
)

const (
	trashDir = tree.Hidden + "/trash"
	// DefaultEvery: at most one version of a path is kept in this time, a slot (promise P6).
	DefaultEvery = 10 * time.Minute
	// slotLayout names a slot's directory by its beginning, UTC.
	slotLayout = "20060102T1504"
	// trashMaxFile: a larger file is kept only if it shares its blocks, so that no more than this is its own: the space of
	// others would not come back for days (P6).
	trashMaxFile = 64 << 20
	// massWindow and massLeast: more than half of a volume going within the window raises an alarm; fewer than massLeast removals never do.
	massWindow = time.Minute
	massLeast  = 100
	// countEvery bounds how often what is left is counted, which walks as many entries as went.
	countEvery = 5 * time.Second
)

// TrashStats is what the trash of one volume holds and passed over.
type TrashStats struct {
	Kept    int64 `json:"kept"`    // versions kept since start
	Bytes   int64 `json:"bytes"`   // held when it was counted last, and kept since in the present slot
	Skipped int64 `json:"skipped"` // since start: too large, or one was kept in the same slot
	Dropped int64 `json:"dropped"` // since start: gone before their age, for the quota or for a full disk
	Pins    []Pin `json:"pins,omitempty"`
}

// trash keeps what replication overwrites or deletes. It is used by one goroutine.
type trash struct {
	root  *tree.Root
	every time.Duration // at most one version of a path in this time
	now   func() time.Time
	hold  func(dir string) (*tree.Held, error) // opens a directory once for a batch
	letGo func()                               // of all of them
	stats TrashStats

	slotNow   string // the slot that slotBytes belong to
	slotBytes int64

	removals    []time.Time // of the last massWindow, bounded by maxRemovals
	lastCounted time.Time
	uncounted   bool // removals came since
}

// maxRemovals bounds the removals remembered; more than this many within a minute is counted as this many.
const maxRemovals = 1 << 16

func (t *trash) slot() string { return trashDir + "/" + slotAt(t.now(), t.every) }

func slotAt(at time.Time, every time.Duration) string {
	return at.UTC().Truncate(every).Format(slotLayout)
}

// kept counts a version that was kept just now.
func (t *trash) kept(m tree.Meta) {
	if slot := t.slot(); slot != t.slotNow {
		t.slotNow, t.slotBytes = slot, 0
	}
	t.slotBytes += m.Size
	t.stats.Kept++
}

// tooLarge reports whether keeping the file at rel would hold more space than a single file may.
func (t *trash) tooLarge(rel string, m tree.Meta) bool {
	if m.Kind != tree.File || m.Size <= trashMaxFile {
		return false
	}
	own, err := t.root.OwnBytes(rel, trashMaxFile)
	return err != nil || own > trashMaxFile
}

// Overwritten keeps the file at rel, which is about to be replaced, as a second
// name of the same inode: free, and without a moment in which rel is missing.
func (t *trash) Overwritten(rel string, m tree.Meta) error {
	if m.Kind != tree.File || m.Size == 0 {
		return nil // nothing that could be missed
	}
	if t.tooLarge(rel, m) {
		t.stats.Skipped++
		return nil
	}
	to := t.slot() + "/" + rel
	err := t.root.Link(rel, to)
	if tree.IsGone(err) {
		err = t.root.MkdirAll(tree.Parent(to))
		if errors.Is(err, fs.ErrExist) || tree.IsGone(err) { // as in Take: a file where a directory has to be
			to = t.slot() + "/.~1~/" + rel
			err = t.root.MkdirAll(tree.Parent(to))
		}
		if err == nil {
			err = t.root.Link(rel, to)
		}
	}
	switch {
	case err == nil:
		t.kept(m)
		return nil
	case errors.Is(err, fs.ErrExist) || tree.IsGone(err):
		t.stats.Skipped++
		return nil
	case errors.Is(err, fs.ErrPermission): // protected_hardlinks without CAP_FOWNER
		t.stats.Skipped++
		return nil
	}
	return err
}

// Take moves what is at rel, file or tree, into the trash.
func (t *trash) Take(rel string, m tree.Meta) error {
	t.removed(rel, m)
	if t.tooLarge(rel, m) {
		t.stats.Skipped++
		return t.root.Remove(rel)
	}
	to := t.slot() + "/" + rel
	for try := 1; ; try++ {
		err := t.move(rel, to)
		switch {
		case err == nil:
			t.kept(m)
			return nil
		case tree.IsGone(err) && try < 1000:
			t.letGo() // one of them may have gone since it was opened: old slots go meanwhile
			err := t.root.MkdirAll(tree.Parent(to))
			if errors.Is(err, fs.ErrExist) || tree.IsGone(err) {
				// In this slot a file of that name, taken before, is where a directory has to be.
				to = t.slot() + "/.~" + strconv.Itoa(try) + "~/" + rel
			} else if err != nil {
				return err
			}
		case errors.Is(err, fs.ErrExist) && m.Kind != tree.Dir:
			t.stats.Skipped++
			return t.root.Remove(rel)
		case errors.Is(err, fs.ErrExist) && try < 1000:
			if err := t.root.Remove(rel); err == nil { // an empty directory whose entries went before it
				return nil
			}
			to = t.slot() + "/" + rel + ".~" + strconv.Itoa(try) + "~"
		default:
			return err
		}
	}
}

// move renames rel into the trash: with many removals from one directory, neither is looked up again.
func (t *trash) move(rel, to string) error {
	if _, err := t.hold(tree.Parent(rel)); err != nil {
		return err
	}
	into, err := t.hold(tree.Parent(to))
	if err != nil {
		return err
	}
	from, err := t.hold(tree.Parent(rel)) // to open the second may have closed the first
	if err != nil {
		return err
	}
	return from.RenameNew(path.Base(rel), into, path.Base(to))
}

// removed notes a removal for the alarm: a tree that goes at once counts as all that is in it.
func (t *trash) removed(rel string, m tree.Meta) {
	n := 1
	if m.Kind == tree.Dir {
		n += t.count(rel, maxRemovals)
	}
	t.removals = append(t.removals, slices.Repeat([]time.Time{t.now()}, n)...)
	t.removals = t.removals[max(0, len(t.removals)-maxRemovals):]
	t.uncounted = true
}

// countRemovals compares what went within the last minute with what is left.
func (t *trash) countRemovals(now time.Time) error {
	for len(t.removals) > 0 && now.Sub(t.removals[0]) > massWindow {
		t.removals = t.removals[1:]
	}
	if !t.uncounted || len(t.removals) < massLeast || now.Sub(t.lastCounted) < countEvery {
		return nil
	}
	t.lastCounted, t.uncounted = now, false
	left := t.count("", len(t.removals)+1)
	if left >= len(t.removals) {
		return nil
	}
	for _, slot := range []string{slotAt(t.removals[0], t.every), slotAt(now, t.every)} { // the minute may have begun in the slot before
		if err := pin(t.root, Pin{Slot: slot, At: now.UTC(), Removed: len(t.removals), Left: left}); err != nil {
			return err
		}
	}
	return nil
}

// count counts entries below dir and stops at most.
func (t *trash) count(dir string, most int) (n int) {
	list, err := t.root.Inodes(dir)
	if err != nil {
		return 0
	}
	for _, e := range list {
		rel := tree.Join(dir, e.Name)
		if tree.IsHidden(rel) {
			continue
		}
		if e.Kind == 0 {
			m, _ := t.root.Glance(rel)
			e.Kind = m.Kind
		}
		n++
		if e.Kind == tree.Dir && n < most {
			n += t.count(rel, most-n)
		}
		if n >= most {
			return n
		}
	}
	return n
}

func ignoreGone(err error) error {
	if tree.IsGone(err) {
		return nil
	}
	return err
}
