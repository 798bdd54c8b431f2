package watch

import "fmt"

// Kind says what an Event is about.
type Kind uint8

// The kinds of event. Zero is none of them.
const (
	// Dirty: look at the state of Path now; it was created, written or its
	// metadata changed. With Tree, look at everything below it too.
	Dirty Kind = iota + 1
	// Removed: Path, and all below it, is gone from the volume.
	Removed
	// Renamed: what was Old, with all below it, is now Path; what was at Path before is gone.
	Renamed
	// Overflow: events were lost; anything in the volume may have changed.
	Overflow
	// RootLost: the root was moved, deleted, unmounted or mounted over. It is the last event of a Watcher.
	RootLost
)

// String is the kind in lower case, as in logs.
func (k Kind) String() string {
	switch k {
	case Dirty:
		return "dirty"
	case Removed:
		return "removed"
	case Renamed:
		return "renamed"
	case Overflow:
		return "overflow"
	case RootLost:
		return "root-lost"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Event is one change. Paths are relative to the root, separated by '/', and
// valid as of this place in the stream; the root itself is ".". Overflow and
// RootLost carry no path.
type Event struct {
	Kind Kind
	Path string // the subject; the new name of a Renamed
	Old  string // the old name of a Renamed, else ""
	Dir  bool   // the subject is known to be a directory
	Tree bool   // Dirty only: look at everything below Path as well
	// Inode is set when Path became, or was for a moment, a further name of an inode
	// that has others: what is changed through one name is changed under all.
	Inode uint64
}

// String is the event on one line, for tests and debug logs.
func (e Event) String() string {
	s := e.Kind.String()
	if e.Old != "" {
		s += " " + e.Old + " ->"
	}
	if e.Path != "" {
		s += " " + e.Path
	}
	if e.Dir {
		s += "/"
	}
	if e.Tree {
		s += "**"
	}
	return s
}
