package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/bench/plot"
)

// Bounds of "flat". The tree grows all the time, and who leads has more to remember than who follows.
const (
	mayGrowBy    = 0.35 // of the memory, from the first third to the last
	mayGrowMiB   = 16.0
	mayGrowFiles = 12.0
	shownLost    = 20
)

// check is one thing that must be so.
type check struct {
	what string
	ok   bool
	said string
}

func (r *result) checks() []check {
	unexplained, first := 0, ""
	for _, c := range r.changes {
		if c.record == nil {
			unexplained++
			first = cmp.Or(first, fmt.Sprintf("; the first at %s, %s after %s", r.clock(c.at), c.node, c.from))
		}
	}
	grown := r.grown()
	list := []check{
		{"The cluster is whole after the last fault", r.formed == "", cmp.Or(r.formed, fmt.Sprintf("after %s", r.wholeIn.Round(time.Second)))},
		{"No acknowledged record is lost", len(r.losses.Lost) == 0, r.losses.text()},
		{"All nodes hold the same tree", len(r.unequal) == 0, cmp.Or(strings.Join(r.unequal, "; "), "names and bytes")},
		{"Memory and descriptors are flat", len(grown) == 0, cmp.Or(strings.Join(grown, "; "), "see below")},
		{"Every change of master has its record", unexplained == 0, fmt.Sprintf("%d changes, %d without a record%s", len(r.changes), unexplained, first)},
		{"No volume waited for a person", len(r.paused) == 0, cmp.Or(strings.Join(r.paused, " | "), "none")},
	}
	alarms := check{"No alarm stands at the end", len(r.alarms) == 0, cmp.Or(strings.Join(r.alarms, "; "), "none")}
	if !r.waited {
		alarms.said += " (the end was too short: a failover is told for five minutes)"
		alarms.ok = !slices.ContainsFunc(r.alarms, func(a string) bool { return !strings.HasPrefix(a, "failover:") })
	}
	if len(r.calming) > 0 {
		alarms.said += fmt.Sprintf("; %d are calming down: their cause is gone, and it is waited whether it stays so (as long as they came back often)", len(r.calming))
	}
	return append(append(list, alarms), r.grounds()...)
}

// grounds are the checks that there was something to judge, and that nothing was started again that nobody had ended.
func (r *result) grounds() []check {
	kinds := faults()
	not := missed(r.faults, kinds)
	struck := check{"Every kind of fault struck", len(not) == 0, fmt.Sprintf("%d of %d kinds", len(kinds)-len(not), len(kinds))}
	if len(not) > 0 {
		struck.said += "; not: " + strings.Join(not, ", ")
	}
	if r.o.long < whole {
		struck.said += " (a part of a soak has no time for all)"
		struck.ok = len(not) < len(kinds)
	}
	var ends []string
	for _, e := range byThemselves(r.ends, r.faults) {
		ends = append(ends, fmt.Sprintf("%s at %s (%s)", e.node, r.clock(e.at), e.how))
	}
	return []check{
		{"Clients wrote, and barriers covered what they wrote", r.losses.Claims > 0 && r.losses.Synced > 0 && r.told.syncs > 0, fmt.Sprintf("%d records, %d barriers, that covered %d", r.losses.Claims, r.told.syncs, r.losses.Synced)},
		struck,
		{"No agent ended by itself", len(ends) == 0, cmp.Or(strings.Join(ends, "; "), fmt.Sprintf("%d ends, each by a fault", len(r.ends)))},
	}
}

func (r *result) passed() bool {
	return !slices.ContainsFunc(r.checks(), func(c check) bool { return !c.ok })
}

func (l losses) text() string {
	s := fmt.Sprintf("%d acknowledged to clients: %d covered by a barrier, %d more synced by the application, %d plain", l.Claims, l.Synced, l.Durable, l.Claims-l.Synced-l.Durable)
	if l.Aside > 0 {
		s += fmt.Sprintf("; %d of the last two kinds are kept aside on a node", l.Aside)
	}
	if l.SplitSynced > 0 {
		s += fmt.Sprintf("; %d covered by a barrier are kept aside, from a parted or doubly struck cluster", l.SplitSynced)
	}
	if l.Unsynced > 0 {
		s += fmt.Sprintf("; %d plain ones went with the power of their node before anything had synced them", l.Unsynced)
	}
	if len(l.Lost) > 0 {
		s += fmt.Sprintf("; LOST: %d", len(l.Lost))
	}
	return s
}

// grown names the nodes whose memory or descriptors are not flat. Each process may grow as much as both together: one that
// shrinks does not hide the other, and two that grow a little do not hide that their node does.
func (r *result) grown() (list []string) {
	for _, n := range r.nodes {
		agent, beat, f := r.trends(n)
		for _, m := range []struct {
			of string
			trend
		}{{"agent", agent}, {"beat process", beat}, {"agent and beat process together", r.both(n)}} {
			if m.Last-m.First > max(mayGrowMiB, mayGrowBy*m.First) {
				list = append(list, fmt.Sprintf("memory of the %s of %s: from %.0f to %.0f MiB", m.of, n, m.First, m.Last))
			}
		}
		if f.Last-f.First > mayGrowFiles {
			list = append(list, fmt.Sprintf("descriptors of %s: from %.0f to %.0f", n, f.First, f.Last))
		}
	}
	return list
}

func (r *result) trends(node string) (agent, beat, files trend) {
	list := r.meter.nodes[node]
	return trendOf(list, func(s sample) float64 { return s.MiB }), trendOf(list, func(s sample) float64 { return s.Beat }), trendOf(list, func(s sample) float64 { return s.Files })
}

// both is the memory of a node's two processes together.
func (r *result) both(node string) trend {
	return trendOf(r.meter.nodes[node], func(s sample) float64 { return s.MiB + s.Beat })
}

func (r *result) clock(t time.Time) string {
	d := t.Sub(r.began)
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// page is the result as people read it.
func (r *result) page() string {
	var b strings.Builder
	var u unix.Utsname
	_ = unix.Uname(&u) // then the kernel's name is empty
	fmt.Fprintf(&b, "# Soak\n\nA day of faults in %s: four nodes and a client in network namespaces on one machine (%d CPUs, Linux %s, %s), ext4 on loop devices, `SEED=%d`.\n", r.o.long, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.Version(), r.o.seed)
	fmt.Fprintf(&b, "Made by `make soak`; the same seed makes the same faults in the same order, at times that depend on the machine. Its load average over 1, 5 and 15 minutes at the end: %s.\n\n| | | |\n|---|---|---|\n", r.load)
	for _, c := range r.checks() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.what, map[bool]string{true: "yes", false: "**NO**"}[c.ok], cell(c.said))
	}
	if len(r.losses.Lost) > 0 {
		b.WriteString("\nNot found:\n\n")
		for _, l := range r.losses.Lost[:min(shownLost, len(r.losses.Lost))] {
			fmt.Fprintf(&b, "- %s\n", l)
		}
	}
	r.seenByClients(&b)
	r.faultTable(&b)
	r.trendTable(&b)
	r.changeTable(&b)
	b.WriteString(notMeasured)
	return b.String()
}

func cell(s string) string { return strings.NewReplacer("|", "/", "\n", " ").Replace(s) }

const notMeasured = `
## What it does not show

- The clock is not stepped: Linux has no namespace for the time of day, and the machine's clock is not the soak's. The times of files are stepped instead.
- A disk that is slow stands still for a while (FIFREEZE); errors of single sectors are not made.
- All nodes share the CPUs of one machine, so what a client waits for is longer than on four machines.
- A barrier's word holds for the standbys that were in-sync. Where nodes were parted, or two failed at once, just then, such a record may be kept aside; it is counted.
`

func (r *result) seenByClients(b *strings.Builder) {
	var sum time.Duration
	var list []time.Duration
	for _, o := range r.told.away {
		list = append(list, o.to.Sub(o.from))
		sum += o.to.Sub(o.from)
	}
	slices.Sort(list)
	fmt.Fprintf(b, "\n## What the clients saw\n\nA question through the floating address each %s (given up after %s), a record each %s, a barrier each %s (%d of them done).\n", probeEvery, probeWithin, writeEvery, syncEvery, r.told.syncs)
	if len(list) > 0 {
		fmt.Fprintf(b, "%d times nobody answered, for %s in all: %s at the median, %s at the longest. People got %d messages about alarms, from all nodes together.\n",
			len(list), sum.Round(100*time.Millisecond), list[len(list)/2].Round(10*time.Millisecond), list[len(list)-1].Round(10*time.Millisecond), r.messages)
	}
	b.WriteString("\n![how long nobody answered](../docs/images/soak-away.svg)\n")
}

func (r *result) faultTable(b *strings.Builder) {
	b.WriteString("\n## Faults\n\n| fault | times | on the master | refused | nobody answered, longest, while it lasted and 5 s more |\n|---|---|---|---|---|\n")
	for _, f := range faults() {
		n, master, refused := 0, 0, 0
		var longest time.Duration
		for _, s := range r.faults {
			if s.Kind != f.name {
				continue
			}
			n++
			if s.Master {
				master++
			}
			if s.Refused != "" {
				refused++
			}
			for _, o := range r.told.away {
				if s.Master && o.to.After(s.From) && o.from.Before(s.To.Add(near)) {
					longest = max(longest, o.to.Sub(o.from))
				}
			}
		}
		fmt.Fprintf(b, "| %s | %d | %d | %d | %s |\n", f.name, n, master, refused, longest.Round(10*time.Millisecond))
	}
	b.WriteString("\nThe last column counts the faults that struck the master. Another fault may have come at the same time.\n")
}

func (r *result) trendTable(b *strings.Builder) {
	fmt.Fprintf(b, "\n## Memory and descriptors\n\nLooked at each %s. The agent of %s is never ended. Descriptors are those of both processes.\n\n| node | lives of the agent | agent, MiB, first third | last third | slope per hour | beat process, MiB, first third | last third | slope per hour | descriptors, first third | last third | slope per hour |\n|---|---|---|---|---|---|---|---|---|---|---|\n", sampleEvery, keeper)
	for _, n := range r.nodes {
		m, p, f := r.trends(n)
		fmt.Fprintf(b, "| %s | %d | %.1f | %.1f | %+.1f | %.1f | %.1f | %+.1f | %.0f | %.0f | %+.1f |\n", n, m.Lives, m.First, m.Last, m.Slope, p.First, p.Last, p.Slope, f.First, f.Last, f.Slope)
	}
	b.WriteString("\n![memory](../docs/images/soak-memory.svg)\n![descriptors](../docs/images/soak-descriptors.svg)\n")
}

func (r *result) changeTable(b *strings.Builder) {
	causes, alone := map[string]int{}, 0
	for _, c := range r.changes {
		if c.record != nil {
			causes[c.record.Cause]++
		}
		if c.near == "" {
			alone++
		}
	}
	fmt.Fprintf(b, "\n## Changes of master\n\n%d, by cause of their records: ", len(r.changes))
	var parts []string
	for cause, n := range causes {
		parts = append(parts, fmt.Sprintf("%s %d", cause, n))
	}
	slices.Sort(parts)
	fmt.Fprintf(b, "%s. Without a fault that lasted, or had ended less than %s before: %d. A person let go %d sets of changes that were kept aside.\n\n| at | from | to | cause | address away ms | fault |\n|---|---|---|---|---|---|\n", strings.Join(parts, ", "), aftermath, alone, r.sets)
	for _, c := range r.changes {
		cause, away := "**no record**", "-"
		if c.record != nil {
			cause = c.record.Cause
			if c.record.RTO != nil {
				away = fmt.Sprintf("%.0f", *c.record.RTO)
			}
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", r.clock(c.at), c.from, c.node, cause, away, cmp.Or(c.near, "none"))
	}
}

func (r *result) write() error {
	err := errors.Join(os.WriteFile(pageFile, []byte(r.page()), 0o644), os.MkdirAll(imagesDir, 0o755))
	for name, c := range map[string]plot.Chart{"soak-memory.svg": r.chart("Memory of the agent and its beat process", "MiB", func(s sample) float64 { return s.MiB + s.Beat }),
		"soak-descriptors.svg": r.chart("Open descriptors of the agent and its beat process", "descriptors", func(s sample) float64 { return s.Files }), "soak-away.svg": r.awayChart()} {
		err = errors.Join(err, os.WriteFile(filepath.Join(imagesDir, name), []byte(c.SVG()), 0o644))
	}
	return err
}

// minutes are the ticks of the time.
func (r *result) minutes() (ticks []plot.Tick) {
	step := max(1, math.Ceil(r.o.long.Minutes()/6))
	for at := 0.0; at < r.o.long.Minutes()+step; at += step {
		ticks = append(ticks, plot.Tick{At: at, Label: fmt.Sprint(at)})
	}
	return ticks
}

func (r *result) chart(title, unit string, figure func(sample) float64) plot.Chart {
	c := plot.Chart{Title: title, XName: "minutes", YName: unit, XTicks: r.minutes()}
	most := 1.0
	for _, n := range r.nodes {
		s := plot.Series{Name: n}
		if n == keeper {
			s.Name += " (its agent is never ended)"
		}
		for _, x := range r.meter.nodes[n] {
			most = max(most, figure(x))
			s.Points = append(s.Points, plot.Point{X: x.At, Y: figure(x)})
		}
		c.Lines = append(c.Lines, s)
	}
	unitStep := math.Pow(10, math.Floor(math.Log10(most)))
	if most/unitStep < 3 {
		unitStep /= 2
	}
	for at := 0.0; at < most+unitStep; at += unitStep {
		c.YTicks = append(c.YTicks, plot.Tick{At: at, Label: fmt.Sprint(at)})
	}
	return c
}

func (r *result) awayChart() plot.Chart {
	c := plot.Chart{Title: "How long nobody answered through the floating address", XName: "minutes", YName: "ms", LogY: true, XTicks: r.minutes()}
	for at := 10.0; at <= 1e5; at *= 10 {
		c.YTicks = append(c.YTicks, plot.Tick{At: at, Label: fmt.Sprint(at)})
	}
	master, other := plot.Series{Name: "a fault of the master", Dots: true}, plot.Series{Name: "another fault, or none", Dots: true}
	for _, o := range r.told.away {
		p := plot.Point{X: o.from.Sub(r.began).Minutes(), Y: float64(o.to.Sub(o.from).Milliseconds())}
		if slices.ContainsFunc(r.faults, func(s *struck) bool {
			return s.Master && o.to.After(s.From) && o.from.Before(s.To.Add(near))
		}) {
			master.Points = append(master.Points, p)
		} else {
			other.Points = append(other.Points, p)
		}
	}
	c.Lines = []plot.Series{master, other}
	return c
}
