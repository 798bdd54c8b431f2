package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results are the figures of one call, or of the calls that were merged.
type results struct {
	Machine string               `json:"machine"`
	Rows    map[string]*measured `json:"rows"`
}

// measured is one row.
type measured struct {
	Date     string             `json:"date"`
	Runs     int                `json:"runs"`
	Load     string             `json:"load"`           // load averages of the machine when it was measured; about 2 are the nodes' own
	Note     string             `json:"note,omitempty"` // how it was run
	Versions map[string]string  `json:"versions"`       // engine -> version
	Metrics  []string           `json:"metrics"`        // in the order in which they were told first
	Figures  map[string]figures `json:"figures"`        // engine -> metric -> one value per run
	// Curves are the percentiles 0 to 100 of the latencies of all runs, ms, for each engine.
	Curves map[string][]float64 `json:"curves,omitempty"`

	samples map[string][]float64
}

type figures map[string][]float64

func newResults() *results { return &results{Rows: map[string]*measured{}} }

func (r *results) add(row string, e engine, metric string, value float64) {
	m := r.Rows[row]
	if m == nil {
		m = &measured{Date: time.Now().UTC().Format(time.DateOnly), Versions: map[string]string{}, Figures: map[string]figures{}}
		r.Rows[row] = m
	}
	if m.Figures[e.name()] == nil {
		m.Figures[e.name()], m.Versions[e.name()] = figures{}, e.version()
	}
	if !slices.Contains(m.Metrics, metric) {
		m.Metrics = append(m.Metrics, metric)
	}
	m.Figures[e.name()][metric] = append(m.Figures[e.name()][metric], value)
}

func (r *results) sample(row string, e engine, ms []float64) {
	m := r.Rows[row]
	if m.samples == nil {
		m.samples, m.Curves = map[string][]float64{}, map[string][]float64{}
	}
	m.samples[e.name()] = append(m.samples[e.name()], ms...)
	curve := make([]float64, 101)
	for i := range curve {
		curve[i] = percentile(m.samples[e.name()], float64(i)/100)
	}
	m.Curves[e.name()] = curve
}

// describe notes the machine, the number of repeats, and what the caller says of how it was run.
func (r *results) describe(runs int, note string) {
	load, _ := os.ReadFile("/proc/loadavg")
	for _, m := range r.Rows {
		m.Runs, m.Note = runs, note
		m.Load = strings.Join(strings.Fields(string(load))[:min(3, len(strings.Fields(string(load))))], " ")
	}
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
	r.Machine = fmt.Sprintf("%d x %s, %d MiB RAM, Linux %s", runtime.NumCPU(), cpu, field("/proc/meminfo", "MemTotal:")/1024, strings.TrimSpace(string(kernel)))
}

// write merges the rows into those of the data file and writes it, the page, and the pictures into images.
func (r *results) write(data, page, images string) error {
	all := newResults()
	b, err := os.ReadFile(data)
	if err == nil {
		err = json.Unmarshal(b, all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(r.Rows) > 0 {
		all.Machine = r.Machine
	}
	for name, m := range r.Rows {
		all.Rows[name] = m
	}
	if b, err = json.MarshalIndent(all, "", " "); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(data, append(b, '\n'), 0o644), os.WriteFile(page, []byte(all.page()), 0o644), all.draw(images))
}

// goal is what a row is to reach.
type goal struct {
	row, title string
	text       string // as the goal is put
	metric     string // that decides, and the ratio is made of
	atMost     float64
	ofPeer     float64 // > 0: at most this times the best peer's figure instead
}

func goals() []goal {
	return []goal{
		{"latency20", "1-4 KiB files, 20/s", "p50 <= 3 ms, p99 <= 10 ms", "p99 ms", 10, 0},
		{"latency200", "1-4 KiB files, 200/s", "p50 <= 3 ms, p99 <= 10 ms", "p99 ms", 10, 0},
		{"latency200", "CPU per file at 200/s", "<= 0.5 ms", "CPU ms/file", 0.5, 0},
		{"replace200", "the same, half of them replace a file", "(durable before visible)", "p99 ms", 10, 0},
		{"latency2000", "1-4 KiB files, 2,000/s for 20 s", "p99 <= 50 ms", "p99 ms", 50, 0},
		{"create", "20,000 x 1 KiB created, nested", "<= 2.0 s", "visible s", 2, 0},
		{"create", "CPU of that", "<= 3.0 s", "CPU s", 3, 0},
		{"rename", "rename of a directory with 10,000 files", "<= 0.03 s", "visible s", 0.03, 0},
		{"delete", "delete of 20,000 files", "<= generator + 0.5 s", "visible s", 0, 0},
		{"new1g", "one new 1 GiB file", "<= the peer's", "visible s", 0, 1},
		{"rewrite", "1,000 random 4 KiB rewrites in it", "<= 0.4 s visible, 0.7 s durable", "visible s", 0.4, 0},
		{"sparse", "sparse 1 GiB, 4 MiB of data", "<= 0.2 s", "visible s", 0.2, 0},
		{"initial", "first sync, 100,000 files + 2 GiB", "<= 0.7 x rsync", "visible s", 0, 0.7},
		{"return", "return after 100 changes in 100,000 files", "<= 0.2 s", "visible s", 0.2, 0},
		{"idle", "idle, 100,000 files, 10,000 directories", "RSS <= 40 MiB", "master RSS MiB", 40, 0},
		{"stopped", "one standby frozen for 60 s", "the other's p99 unchanged", "other's p99 ms meanwhile", 10, 0},
	}
}

// page is the whole report.
func (r *results) page() string {
	var b strings.Builder
	b.WriteString("# Mirror: figures\n\nWritten by `make bench-mirror`; every value is in [results.json](results.json).\n\n")
	fmt.Fprintf(&b, "Machine: %s. Three nodes share it, in network namespaces joined by a bridge, without delay or loss; every node has a disk of its own\n"+
		"(a loop device): ext4 for latency, XFS for the rest. Ours is encrypted (TLS 1.3), the peers are not. CPU is of all three nodes without the\n"+
		"generator. Visible: the right bytes are on both standbys. Durable: `sync --wait` has returned as well; no peer syncs. Compare ratios, not seconds of other machines;\na load (below) far above 2 means that others used the machine, and only the ratios say something.\n\n", r.Machine)
	b.WriteString(r.table())
	b.WriteString(r.growth())
	b.WriteString("\n## Everything that was measured\n\nMedian [least .. most] of the repeats.\n")
	for _, name := range append(rowNames(false), rowNames(true)...) {
		m := r.Rows[name]
		if m == nil {
			continue
		}
		engines := m.engines()
		fmt.Fprintf(&b, "\n### %s\n\n%s, %d repeats, load %s", name, m.Date, m.Runs, m.Load)
		if m.Note != "" {
			b.WriteString("; " + m.Note)
		}
		for _, e := range engines {
			fmt.Fprintf(&b, "; %s: %s", e, m.Versions[e])
		}
		fmt.Fprintf(&b, "\n\n| | %s |\n|---|%s\n", strings.Join(engines, " | "), strings.Repeat("---|", len(engines)))
		for _, metric := range m.Metrics {
			fmt.Fprintf(&b, "| %s |", metric)
			for _, e := range engines {
				fmt.Fprintf(&b, " %s |", spread(m.Figures[e][metric]))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func (m *measured) engines() (names []string) {
	for _, e := range engines() {
		if m.Figures[e.name()] != nil {
			names = append(names, e.name())
		}
	}
	return names
}

// table is one line per goal.
func (r *results) table() string {
	var b strings.Builder
	b.WriteString("| work | to reach | ours | peers | ours : best peer | reached |\n|---|---|---|---|---|---|\n")
	for _, g := range goals() {
		m := r.Rows[g.row]
		if m == nil || m.Figures[ours] == nil {
			continue
		}
		mine := median(m.Figures[ours][g.metric])
		best, peers := 0.0, []string{}
		for _, e := range m.engines() {
			values := m.Figures[e][g.metric]
			if e == ours || len(values) == 0 {
				continue
			}
			peers = append(peers, e+" "+spread(values))
			if v := median(values); best == 0 || v < best {
				best = v
			}
		}
		ratio := "-"
		if best > 0 {
			ratio = number(mine / best)
		}
		fmt.Fprintf(&b, "| %s (%s) | %s | %s | %s | %s | %s |\n", g.title, g.metric, g.text, spread(m.Figures[ours][g.metric]), strings.Join(peers, "; "), ratio, g.reached(m, mine, best))
	}
	return b.String()
}

// reached says whether our median reaches the goal.
func (g goal) reached(m *measured, mine, best float64) string {
	most := g.atMost
	switch {
	case g.row == "delete":
		most = median(m.Figures[ours]["generator s"]) + 0.5
	case g.row == "latency20" || g.row == "latency200" && g.metric == "p99 ms":
		if median(m.Figures[ours]["p50 ms"]) > 3 {
			return "no (p50 " + number(median(m.Figures[ours]["p50 ms"])) + ")"
		}
	case g.row == "rewrite" && median(m.Figures[ours]["durable s"]) > 0.7:
		return "no (durable " + number(median(m.Figures[ours]["durable s"])) + ")"
	case g.row == "stopped":
		most = 1.5*median(m.Figures[ours]["other's p99 ms before"]) + 2 // noise of one run
	case g.ofPeer > 0 && best == 0:
		return "no peer"
	case g.ofPeer > 0:
		most = g.ofPeer * best
	}
	if lost := m.Figures[ours]["lost"]; len(lost) > 0 && slices.Max(lost) > 0 {
		return "no (lost)"
	}
	if mine <= most {
		return "yes"
	}
	return "no"
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func spread(values []float64) string {
	switch len(values) {
	case 0:
		return "-"
	case 1:
		return number(values[0])
	}
	return fmt.Sprintf("%s [%s .. %s]", number(median(values)), number(slices.Min(values)), number(slices.Max(values)))
}

// number has three figures that say something.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
