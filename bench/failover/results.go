package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results are the figures of one call, or of the calls that were merged.
type results struct {
	Machine string                          `json:"machine"`
	Engines map[string]string               `json:"engines"` // version and settings
	Rows    map[string]map[string]*measured `json:"rows"`    // row and load -> engine
}

// measured are the trials of one engine in one row.
type measured struct {
	Date    string  `json:"date"`
	Others  float64 `json:"load_before"`       // of the whole machine, other people's work included
	Seconds float64 `json:"seconds,omitempty"` // of a steady row
	Trials  []trial `json:"trials"`
}

func newResults() *results {
	return &results{Engines: map[string]string{}, Rows: map[string]map[string]*measured{}}
}

func key(row, load string) string { return row + " " + load }

func (r *results) add(row, load string, e engine, t trial, d time.Duration, others float64) {
	if r.Rows[key(row, load)] == nil {
		r.Rows[key(row, load)] = map[string]*measured{}
	}
	m := r.Rows[key(row, load)][e.name()]
	if m == nil {
		m = &measured{Date: time.Now().UTC().Format(time.DateOnly), Others: others, Seconds: d.Seconds()}
		r.Rows[key(row, load)][e.name()], r.Engines[e.name()] = m, e.about()
	}
	for _, v := range []*float64{&t.Blackout, &t.Two, &t.TwoLast, t.BothLast} {
		if v == nil {
			continue
		}
		*v = math.Round(*v*10) / 10
	}
	m.Trials = append(m.Trials, t)
}

func loadAverage() (v float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, _ = fmt.Sscan(string(b), &v)
	}
	return v
}

func machine() string {
	cpu := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d x %s, Linux %s", runtime.NumCPU(), cpu, strings.TrimSpace(string(kernel)))
}

// write merges into the data file, engine by engine, and writes both files.
func (r *results) write(data, page string) error {
	all := newResults()
	b, err := os.ReadFile(data)
	if err == nil {
		err = json.Unmarshal(b, all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all.Machine = r.Machine
	for name, about := range r.Engines {
		all.Engines[name] = about
	}
	for row, by := range r.Rows {
		if all.Rows[row] == nil {
			all.Rows[row] = map[string]*measured{}
		}
		for e, m := range by {
			all.Rows[row][e] = m
		}
	}
	if b, err = json.Marshal(all); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(data, append(b, '\n'), 0o644), os.WriteFile(page, []byte(all.page()), 0o644))
}

// page is the whole report.
func (r *results) page() string {
	var b strings.Builder
	b.WriteString("# Failover: what a client sees\n\nWritten by `make bench-failover`; every trial is in [failover.json](failover.json).\n\n")
	fmt.Fprintf(&b, "Machine: %s. Three nodes and a client share it, in network namespaces joined by two bridges without delay or loss. The client asks a UDP echo\n"+
		"through the address each 5 ms; client and echo run with real-time priority, so that the ruler is not what is late. Blackout: the longest time between two answers, so 5 ms is none.\n"+
		"Two holders: two nodes have the address that the client could reach, for 5 ms or longer; \"until\" is the end of the last such moment, counted from the strike.\n"+
		"Two answer: a third party asks all cards of the link for the address each 5 ms, and two answer the same question: that is what a client can meet. A kernel may have an address and be silent for it. Busy: two endless loops beside the nodes.\n"+
		"p95 of fewer than 20 trials is the worst trial. \"Load\" is the machine's load average at the start of the row: with other work on it than this, the figures are an upper bound.\n"+
		"Refused: a planned switch was asked for while the successor was not heard (a machine that is late); nothing changed, and it was asked for again.\n"+
		"A row with fewer than 20 repetitions is a first look on a machine that was shared with other work. The full run, on a machine of its own: `LONG=1 make bench-failover` (some hours).\n\n", r.Machine)
	for _, e := range engines() {
		if about, ok := r.Engines[e.name()]; ok {
			fmt.Fprintf(&b, "- **%s**: %s\n", e.name(), about)
		}
	}
	b.WriteString("\n" + r.table())
	for _, c := range causes() {
		r.section(&b, c.name, c.title)
	}
	r.section(&b, steadyRow, "nothing happens: every change of the address is a false one")
	return b.String()
}

func (r *results) section(b *strings.Builder, row, title string) {
	if r.Rows[key(row, "idle")] == nil && r.Rows[key(row, "busy")] == nil {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n| engine | load | n | blackout median | p95 | max ms | two holders median | max ms | until, max ms | two answer max ms | until, max ms | times the address came | date | machine's load |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n", row, title)
	for _, load := range loads() {
		for _, e := range engines() {
			m := r.Rows[key(row, load)][e.name()]
			if m == nil {
				continue
			}
			n := fmt.Sprint(len(m.Trials))
			if m.Seconds > 0 {
				n = fmt.Sprintf("%.0f s", m.Seconds)
			}
			refused := 0
			for _, t := range m.Trials {
				refused += t.Refused
			}
			if refused > 0 {
				n += fmt.Sprintf(", %d refused", refused)
			}
			black, two, until, came := m.of(blackoutOf), m.of(twoOf), m.of(untilOf), m.of(cameOf)
			fmt.Fprintf(b, "| %s | %s | %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %s | %.0f..%.0f | %s | %.1f |\n", e.name(), load, n,
				median(black), p95(black), slices.Max(black), median(two), slices.Max(two), slices.Max(until), m.both(), slices.Min(came), slices.Max(came), m.Date, m.Others)
		}
	}
}

// both are two columns; an older measurement did not ask the cards.
func (m *measured) both() string {
	longest, last := 0.0, 0.0
	for _, t := range m.Trials {
		if t.Both == nil || t.BothLast == nil {
			return "- | -"
		}
		longest, last = max(longest, *t.Both), max(last, *t.BothLast)
	}
	return fmt.Sprintf("%.0f | %.0f", longest, last)
}

func blackoutOf(t trial) float64 { return t.Blackout }
func twoOf(t trial) float64      { return t.Two }
func untilOf(t trial) float64    { return t.TwoLast }

// bothLastOf is no number where the cards were not asked; a maximum with it is none either.
func bothLastOf(t trial) float64 {
	if t.BothLast == nil {
		return math.NaN()
	}
	return *t.BothLast
}
func cameOf(t trial) float64 { return float64(t.Came) }

func (m *measured) of(what func(trial) float64) (out []float64) {
	for _, t := range m.Trials {
		out = append(out, what(t))
	}
	return out
}

// goal is what one of our profiles is to reach.
type goal struct {
	row, engine, peer string
	text              string
	what              func(trial) float64
	of                func([]float64) float64
	most              float64
}

func goals() (out []goal) {
	most := func(v []float64) float64 { return slices.Max(v) }
	for _, p := range []struct {
		engine, peer string
		cut          float64
	}{{"default", "keepalived-0.06", 280}, {"fast", "keepalived-0.01", 60}} {
		out = append(out,
			goal{"power-cut", p.engine, p.peer, "blackout median", blackoutOf, median, p.cut},
			goal{"planned", p.engine, p.peer, "blackout median", blackoutOf, median, 15},
			goal{"planned", p.engine, p.peer, "blackout max", blackoutOf, most, 50},
			goal{"link-down", p.engine, p.peer, "blackout max", blackoutOf, most, 150},
			goal{"kill", p.engine, p.peer, "blackout max", blackoutOf, most, 1600},
			goal{"kill", p.engine, p.peer, "last moment with two holders", untilOf, most, 1500},
			goal{"kill", p.engine, p.peer, "last moment at which two answered", bothLastOf, most, 1500},
			goal{"freeze", p.engine, p.peer, "blackout max", blackoutOf, most, 1600},
			goal{"freeze", p.engine, p.peer, "last moment with two holders", untilOf, most, 1500},
			goal{"freeze", p.engine, p.peer, "last moment at which two answered", bothLastOf, most, 1500},
			goal{"hang", p.engine, p.peer, "last moment with two holders", untilOf, most, 1500},
			goal{"hang", p.engine, p.peer, "last moment at which two answered", bothLastOf, most, 1500},
			goal{steadyRow, p.engine, p.peer, "false changes", cameOf, most, 0})
	}
	return out
}

// table is one line per goal and load.
func (r *results) table() string {
	var b strings.Builder
	b.WriteString("| cause | what | load | profile | to reach | ours | keepalived at equal detection | ours : keepalived | reached |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, g := range goals() {
		for _, load := range loads() {
			m := r.Rows[key(g.row, load)][g.engine]
			if m == nil {
				continue
			}
			mine, theirs, ratio, reached := g.of(m.of(g.what)), "-", "-", "yes"
			if math.IsNaN(mine) {
				continue
			}
			if p := r.Rows[key(g.row, load)][g.peer]; p != nil && !math.IsNaN(g.of(p.of(g.what))) {
				v := g.of(p.of(g.what))
				theirs = fmt.Sprintf("%.0f", v)
				if v > 0 {
					ratio = fmt.Sprintf("%.2f", mine/v)
				}
			}
			if mine > g.most {
				reached = "**no**"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | <= %.0f | %.0f | %s | %s | %s |\n", g.row, g.text, load, g.engine, g.most, mine, theirs, ratio, reached)
		}
	}
	return b.String()
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// p95 is the smallest value that 95 % do not exceed.
func p95(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[int(math.Ceil(0.95*float64(len(s))))-1]
}
