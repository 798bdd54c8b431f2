package apply

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"revolve/internal/mirror/tree"
)

const (
	trashDir = tree.Hidden + "/trash"
	// trashSlot: at most one version of a path is kept per slot (promise P6).
	trashSlot = 10 * time.Minute
	// slotLayout names a slot's directory by its beginning, UTC.
	slotLayout = "20060102T1504"
	// trashMaxFile: larger files are not kept when they go, since their space would not come back for days (P6).
	trashMaxFile = 64 << 20
	// trashShare is the part of the filesystem that the trash may take (P6): 5 %.
	trashShare = 20
	// pinSuffix makes a slot's name that of the file that pins it: it stays, whatever its age, until a person removes the pin.
	pinSuffix = ".pinned"
	// massWindow and massLeast: more than half of a volume going within the window raises an alarm; fewer than massLeast removals never do.
	massWindow = time.Minute
	massLeast  = 100
	// countEvery bounds how often what is left is counted, which walks as many entries as went.
	countEvery = 5 * time.Second
)

// TrashStats is what the trash of one volume holds and passed over.
type TrashStats struct {
	Kept    int64  `json:"kept"`    // versions kept since start
	Bytes   int64  `json:"bytes"`   // kept since start, less what was pruned since
	Skipped int64  `json:"skipped"` // too large, or one was kept within ten minutes
	Alarm   string `json:"alarm,omitempty"`
}

// trash keeps what replication overwrites or deletes. It is used by one goroutine.
type trash struct {
	root   *tree.Root
	keep   time.Duration // age at which a slot goes
	now    func() time.Time
	stats  TrashStats
	pruned time.Time

	removals    []time.Time // of the last massWindow, bounded by maxRemovals
	lastCounted time.Time
	uncounted   bool // removals came since
}

// maxRemovals bounds the removals remembered; more than this many within a minute is counted as this many.
const maxRemovals = 1 << 16

func (t *trash) slot() string { return trashDir + "/" + slotAt(t.now()) }

func slotAt(at time.Time) string { return at.UTC().Truncate(trashSlot).Format(slotLayout) }

// Overwritten keeps the file at rel, which is about to be replaced, as a second
// name of the same inode: free, and without a moment in which rel is missing.
func (t *trash) Overwritten(rel string, m tree.Meta) error {
	if m.Kind != tree.File || m.Size == 0 || m.Size > trashMaxFile {
		t.stats.Skipped++
		return nil
	}
	to := t.slot() + "/" + rel
	err := t.root.Link(rel, to)
	if tree.IsGone(err) {
		if err = t.root.MkdirAll(tree.Parent(to)); err == nil {
			err = t.root.Link(rel, to)
		}
	}
	switch {
	case err == nil:
		t.stats.Kept++
		t.stats.Bytes += m.Size
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
	if m.Kind == tree.File && m.Size > trashMaxFile {
		t.stats.Skipped++
		return t.root.Remove(rel)
	}
	to := t.slot() + "/" + rel
	for try := 1; ; try++ {
		err := t.root.RenameNew(rel, to)
		switch {
		case err == nil:
			t.stats.Kept++
			t.stats.Bytes += m.Size
			return nil
		case tree.IsGone(err) && try < 1000:
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

// tidy raises the alarm of a mass deletion and drops slots that are too old or
// too much. It walks at most once a minute.
func (t *trash) tidy() error {
	now := t.now()
	if err := t.countRemovals(now); err != nil {
		return err
	}
	if now.Sub(t.pruned) < time.Minute {
		return nil
	}
	t.pruned = now
	slots, err := t.root.List(trashDir)
	if tree.IsGone(err) || err != nil {
		return ignoreGone(err)
	}
	_, size, err := t.root.Free()
	if err != nil {
		return err
	}
	pinned := map[string]bool{}
	for _, e := range slots {
		pinned[strings.TrimSuffix(e.Name, pinSuffix)] = strings.HasSuffix(e.Name, pinSuffix)
	}
	total := int64(0)
	for i := len(slots) - 1; i >= 0; i-- { // newest first: what goes over the share is the oldest
		name := slots[i].Name
		at, err := time.Parse(slotLayout, name)
		if err != nil {
			continue
		}
		used := t.usage(trashDir + "/" + name)
		total += used
		if pinned[name] || now.Sub(at) < t.keep && total <= size/trashShare {
			continue
		}
		if err := t.root.RemoveAll(trashDir + "/" + name); err != nil {
			return err
		}
		t.stats.Bytes = max(0, t.stats.Bytes-used)
	}
	return nil
}

func (t *trash) usage(dir string) (bytes int64) {
	list, err := t.root.List(dir)
	if err != nil {
		return 0
	}
	for _, e := range list {
		if e.Meta.Kind == tree.Dir {
			bytes += t.usage(dir + "/" + e.Name)
		} else {
			bytes += e.Meta.Size
		}
	}
	return bytes
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
	slot := slotAt(now)
	t.stats.Alarm = "more than half of the volume was deleted within a minute at " + now.UTC().Format(time.RFC3339) +
		"; its trash " + slot + " is pinned"
	for _, name := range []string{slot, slotAt(t.removals[0])} { // the minute may have begun in the slot before
		if err := errors.Join(t.root.MkdirAll(trashDir), t.root.WriteFile(trashDir+"/"+name+pinSuffix, nil)); err != nil {
			return err
		}
	}
	return nil
}

// count counts entries below dir and stops at most.
func (t *trash) count(dir string, most int) (n int) {
	list, err := t.root.List(dir)
	if err != nil {
		return 0
	}
	for _, e := range list {
		n++
		if e.Meta.Kind == tree.Dir && n < most {
			n += t.count(tree.Join(dir, e.Name), most-n)
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
