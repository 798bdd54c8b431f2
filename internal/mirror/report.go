package mirror

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// Standby is what the master knows of one standby of a volume.
type Standby struct {
	Node     cluster.NodeID   `json:"node"`
	State    string           `json:"state"` // in-sync, catching-up, lagging
	Since    time.Time        `json:"since"`
	LagMS    int64            `json:"lag_ms"`
	LagP50   float64          `json:"lag_p50_ms,omitempty"` // of the changes of the last hour; 0: there were none
	LagP99   float64          `json:"lag_p99_ms,omitempty"`
	Pending  int              `json:"pending"` // changes not yet acknowledged
	Owed     uint64           `json:"owed"`    // large files under way
	Position cluster.Position `json:"position"`
	Absent   int              `json:"absent,omitempty"`
	Sample   []string         `json:"absent_sample,omitempty"` // some of the absent names, quoted
	// What the standby says of itself.
	Divergent int       `json:"divergent,omitempty"`
	Alarm     string    `json:"alarm,omitempty"`
	Progress  *Progress `json:"progress,omitempty"` // nil if it has everything
	Proven    time.Time `json:"proven,omitzero"`    // it had the same bytes, as a proof found that began then
	Restless  *Restless `json:"restless,omitempty"` // nil if there are none
}

// Restless are files that a standby does not have as they are: they changed whenever they were read.
type Restless struct {
	Files int       `json:"files"`
	Path  string    `json:"path"`  // the one that was tried for longest, quoted
	Since time.Time `json:"since"` // when it was tried first
}

// Progress is how far a standby has come that is behind. A total is -1 as long
// as it is not known: while a comparison still looks for what differs.
type Progress struct {
	Began          time.Time `json:"began"`
	Names          int64     `json:"names"` // looked at by comparisons
	Files          int64     `json:"files"` // sent
	FilesTotal     int64     `json:"files_total"`
	Bytes          int64     `json:"bytes"`
	BytesTotal     int64     `json:"bytes_total"`
	Changes        int64     `json:"changes"` // of the journal, acknowledged
	ChangesTotal   int64     `json:"changes_total"`
	BytesPerSecond int64     `json:"bytes_per_second"`
	LeftSeconds    int64     `json:"left_seconds"` // at the present rate; -1: not known
}

func progressOf(p *send.Progress) *Progress {
	if p == nil {
		return nil
	}
	out := &Progress{Began: p.Began, Names: p.Names, Files: p.Files, Bytes: p.Bytes, Changes: p.Records, BytesPerSecond: int64(p.ByteRate),
		FilesTotal: -1, BytesTotal: -1, ChangesTotal: p.Records + p.RecordsLeft, LeftSeconds: -1}
	if !p.Looking && p.RecordsLeft == 0 { // a change that is still to be sent may be a file of any size
		out.FilesTotal, out.BytesTotal = p.Files+p.FilesLeft, p.Bytes+p.BytesLeft
	}
	if left, known := p.Left(); known {
		out.LeftSeconds = int64(left.Round(time.Second).Seconds())
	}
	return out
}

// Report is the state of one volume on this node.
type Report struct {
	Name     cluster.VolumeID
	Path     string
	Problem  string // "" if it works
	Paused   *Pause // it waits for a person
	Since    time.Time
	Position cluster.Position
	Leading  bool
	Backend  string
	Standbys []Standby // as master; as standby: what the master said last
	AsOf     time.Time // of Standbys

	Master cluster.NodeID // as standby
	Up     bool
	InSync bool // as standby: the master says so; as master: true
	Reason string
	LagMS  int64
	Owed   int

	Alarm     string // of the trash, until a person unpins it
	Apply     apply.Stats
	Divergent int
	Proof     *Proof `json:"proof,omitempty"` // nil: none was ever begun here
	Live      LiveSet
	Events    watch.Stats // of the watcher, since the volume was opened
}

// Reports describes every volume in the order of the configuration.
func (e *Engine) Reports() []Report {
	out := make([]Report, 0, len(e.volumes))
	for _, v := range e.volumes {
		out = append(out, v.report())
	}
	return out
}

func (v *volume) report() Report {
	v.mu.Lock()
	o := v.open
	r := Report{
		Name: v.c.Name, Path: v.c.Path, Problem: v.problem, Paused: v.paused, Since: v.since, Leading: v.leading.Term != 0,
		Master: v.follow.master, Up: v.follow.up, InSync: v.follow.insync, Reason: v.follow.reason, LagMS: v.follow.lag.Milliseconds(), AsOf: v.follow.heard,
	}
	r.Live = v.live
	said := v.follow.report
	if p, known := v.prover.proof(); known {
		r.Proof = &p
	}
	v.mu.Unlock()
	if o == nil {
		if r.Problem == "" {
			r.Problem = "not open yet"
		}
		return r
	}
	r.Position, r.Owed, r.Backend = o.journal.Position(), o.journal.OwedLen(), string(o.watcher.Backend())
	r.Events = o.watcher.Stats()
	if r.Leading {
		r.InSync, r.Standbys, r.AsOf = true, v.standbys(o), time.Now()
	} else if len(said) > 0 {
		_ = json.Unmarshal(said, &r.Standbys) // the master's own words; unreadable means unknown
	}
	if o.applying.TryLock() { // never wait for a commit to make a report
		stats := o.applier.Stats()
		o.applying.Unlock()
		v.mu.Lock()
		v.applied = stats
		v.mu.Unlock()
	}
	v.mu.Lock()
	r.Apply = v.applied
	v.mu.Unlock()
	held, dropped := o.pruner.Held()
	r.Apply.Trash.Bytes += held
	r.Apply.Trash.Dropped += dropped
	r.Apply.Trash.Pins = v.counter.Pins(o.root)
	r.Alarm = alarmText(r.Apply.Trash.Pins)
	r.Divergent, _ = v.counter.Divergent(o.root) // unreadable: what was counted
	return r
}

func (v *volume) standbys(o *opened) []Standby {
	list := []Standby{}
	for n, f := range v.followers() {
		if f.stream == nil {
			continue
		}
		insync, lag := v.inSync(o, f)
		st := f.stream.State()
		s := Standby{Node: n, State: "lagging", Since: f.since, LagMS: lag.Milliseconds(), Pending: st.Pending, Owed: st.Owed, Position: st.Acked, Absent: st.Said.Absent,
			Divergent: st.Said.Divergent, Alarm: st.Said.Alarm, Progress: progressOf(f.stream.Progress()), Proven: v.provenAt(n)}
		s.LagP50, s.LagP99 = v.lagOf(n)
		if r := f.stream.Restless(); r.Files > 0 {
			s.Restless = &Restless{r.Files, strconv.Quote(shortened(r.Path)), r.Since}
		}
		for _, name := range st.Said.Sample {
			s.Sample = append(s.Sample, strconv.Quote(string(name)))
		}
		switch {
		case insync:
			s.State = "in-sync"
		case st.Busy:
			s.State = "catching-up"
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Standby) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

// shortened is the end of a long path: what every standby is told of goes in one frame.
func shortened(path string) string {
	if len(path) <= wire.MaxSampled {
		return path
	}
	return "..." + path[len(path)-wire.MaxSampled+3:]
}

// lagOf are the percentiles of a standby's lag in the last hour, in ms.
func (v *volume) lagOf(n cluster.NodeID) (p50, p99 float64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h := v.lags[n]
	if h == nil {
		return 0, 0
	}
	lags, known := h.percentiles(time.Now(), 50, 99)
	if !known {
		return 0, 0
	}
	return float64(lags[0].Microseconds()) / 1000, float64(lags[1].Microseconds()) / 1000
}

func (v *volume) standbyJSON() json.RawMessage {
	v.mu.Lock()
	o := v.open
	v.mu.Unlock()
	if o == nil {
		return nil
	}
	b, err := json.Marshal(v.standbys(o))
	if err != nil {
		return nil
	}
	return b
}

// Class is how fit this node is to lead, as far as its data goes: the worst of its volumes.
func (e *Engine) Class() cluster.Class {
	class := cluster.InSync
	for _, v := range e.volumes {
		class = min(class, v.class())
	}
	return class
}

// cutOffAfter is how long a stream may be down while its master leads before this
// node stops calling itself in-sync: the bound of in-sync, and time to connect again.
const cutOffAfter = 2 * time.Second

// cutOff reports whether a master leads without this node hearing its changes; the
// lock is held. Without a master what was in-sync last stays so.
func (v *volume) cutOff() bool {
	f := &v.follow
	return !f.lost.IsZero() && time.Since(f.lost) > cutOffAfter && v.e.currentRole().Master == f.master
}

func (v *volume) class() cluster.Class {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.problem != "" || v.open == nil:
		return cluster.Barred
	case v.leading.Term != 0 || v.mode == record && v.known:
		return cluster.InSync
	case v.follow.insync && !v.cutOff():
		return cluster.InSync
	case v.open.journal.OwedTrees() > 0:
		return cluster.Stale
	}
	return cluster.Lagging
}

// Divergent lists the changes kept aside in a volume.
func (e *Engine) Divergent(name cluster.VolumeID) ([]apply.Kept, error) {
	v := e.volume(name)
	if v == nil {
		return nil, &problem.Problem{Op: "list divergent changes", Kind: problem.NotFound, Subject: string(name)}
	}
	root, err := tree.Open(v.c.Path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return apply.ListDivergent(root)
}
