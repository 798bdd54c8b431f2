package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sample is what the agent and its beat process have at a moment.
type sample struct {
	At    float64 // minutes since the beginning
	Agent int     // its process id: another one is another life
	MiB   float64 // resident, of the agent
	Beat  float64 // the same, of the beat process
	Files float64 // open descriptors of both
}

// meter looks at the nodes' processes.
type meter struct {
	every time.Duration
	last  time.Time
	nodes map[string][]sample
}

func (m *meter) look(l *lab, began time.Time) {
	if time.Since(m.last) < m.every {
		return
	}
	m.last = time.Now()
	if m.nodes == nil {
		m.nodes = map[string][]sample{}
	}
	for _, n := range l.nodes {
		if n.down {
			continue
		}
		agent, beat := n.pid("agent"), n.pid("beat")
		if agent == 0 || beat == 0 {
			continue
		}
		s := sample{At: time.Since(began).Minutes(), Agent: agent}
		var files float64
		var known, also bool
		s.MiB, s.Files, known = measure(agent)
		s.Beat, files, also = measure(beat)
		if s.Files += files; known && also {
			m.nodes[n.name] = append(m.nodes[n.name], s)
		}
	}
}

// measure is VmRSS of /proc/PID/status (proc(5)), and the entries of /proc/PID/fd.
func measure(pid int) (mib, files float64, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	list, err2 := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil || err2 != nil {
		return 0, 0, false
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if rest, found := strings.CutPrefix(lines.Text(), "VmRSS:"); found {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb / 1024, float64(len(list)), err == nil
		}
	}
	return 0, 0, false
}

// trend is how a figure goes over time.
type trend struct {
	First, Last float64 // medians of the first and of the last third, without the warm-up
	Slope       float64 // by least squares, for an hour
	Lives       int     // how often there was another agent
}

// warmUp is the share of the time that says nothing about what lasts.
const warmUp = 0.15

func trendOf(list []sample, figure func(sample) float64) (t trend) {
	last := 0
	for _, s := range list {
		if s.Agent != last {
			t.Lives++
		}
		last = s.Agent
	}
	list = list[int(float64(len(list))*warmUp):]
	if len(list) < 6 {
		return t
	}
	third := len(list) / 3
	t.First, t.Last = medianOf(list[:third], figure), medianOf(list[len(list)-third:], figure)
	var x, y, xx, xy float64
	for _, s := range list {
		v := figure(s)
		x, y, xx, xy = x+s.At, y+v, xx+s.At*s.At, xy+s.At*v
	}
	n := float64(len(list))
	if spread := n*xx - x*x; spread > 0 {
		t.Slope = 60 * (n*xy - x*y) / spread
	}
	return t
}

func medianOf(list []sample, figure func(sample) float64) float64 {
	values := make([]float64, 0, len(list))
	for _, s := range list {
		values = append(values, figure(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
