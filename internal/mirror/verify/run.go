package verify

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

const (
	// tries is how often what differs is looked at behind a barrier, at once and again at the end of the walk.
	tries = 3
	// tryPause lets whoever writes get on.
	tryPause = 300 * time.Millisecond
	// maxLater bounds what is kept for the end; more counts as not proven.
	maxLater = 10_000
	// maxFindings bounds what is listed; more is counted.
	maxFindings = 1000
	// saveEvery is how much is done again after a crash, at most.
	saveEvery = 5 * time.Second
)

// Finding is a difference.
type Finding struct {
	Path     []byte         `json:"path"` // bytes: names need not be UTF-8
	Node     cluster.NodeID `json:"node"`
	What     string         `json:"what"`
	Bad      cluster.NodeID `json:"bad,omitempty"` // whose copy is wrong; "" if it is not known
	Right    string         `json:"right"`         // whose copy, by the rule of Judge
	At       time.Time      `json:"at"`
	Repaired bool           `json:"repaired,omitempty"`
	Why      string         `json:"why,omitempty"` // it was not repaired
}

// NodeState is how far the proof has come with one standby.
type NodeState struct {
	Differs  int64     `json:"differs"`  // found
	Repaired int64     `json:"repaired"` // of them
	Unproven int64     `json:"unproven"` // kept changing
	Away     string    `json:"away,omitempty"`
	Proven   time.Time `json:"proven"` // everything was equal, or repaired, since this time
}

// State is a proof's, kept over restarts.
type State struct {
	Began    time.Time                     `json:"began"`
	Ended    time.Time                     `json:"ended"` // zero: it can be gone on with
	Position cluster.Position              `json:"position"`
	Rate     int64                         `json:"rate"`
	Dir      []byte                        `json:"dir"`   // done: everything before this directory,
	After    []byte                        `json:"after"` // and in it the names up to this one;
	All      bool                          `json:"all"`   // or all of its names
	Files    int64                         `json:"files"`
	Bytes    int64                         `json:"bytes"`
	Nodes    map[cluster.NodeID]*NodeState `json:"nodes"`
	Findings []Finding                     `json:"findings"`
	Sample   [][]byte                      `json:"sample,omitempty"` // of what kept changing
}

// maxSample bounds State.Sample.
const maxSample = 20

// Walk says what a proof works with.
type Walk struct {
	Self     cluster.NodeID
	Reader   *Reader
	Standbys map[cluster.NodeID]Standby
	// Barrier returns when everything written here before the call is on the standby.
	Barrier func(ctx context.Context, node cluster.NodeID) error
	// Fetch replaces the damaged file at rel here by the right standby's copy, whose digest is hash. Nil: nothing is repaired.
	Fetch func(ctx context.Context, rel string, from Standby, e *Entry) error
	// Fix has standbys repaired.
	Fix bool
	// TrustMaster takes the master's copy for right where Judge cannot tell.
	TrustMaster bool
	// Save keeps the state; it is called from time to time, and at the end.
	Save func(*State) error

	saved time.Time
	later []place
	base  [2]int64 // files and bytes of before
}

type place struct{ dir, name string }

// Run proves, from where state stands.
func Run(ctx context.Context, w *Walk, s *State) error {
	for n := range w.Standbys {
		if s.Nodes[n] == nil {
			s.Nodes[n] = &NodeState{Away: "it was not there when the proof began"}
			if len(s.Dir) == 0 && len(s.After) == 0 && !s.All {
				s.Nodes[n].Away = ""
			}
		}
	}
	for n, st := range s.Nodes {
		if w.Standbys[n] == nil && st.Away == "" {
			st.Away = "not connected"
		}
	}
	w.base = [2]int64{s.Files, s.Bytes}
	err := w.dir(ctx, s, "")
	if err == nil {
		err = w.again(ctx, s)
	}
	w.count(s)
	if err == nil {
		w.end(s)
	}
	if serr := w.Save(s); err == nil {
		err = serr
	}
	return err
}

func (w *Walk) end(s *State) {
	s.Ended = time.Now()
	run := s.Began.UnixNano()
	if err := w.Reader.Index.Done(run); err != nil { // it only knows less
		s.Sample = append(s.Sample, []byte(err.Error()))
	}
	for n, st := range s.Nodes {
		if st.Away == "" && w.Standbys[n] != nil {
			if err := w.Standbys[n].Done(run); err != nil {
				st.Away = err.Error()
			}
		}
		if st.Away == "" && st.Differs == st.Repaired && st.Unproven == 0 {
			st.Proven = s.Began
		}
	}
}

func (w *Walk) count(s *State) { s.Files, s.Bytes = w.base[0]+w.Reader.Files, w.base[1]+w.Reader.Bytes }

// before orders directories as the walk meets them: a directory before what is in it.
func before(a, b string) bool {
	if a == "" || b == "" {
		return a == "" && b != ""
	}
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) < 0
}

// dir proves the names of a directory, then its subdirectories.
func (w *Walk) dir(ctx context.Context, s *State, dir string) error {
	at := string(s.Dir)
	if before(dir, at) && !tree.Below(at, dir) {
		return nil // all of it is done
	}
	names, err := w.Reader.names(dir)
	if err != nil {
		return err
	}
	if !before(dir, at) && !(dir == at && s.All) {
		if err := w.ranges(ctx, s, dir, names); err != nil {
			return err
		}
	}
	for _, name := range names {
		below := tree.Join(dir, name)
		m, err := w.Reader.Root.Glance(below)
		if err != nil || m.Kind != tree.Dir {
			continue // what is not there any more has been compared, or comes again
		}
		if err := w.dir(ctx, s, below); err != nil {
			return err
		}
	}
	return nil
}

// ranges proves the names of one directory, some at a time.
func (w *Walk) ranges(ctx context.Context, s *State, dir string, names []string) error {
	after := ""
	if dir == string(s.Dir) {
		after = string(s.After)
	}
	names = names[lowest(names, after):]
	for {
		n := w.until(dir, names)
		a := Ask{Dir: []byte(dir), After: []byte(after)}
		if n < len(names) {
			a.Until = []byte(names[n-1])
		}
		if err := w.one(ctx, s, a); err != nil {
			return err
		}
		s.Dir, s.After, s.All = a.Dir, a.Until, n == len(names)
		w.count(s)
		if time.Since(w.saved) > saveEvery {
			w.saved = time.Now()
			if err := w.Save(s); err != nil {
				return err
			}
		}
		if s.All {
			return nil
		}
		after, names = string(a.Until), names[n:]
	}
}

func lowest(names []string, after string) int {
	if after == "" {
		return 0
	}
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	return i
}

// until is how many of the names make one range.
func (w *Walk) until(dir string, names []string) int {
	bytes := int64(0)
	for i, name := range names {
		if i >= rangeNames || bytes >= rangeBytes {
			return i
		}
		if m, err := w.Reader.Root.Glance(tree.Join(dir, name)); err == nil && m.Kind == tree.File {
			bytes += m.Size
		}
	}
	return len(names)
}

// answers are what all nodes have in one range.
type answers struct {
	mine map[string]*Entry
	of   map[cluster.NodeID]map[string]*Entry
	end  map[cluster.NodeID]End
}

// ask has everybody read at the same time. A standby that fails is away from then on.
func (w *Walk) ask(ctx context.Context, s *State, a Ask) (answers, error) {
	a.Rate, a.Run = s.Rate, s.Began.UnixNano()
	got := answers{of: map[cluster.NodeID]map[string]*Entry{}, end: map[cluster.NodeID]End{}}
	nodes := w.present(s)
	lists, ends, errs := make([][]Entry, len(nodes)), make([]End, len(nodes)), make([]error, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			lists[i], ends[i], errs[i] = w.Standbys[n].Digests(a)
			return nil
		})
	}
	mine, _, err := w.Reader.Digests(ctx, a)
	_ = g.Wait() // the errors are in errs
	if err != nil {
		return got, err
	}
	got.mine = byName(mine)
	for i, n := range nodes {
		switch {
		case ctx.Err() != nil:
			return got, ctx.Err() // nobody went away: we did
		case errs[i] != nil:
			s.Nodes[n].Away = errs[i].Error()
			continue
		}
		got.of[n], got.end[n] = byName(lists[i]), ends[i]
	}
	return got, ctx.Err()
}

func byName(list []Entry) map[string]*Entry {
	m := make(map[string]*Entry, len(list))
	for i := range list {
		m[string(list[i].Name)] = &list[i]
	}
	return m
}

// present are the standbys that still answer, in order.
func (w *Walk) present(s *State) (nodes []cluster.NodeID) {
	for n := range w.Standbys {
		if s.Nodes[n].Away == "" {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, cmp.Compare)
	return nodes
}

// suspects are the names that are not the same everywhere, or that somebody calls damaged.
func (g *answers) suspects() (names []string) {
	seen := map[string]bool{}
	for n, list := range g.of {
		for name := range list {
			seen[name] = seen[name] || suspicious(g.mine[name], list[name], g.end[n])
		}
		for name, e := range g.mine {
			seen[name] = seen[name] || suspicious(e, list[name], g.end[n])
		}
	}
	for name, yes := range seen {
		if yes {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func suspicious(mine, theirs *Entry, end End) bool {
	if mine == nil {
		mine = &Entry{}
	}
	if theirs == nil {
		theirs = &Entry{}
	}
	return mine.Moving || theirs.Moving || mine.Damaged() || theirs.Damaged() || differ(mine, theirs, end) != ""
}

// one proves one range.
func (w *Walk) one(ctx context.Context, s *State, a Ask) error {
	got, err := w.ask(ctx, s, a)
	if err != nil {
		return err
	}
	names := got.suspects()
	for part := range slices.Chunk(names, rangeNames) {
		left, err := w.settle(ctx, s, string(a.Dir), part)
		if err != nil {
			return err
		}
		for _, name := range left {
			if len(w.later) < maxLater {
				w.later = append(w.later, place{string(a.Dir), name})
			} else {
				w.unproven(s, string(a.Dir), name)
			}
		}
	}
	return nil
}

// again looks once more at what kept changing.
func (w *Walk) again(ctx context.Context, s *State) error {
	for len(w.later) > 0 { // in the order of the walk, so what is in one directory lies together
		dir, names := w.later[0].dir, []string{}
		for len(w.later) > 0 && w.later[0].dir == dir && len(names) < rangeNames {
			names, w.later = append(names, w.later[0].name), w.later[1:]
		}
		left, err := w.settle(ctx, s, dir, names)
		if err != nil {
			return err
		}
		for _, name := range left {
			w.unproven(s, dir, name)
		}
	}
	return nil
}

func (w *Walk) unproven(s *State, dir, name string) {
	for _, n := range w.present(s) {
		s.Nodes[n].Unproven++
	}
	if len(s.Sample) < maxSample {
		s.Sample = append(s.Sample, []byte(tree.Join(dir, name)))
	}
}
