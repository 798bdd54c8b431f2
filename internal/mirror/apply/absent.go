package apply

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

const (
	absentFile = tree.Hidden + "/absent.json"
	// maxAbsentFile bounds what is read of it: numbers and paths, of which JSON writes three bytes as four letters.
	maxAbsentFile = 1 << 20
	// maxAbsent and maxAbsentBytes bound the names that are remembered one by one. Of those beyond only a comparison of the
	// whole volume says whether they are still to be decided about.
	maxAbsent      = 4096
	maxAbsentBytes = 256 << 10
	// absentEvery is how often is looked whether they are still there.
	absentEvery = 5 * time.Second
)

// Absent are the names that are kept here although the master did not have them
// in a scan: nobody saw them go (promise P6). A person decides what becomes of
// them, so they are remembered over restarts. What the master tells of afterwards
// needs no person: a scan beside many changes sees names as they are before it has told how they came to be.
type Absent struct {
	Names  int      `json:"names"`
	Sample [][]byte `json:"sample"` // bytes: names need not be UTF-8
	// Left are those that are remembered one by one.
	Left []AbsentName `json:"left,omitempty"`
}

// AbsentName is a name that was not found, and how many that are with all that is below it.
type AbsentName struct {
	Path  []byte `json:"path"`
	Names int    `json:"names"`
}

// absences gather what one comparison does not find.
type absences struct {
	left  []AbsentName
	bytes int
}

func (x *absences) add(rel string, names int) {
	if len(x.left) < maxAbsent && x.bytes+len(rel) <= maxAbsentBytes {
		x.left, x.bytes = append(x.left, AbsentName{[]byte(rel), names}), x.bytes+len(rel)
	}
}

// Absent is what the last comparison of the whole volume left alone, and is still to be decided about.
func (a *Applier) Absent() Absent {
	return Absent{Names: a.absent.Names, Sample: slices.Clone(a.absent.Sample)}
}

// Settled forgets the absent names: what is in this tree is the truth now.
func (a *Applier) Settled() error { return a.noteAbsent(Absent{}) }

func (a *Applier) noteAbsent(x Absent) error {
	if x.Names == 0 && a.absent.Names == 0 && !a.absentNew {
		return nil
	}
	a.absent, a.stats.Absent, a.absentNew = x, x.Names, true
	return a.writeAbsent()
}

// writeAbsent writes them down for the next start, if they have changed.
func (a *Applier) writeAbsent() error {
	if !a.absentNew {
		return nil
	}
	a.absentNew = false
	if a.absent.Names == 0 {
		return ignoreGone(a.o.Root.Remove(absentFile))
	}
	b, err := json.Marshal(a.absent)
	if err != nil {
		return err
	}
	return a.o.Root.WriteFile(absentFile, b)
}

// loadAbsent remembers what was left alone before a restart.
func (a *Applier) loadAbsent() {
	b, err := a.o.Root.ReadFile(absentFile, maxAbsentFile)
	if err != nil || json.Unmarshal(b, &a.absent) != nil || a.absent.Names < 0 {
		a.absent = Absent{} // there is none, or it is unreadable: the next comparison says it again
	}
	a.stats.Absent = a.absent.Names
}

// lookForAbsent forgets the names that are not here any more: the master has told since that they went. What has
// changed is written once for many names: a crash before that only asks a person in vain.
func (a *Applier) lookForAbsent(now time.Time) error {
	if len(a.absent.Left) == 0 && !a.absentNew || now.Sub(a.absentAt) < absentEvery {
		return nil
	}
	a.absentAt = now
	a.decided(func(x *AbsentName) int {
		if _, err := a.o.Root.Glance(string(x.Path)); tree.IsGone(err) {
			return x.Names
		}
		return 0
	})
	return a.writeAbsent()
}

// explains forgets the names that an operation is about: the master has something there, or says where it went.
func (a *Applier) explains(op *wire.Op) {
	switch op.Kind {
	case wire.OpFile, wire.OpDir, wire.OpSymlink, wire.OpNode, wire.OpGroup:
		a.there(op.Path)
		for _, name := range op.Names {
			a.there(name)
		}
	case wire.OpDefer:
		if op.Meta.Kind != 0 { // else it only says that it could not be read
			a.there(op.Path)
		}
	case wire.OpRename:
		a.absentRenamed(op.Old, op.Path)
	}
}

// there says that the master has this name. Of a directory that says nothing about what is in it.
func (a *Applier) there(rel string) {
	if !a.absentAny(func(x *AbsentName) bool { return string(x.Path) == rel }) {
		return
	}
	a.decided(func(x *AbsentName) int {
		if string(x.Path) == rel {
			return 1
		}
		return 0
	})
}

// absentRenamed: what was renamed went with all that is in it; what is in a directory that was renamed has another name.
func (a *Applier) absentRenamed(old, new string) {
	if !a.absentAny(func(x *AbsentName) bool { return string(x.Path) == new || tree.Below(string(x.Path), old) }) {
		return
	}
	a.decided(func(x *AbsentName) int {
		switch path := string(x.Path); {
		case path == old:
			return x.Names
		case path == new:
			return 1
		case tree.Below(path, old):
			x.Path = []byte(tree.Moved(path, old, new))
		}
		return 0
	})
}

func (a *Applier) absentAny(is func(x *AbsentName) bool) bool {
	for i := range a.absent.Left {
		if is(&a.absent.Left[i]) {
			return true
		}
	}
	return false
}

// decided asks of each name how many of it and those below it need no decision any more.
func (a *Applier) decided(less func(x *AbsentName) int) {
	now, changed := Absent{Names: a.absent.Names}, false
	for _, x := range a.absent.Left {
		was := x.Path
		n := min(less(&x), x.Names)
		changed = changed || n > 0 || !bytes.Equal(was, x.Path)
		now.Names -= n
		if x.Names -= n; x.Names > 0 {
			now.Left = append(now.Left, x)
		}
	}
	if changed {
		a.absent, a.stats.Absent, a.absentNew = sampled(now), now.Names, true
	}
}

// sampled shows some of the names.
func sampled(x Absent) Absent {
	x.Sample = nil
	for _, name := range x.Left {
		if len(x.Sample) < wire.MaxSample && len(name.Path) <= wire.MaxSampled {
			x.Sample = append(x.Sample, name.Path)
		}
	}
	return x
}
