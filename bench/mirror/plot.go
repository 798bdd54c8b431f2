package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"revolve/bench/plot"
)

// draw writes the pictures that there are figures for.
func (r *results) draw(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	for name, c := range map[string]*plot.Chart{"mirror-latency.svg": r.latencyChart(), "mirror-files.svg": r.filesChart(), "mirror-standbys.svg": r.standbysChart()} {
		if c != nil {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(c.SVG()), 0o644))
		}
	}
	return err
}

// latencyChart is how many files are seen on both standbys after how long.
func (r *results) latencyChart() *plot.Chart {
	m := r.Rows["latency200"]
	if m == nil || m.Curves == nil {
		return nil
	}
	c := &plot.Chart{Title: "1-4 KiB files at 200/s: from close() until seen on both standbys", XName: "ms", YName: "% of the files", LogX: true, Goal: 10}
	for at := 0.1; at < 20_000; at *= 10 {
		c.XTicks = append(c.XTicks, plot.Tick{At: at, Label: fmt.Sprint(at)})
	}
	for at := 0.0; at <= 100; at += 25 {
		c.YTicks = append(c.YTicks, plot.Tick{At: at, Label: fmt.Sprint(at)})
	}
	for _, e := range m.engines() {
		s := plot.Series{Name: e}
		for i, ms := range m.Curves[e] {
			s.Points = append(s.Points, plot.Point{X: ms, Y: float64(i)})
		}
		if len(s.Points) == 101 {
			s.Name += fmt.Sprintf(": p50 %s, p99 %s ms", number(s.Points[50].X), number(s.Points[99].X))
			c.Lines = append(c.Lines, s)
		}
	}
	return c
}

// grown is a metric over the steps that were measured.
func (r *results) grown(name, metric string, steps []step) (s plot.Series) {
	s.Name = name
	for _, st := range steps {
		if m := r.Rows[st.row]; m != nil && len(m.Figures[ours][metric]) > 0 {
			s.Points = append(s.Points, plot.Point{X: float64(st.n), Y: median(m.Figures[ours][metric])})
		}
	}
	return s
}

func ticksOf(steps []step) (ticks []plot.Tick) {
	for _, s := range steps {
		ticks = append(ticks, plot.Tick{At: float64(s.n), Label: s.label})
	}
	return ticks
}

func decades(from, to float64) (ticks []plot.Tick) {
	for at := from; at <= to*1.01; at *= 10 {
		ticks = append(ticks, plot.Tick{At: at, Label: fmt.Sprintf("%g", at)})
	}
	return ticks
}

func (r *results) filesChart() *plot.Chart {
	c := &plot.Chart{Title: "Growth with the number of files", XName: "files", YName: "MiB, s", LogX: true, LogY: true, XTicks: ticksOf(fileSteps()), YTicks: decades(0.01, 100)}
	c.Lines = []plot.Series{r.grown("memory of the master, MiB", "master RSS MiB", fileSteps()), r.grown("compare everything once, s", "first comparison s", fileSteps()),
		r.grown("return after 100 changes, s", "visible s", fileSteps()), r.grown("in-sync after a kill, s", "start after a kill s", fileSteps())}
	if len(c.Lines[0].Points) < 2 {
		return nil
	}
	return c
}

func (r *results) standbysChart() *plot.Chart {
	c := &plot.Chart{Title: "Growth with the number of standbys, 200 files a second", XName: "standbys", YName: "for each file", LogX: true, XTicks: ticksOf(standbySteps())}
	c.Lines = []plot.Series{r.grown("CPU of the master, ms", "master CPU ms/file", standbySteps()), r.grown("CPU of one standby, ms", "CPU ms/file of one standby", standbySteps())}
	if len(c.Lines[0].Points) < 2 {
		return nil
	}
	most := 0.0
	for _, l := range c.Lines {
		for _, p := range l.Points {
			most = max(most, p.Y)
		}
	}
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	if most < 2*unit {
		unit /= 5
	}
	for at := 0.0; ; at += unit {
		c.YTicks = append(c.YTicks, plot.Tick{At: at, Label: fmt.Sprintf("%.3g", at)})
		if at >= most {
			return c
		}
	}
}
