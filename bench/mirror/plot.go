package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// Pictures of the figures as SVG: text and lines, readable on light and dark pages.

type point struct{ x, y float64 }

type series struct {
	name   string
	points []point
}

// chart has logarithmic axes where it says so.
type chart struct {
	title, xName, yName string
	xTicks, yTicks      []tick
	logX, logY          bool
	lines               []series
	goal                float64 // a line across at this x, 0 for none
}

type tick struct {
	at    float64
	label string
}

const (
	plotWidth, plotHeight                    = 720.0, 380.0
	plotLeft, plotRight, plotTop, plotBottom = 70.0, 40.0, 96.0, 48.0
)

// plotStyle: the colours differ in lightness too, and the lines in their dashes, for those who see no colours.
const plotStyle = `<style>
text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-size:16px;font-weight:600}.a{fill:#57606a}
.g{stroke:#d0d7de;stroke-width:1}.w{stroke:#57606a;stroke-dasharray:2 4}
.l{fill:none;stroke-width:2.5}.c0{stroke:#0550ae}.c1{stroke:#bc4c00;stroke-dasharray:9 4}.c2{stroke:#6e7781;stroke-dasharray:3 3}.c3{stroke:#8250df;stroke-dasharray:12 3 3 3}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.a{fill:#9198a1}.g{stroke:#30363d}.w{stroke:#9198a1}.c0{stroke:#58a6ff}.c1{stroke:#ffa657}.c2{stroke:#b1bac4}.c3{stroke:#d2a8ff}}
</style>
`

// scale is where a value lies between the first and the last tick, from 0 to 1.
func scale(v float64, ticks []tick, log bool) float64 {
	lo, hi := ticks[0].at, ticks[len(ticks)-1].at
	if log {
		v, lo, hi = math.Log(max(v, lo)), math.Log(lo), math.Log(hi)
	}
	return min(1, max(0, (v-lo)/(hi-lo)))
}

func (c chart) x(v float64) float64 {
	return plotLeft + scale(v, c.xTicks, c.logX)*(plotWidth-plotLeft-plotRight)
}

func (c chart) y(v float64) float64 {
	return plotHeight - plotBottom - scale(v, c.yTicks, c.logY)*(plotHeight-plotTop-plotBottom)
}

func (c chart) svg() string {
	var b strings.Builder
	bottom := plotHeight - plotBottom
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-label="%s">`+"\n%s", plotWidth, plotHeight, c.title, plotStyle)
	fmt.Fprintf(&b, `<text class="t" x="%g" y="22">%s</text>`+"\n", plotLeft, c.title)
	for _, t := range c.xTicks {
		x := c.x(t.at)
		fmt.Fprintf(&b, `<path class="g" d="M%.1f %.1fV%.1f"/><text class="a" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x, plotTop, bottom, x, bottom+18, t.label)
	}
	for _, t := range c.yTicks {
		y := c.y(t.at)
		fmt.Fprintf(&b, `<path class="g" d="M%.1f %.1fH%.1f"/><text class="a" x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft, y, plotWidth-plotRight, plotLeft-8, y+4, t.label)
	}
	fmt.Fprintf(&b, `<text class="a" x="%.1f" y="%.1f" text-anchor="middle">%s</text><text class="a" x="%.1f" y="%.1f">%s</text>`+"\n",
		(plotLeft+plotWidth-plotRight)/2, plotHeight-8, c.xName, 8.0, plotTop-10, c.yName)
	if c.goal > 0 {
		fmt.Fprintf(&b, `<path class="w" d="M%.1f %.1fV%.1f"/><text class="a" x="%.1f" y="%.1f">to reach</text>`+"\n", c.x(c.goal), plotTop, bottom, c.x(c.goal)+4, bottom-6)
	}
	for i, s := range c.lines {
		var path strings.Builder
		for j, p := range s.points {
			fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[j == 0], c.x(p.x), c.y(p.y))
		}
		fmt.Fprintf(&b, `<path class="l c%d" d="%s"/>`+"\n", i%4, path.String())
		x, y := plotLeft+float64(i%2)*310, 44+float64(i/2)*20
		fmt.Fprintf(&b, `<path class="l c%d" d="M%g %gh26"/><text x="%g" y="%g">%s</text>`+"\n", i%4, x, y-4, x+34, y, s.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw writes the pictures that there are figures for.
func (r *results) draw(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	for name, c := range map[string]*chart{"mirror-latency.svg": r.latencyChart(), "mirror-files.svg": r.filesChart(), "mirror-standbys.svg": r.standbysChart()} {
		if c != nil {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(c.svg()), 0o644))
		}
	}
	return err
}

// latencyChart is how many files are seen on both standbys after how long.
func (r *results) latencyChart() *chart {
	m := r.Rows["latency200"]
	if m == nil || m.Curves == nil {
		return nil
	}
	c := &chart{title: "1-4 KiB files at 200/s: from close() until seen on both standbys", xName: "ms", yName: "% of the files", logX: true, goal: 10}
	for at := 0.1; at < 20_000; at *= 10 {
		c.xTicks = append(c.xTicks, tick{at, fmt.Sprint(at)})
	}
	for at := 0.0; at <= 100; at += 25 {
		c.yTicks = append(c.yTicks, tick{at, fmt.Sprint(at)})
	}
	for _, e := range m.engines() {
		s := series{name: e}
		for i, ms := range m.Curves[e] {
			s.points = append(s.points, point{ms, float64(i)})
		}
		if len(s.points) == 101 {
			s.name += fmt.Sprintf(": p50 %s, p99 %s ms", number(s.points[50].x), number(s.points[99].x))
			c.lines = append(c.lines, s)
		}
	}
	return c
}

// grown is a metric over the steps that were measured.
func (r *results) grown(name, metric string, steps []step) (s series) {
	s.name = name
	for _, st := range steps {
		if m := r.Rows[st.row]; m != nil && len(m.Figures[ours][metric]) > 0 {
			s.points = append(s.points, point{float64(st.n), median(m.Figures[ours][metric])})
		}
	}
	return s
}

func ticksOf(steps []step) (ticks []tick) {
	for _, s := range steps {
		ticks = append(ticks, tick{float64(s.n), s.label})
	}
	return ticks
}

func decades(from, to float64) (ticks []tick) {
	for at := from; at <= to*1.01; at *= 10 {
		ticks = append(ticks, tick{at, fmt.Sprintf("%g", at)})
	}
	return ticks
}

func (r *results) filesChart() *chart {
	c := &chart{title: "Growth with the number of files", xName: "files", yName: "MiB, s", logX: true, logY: true, xTicks: ticksOf(fileSteps()), yTicks: decades(0.01, 100)}
	c.lines = []series{r.grown("memory of the master, MiB", "master RSS MiB", fileSteps()), r.grown("compare everything once, s", "first comparison s", fileSteps()),
		r.grown("return after 100 changes, s", "visible s", fileSteps()), r.grown("in-sync after a kill, s", "start after a kill s", fileSteps())}
	if len(c.lines[0].points) < 2 {
		return nil
	}
	return c
}

func (r *results) standbysChart() *chart {
	c := &chart{title: "Growth with the number of standbys, 200 files a second", xName: "standbys", yName: "for each file", logX: true, xTicks: ticksOf(standbySteps())}
	c.lines = []series{r.grown("CPU of the master, ms", "master CPU ms/file", standbySteps()), r.grown("CPU of one standby, ms", "CPU ms/file of one standby", standbySteps())}
	if len(c.lines[0].points) < 2 {
		return nil
	}
	most := 0.0
	for _, l := range c.lines {
		for _, p := range l.points {
			most = max(most, p.y)
		}
	}
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	if most < 2*unit {
		unit /= 5
	}
	for at := 0.0; ; at += unit {
		c.yTicks = append(c.yTicks, tick{at, fmt.Sprintf("%.3g", at)})
		if at >= most {
			return c
		}
	}
}
