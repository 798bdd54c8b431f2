package mirror

import (
	"errors"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// Explained is what this node knows of one path.
type Explained struct {
	Path     string
	Why      string // it is not mirrored: "" if it is
	There    bool   // on this node
	Kind     tree.Kind
	Size     int64
	MTime    time.Time
	Owed     bool             // its bytes are still under way to this node
	Changed  cluster.Position // its last change in the journal; zero: before the journal begins, or never
	What     string           // changed, removed, renamed
	Standbys []ExplainedOn    // as master
}

// ExplainedOn is what the master knows of the path on a standby.
type ExplainedOn struct {
	Node  cluster.NodeID
	State string // durable, under-way, comparing, unknown
	Acked cluster.Position
}

// maxExplained bounds the journal's records that are read for one path.
const maxExplained = 1 << 20

// Explain says where the path of a volume is, and why not.
func (e *Engine) Explain(name cluster.VolumeID, rel string) (x Explained, err error) {
	v := e.volume(name)
	if v == nil {
		return x, &problem.Problem{Op: "explain", Kind: problem.NotFound, Subject: string(name), Err: errors.New("there is no such volume"), Hint: "revolve status lists them"}
	}
	v.mu.Lock()
	o, leading := v.open, v.leading.Term != 0
	v.mu.Unlock()
	if o == nil {
		return x, &problem.Problem{Op: "explain", Kind: problem.Unavailable, Subject: string(name), Err: errors.New("the volume is not open here"), Hint: "revolve status says why"}
	}
	x.Path = rel
	switch err := tree.Check(rel); {
	case len(rel) >= tree.MaxPath:
		x.Why = "its path is longer than 4,095 bytes"
		return x, nil
	case err != nil:
		return x, &problem.Problem{Op: "explain", Kind: problem.Invalid, Subject: rel, Err: err, Hint: "name a path inside the volume"}
	case tree.IsHidden(rel):
		x.Why = "it is revolve's own"
	case v.excluded(rel):
		x.Why = "it is excluded by the configuration"
	}
	m, err := o.root.Glance(rel)
	if err != nil && !tree.IsGone(err) {
		return x, err
	}
	if x.There = err == nil; x.There {
		x.Kind, x.Size, x.MTime = m.Kind, m.Size, time.Unix(0, m.MTime)
	}
	if x.There && m.Kind == tree.Other {
		x.Why = "it is of no kind that is mirrored"
	}
	owed := o.journal.Owed()
	_, x.Owed = owed.Get(rel)
	if x.Why != "" {
		return x, nil
	}
	if x.Changed, x.What, err = lastChange(o.journal, rel); err != nil {
		return x, err
	}
	if leading {
		x.Standbys = v.explainOn(x.Changed)
	}
	return x, nil
}

// lastChange is the last record about rel, or about a directory above it.
func lastChange(j *journal.Journal, rel string) (pos cluster.Position, what string, err error) {
	r, err := j.Reader(j.Oldest())
	if err != nil {
		return pos, "", err
	}
	defer r.Close()
	for n := 0; n < maxExplained; {
		records, err := r.Next(1024)
		if err != nil || len(records) == 0 {
			return pos, what, err
		}
		n += len(records)
		for _, rec := range records {
			below := rec.Kind != journal.Dirty && tree.Below(rel, rec.Path)
			if !rec.Kind.IsChange() || rec.Path != rel && rec.Old != rel && !below {
				continue
			}
			pos, what = rec.Pos, "changed"
			switch {
			case rec.Kind == journal.Removed:
				what = "removed"
			case rec.Kind == journal.Renamed:
				what = "renamed"
			}
		}
	}
	return pos, what, nil
}

func (v *volume) explainOn(changed cluster.Position) (out []ExplainedOn) {
	for n, st := range v.states() {
		on := ExplainedOn{Node: n, Acked: st.Acked, State: "under-way"}
		switch {
		case st.Busy:
			on.State = "comparing"
		case st.Acked.Compare(changed) >= 0 && st.Owed == 0:
			on.State = "durable"
		}
		out = append(out, on)
	}
	return out
}
