package demo

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// maxHistory bounds the changes remembered per run; at 100 a second it is far
// more than a reign of the demo lasts.
const maxHistory = 1 << 17

// runID names the changes of one reign of one node's writer.
type runID struct {
	node string
	run  int
}

func (r runID) String() string { return fmt.Sprintf("%s-%d", r.node, r.run) }

// ledger is what the writers say they did, in order.
type ledger struct {
	mu     sync.Mutex
	runs   map[runID]*history
	paused map[string]int // per node: how often its writer said that it rests
	done   int            // finished changes in all
}

func newLedger() *ledger {
	return &ledger{runs: map[runID]*history{}, paused: map[string]int{}}
}

// history is one run: intents and their completions, in order.
type history struct {
	id      runID
	changes []change
	open    map[int]int // intents by n -> index in changes; removed when done
}

func (l *ledger) add(c change) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.op == opPaused {
		l.paused[c.node]++
		return nil
	}
	id := runID{c.node, c.run}
	h := l.runs[id]
	if h == nil {
		h = &history{id: id, open: map[int]int{}}
		l.runs[id] = h
	}
	if len(h.changes) == maxHistory {
		return fmt.Errorf("run %s has more than %d changes", id, maxHistory)
	}
	if c.at == 0 {
		h.open[c.n] = len(h.changes)
		h.changes = append(h.changes, c)
		return nil
	}
	i, ok := h.open[c.n]
	if !ok {
		return fmt.Errorf("run %s finished change %d, which it never began", id, c.n)
	}
	h.changes[i].at = c.at
	delete(h.open, c.n)
	l.done++
	return nil
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *ledger) pauses(node string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused[node]
}

// snapshot copies the histories, oldest run of each node first.
func (l *ledger) snapshot() []history {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []history
	for _, h := range l.runs {
		out = append(out, history{id: h.id, changes: slices.Clone(h.changes)})
	}
	slices.SortFunc(out, func(a, b history) int {
		return cmp.Or(cmp.Compare(a.id.node, b.id.node), cmp.Compare(a.id.run, b.id.run))
	})
	return out
}

// What can stand at a path, besides the number of a change.
const (
	absent = -1 // nothing
	broken = -2 // something that no writer wrote whole
)

// version is what a path holds after a change.
type version struct {
	index int // of the change in the history; -1 = before the run
	at    instant
	value int  // number of the change that wrote the content, or absent
	maybe bool // the change was begun and not seen finished
}

// versions lists for every path of the run what it held, in order.
func (h *history) versions() map[string][]version {
	out := map[string][]version{}
	held := func(p string) int {
		if v := out[p]; len(v) > 0 {
			return v[len(v)-1].value
		}
		return absent
	}
	put := func(p string, i int, c change, value int) {
		if len(out[p]) == 0 {
			out[p] = []version{{index: -1, value: absent}}
		}
		out[p] = append(out[p], version{index: i, at: c.at, value: value, maybe: c.at == 0})
	}
	for i, c := range h.changes {
		switch c.op {
		case opRename:
			v := held(c.path)
			put(c.path, i, c, absent)
			put(c.to, i, c, v)
		case opDelete:
			put(c.path, i, c, absent)
		default:
			put(c.path, i, c, c.n)
		}
	}
	return out
}

// debt is content that somebody must still have: at path, put there by a change.
type debt struct {
	stamp
	path string
	by   change
}

// verdict is what became of one run's changes on one tree.
type verdict struct {
	wrong   []string // acknowledged changes that are missing or different
	missing map[int]change
	owed    map[string]debt // content of unacknowledged changes that is not in its place: by path
	torn    int
}

// judge compares what a tree holds of the run with what the run did. Changes
// finished before acked must be there; later ones may be.
func (h *history) judge(acked instant, tree map[string]int) verdict {
	v := verdict{missing: map[int]change{}, owed: map[string]debt{}}
	all := h.versions()
	for _, p := range slices.Sorted(maps.Keys(all)) {
		h.judgePath(&v, p, all[p], acked, tree)
	}
	for p := range tree {
		if _, ok := all[p]; !ok && !strings.HasSuffix(p, ".new") {
			v.wrong = append(v.wrong, p+": is there, and nobody wrote it")
		}
	}
	return v
}

func (h *history) judgePath(v *verdict, p string, versions []version, acked instant, tree map[string]int) {
	have, ok := tree[p]
	if !ok {
		have = absent
	}
	// From the newest acknowledged version on, everything is allowed.
	from := 0
	for i, ver := range versions {
		if !ver.maybe && ver.at < acked {
			from = i
		}
	}
	match := -1
	for i := len(versions) - 1; i >= from; i-- {
		if versions[i].value == have {
			match = i
			break
		}
	}
	if match < 0 && have == broken && from < len(versions)-1 {
		// Its last writer was not acknowledged: half a change is on the new master.
		v.torn++
		match = from
	}
	if match < 0 {
		v.wrong = append(v.wrong, fmt.Sprintf("%s: has %s, not %s", p, name(have), name(versions[from].value)))
		return
	}
	last := version{value: have}
	for _, ver := range versions[match+1:] {
		if ver.maybe {
			last = ver // begun: it may have taken away what was there before
			continue
		}
		v.missing[ver.index] = h.changes[ver.index]
		last = ver
	}
	if !last.maybe && last.value != have && last.value >= 0 {
		v.owed[p] = debt{stamp{node: h.id.node, run: h.id.run, n: last.value}, p, h.changes[last.index]}
	}
}

func name(value int) string {
	switch value {
	case absent:
		return "nothing"
	case broken:
		return "a broken file"
	}
	return fmt.Sprintf("change %d", value)
}
