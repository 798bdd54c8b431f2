package apply

import (
	"encoding/json"
	"slices"

	"revolve/internal/mirror/tree"
)

const (
	absentFile = tree.Hidden + "/absent.json"
	// maxAbsentFile bounds what is read of it: a number and a few names.
	maxAbsentFile = 64 << 10
)

// Absent are the names that are kept here although the master did not have them
// in a scan: nobody saw them go (promise P6). A person decides what becomes of
// them, so they are remembered over restarts.
type Absent struct {
	Names  int      `json:"names"`
	Sample [][]byte `json:"sample"` // bytes: names need not be UTF-8
}

// Absent is what the last comparison of the whole volume left alone.
func (a *Applier) Absent() Absent {
	return Absent{a.absent.Names, slices.Clone(a.absent.Sample)}
}

// Settled forgets the absent names: what is in this tree is the truth now.
func (a *Applier) Settled() error { return a.noteAbsent(Absent{}) }

func (a *Applier) noteAbsent(x Absent) error {
	if x.Names == 0 && a.absent.Names == 0 {
		return nil
	}
	a.absent, a.stats.Absent = x, x.Names
	if x.Names == 0 {
		return ignoreGone(a.o.Root.Remove(absentFile))
	}
	b, err := json.Marshal(x)
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
