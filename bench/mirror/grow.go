package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"revolve/internal/testbed"
)

// How cost grows: with the number of files, and with that of the standbys. Ours alone.

// growthRows is the name of all these rows together, for ROWS.
const growthRows = "growth"

const (
	growPerDir = 100
	growBytes  = 64
	growDisk   = 12 << 30 // sparse: a million files of one block and their inodes
	growRate   = 200      // files a second, with many standbys
)

// sizes are the steps of growth, as rows call them and as people read them.
type step struct {
	row   string
	n     int
	label string
}

func fileSteps() []step {
	return []step{{"files10k", 10_000, "10,000"}, {"files100k", 100_000, "100,000"}, {"files1m", 1_000_000, "1,000,000"}}
}

func standbySteps() []step {
	return []step{{"standbys1", 1, "1"}, {"standbys2", 2, "2"}, {"standbys4", 4, "4"}, {"standbys8", 8, "8"}}
}

func growth() (out []scene) {
	for _, s := range fileSteps() {
		out = append(out, scene{name: s.row, rows: []string{s.row}, disk: testbed.Disk{FS: "xfs", Size: growDisk}, nodes: 2, grows: true, play: growFiles(s)})
	}
	for _, s := range standbySteps() {
		out = append(out, scene{name: s.row, rows: []string{s.row}, disk: testbed.Disk{FS: "ext4", Size: latencyDisk}, nodes: 1 + s.n, grows: true,
			play: latency(s.row, growRate, 10, false)})
	}
	return out
}

// growFiles has the same tree on both nodes before they meet, so that what is
// measured is the looking and not the copying.
func growFiles(s step) func(ctx context.Context, p *play) error {
	return func(ctx context.Context, p *play) error {
		var files []file
		for _, n := range p.lab.nodes {
			made, err := nested(n.home(), s.n/growPerDir, growPerDir, growBytes)
			if err != nil {
				return err
			}
			if err := setTimes(n.home()); err != nil {
				return err
			}
			files = made
		}
		if err := p.engine.prepare(ctx, p.lab); err != nil {
			return err
		}
		standby := p.lab.standbys()[0]
		if err := p.untilEqual(ctx, s.row, "first comparison", func() error { return p.engine.start(ctx, p.lab) }); err != nil {
			return err
		}
		if err := p.resident(ctx, s.row); err != nil {
			return err
		}
		if err := p.comeBack(ctx, s.row, files); err != nil {
			return err
		}
		r, ok := p.engine.(*revolve)
		if !ok {
			return errors.New("only revolve can be killed here")
		}
		if err := errors.Join(p.engine.ready(ctx, p.lab), r.crash(ctx, standby)); err != nil {
			return err
		}
		if _, err := p.change(files); err != nil {
			return err
		}
		if err := p.untilEqual(ctx, s.row, "start after a kill", func() error { return p.engine.startStandby(ctx, standby) }); err != nil {
			return err
		}
		return p.judge(ctx)
	}
}

// setTimes gives everything below root the same times.
func setTimes(root string) error {
	at := time.Unix(1_700_000_000, 0)
	return filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(name, at, at))
	})
}

// untilEqual times from do to a standby that is in-sync, and what that cost both nodes until they were quiet again.
func (p *play) untilEqual(ctx context.Context, row, what string, do func() error) error {
	before, err := p.lab.read()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := errors.Join(do(), p.engine.ready(ctx, p.lab)); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	p.put(row, what+" s", time.Since(start).Seconds())
	after, err := p.quiet(ctx)
	if err != nil {
		return err
	}
	p.put(row, what+" CPU s", after.total()-before.total())
	return nil
}

const (
	quietEvery = 500 * time.Millisecond
	quietCPU   = 0.08 // seconds of quietEvery: what idle nodes use, and some more
	quietLimit = 2 * time.Minute
)

// quiet waits until the nodes do nothing in particular.
func (p *play) quiet(ctx context.Context) (r reading, err error) {
	last, err := p.lab.read()
	if err != nil {
		return last, err
	}
	err = until(ctx, quietLimit, quietEvery, func() error {
		before := last.total()
		if last, err = p.lab.read(); err != nil {
			return err
		}
		if used := last.total() - before; used == 0 || used > quietCPU {
			return fmt.Errorf("%.2f s of CPU in %v", used, quietEvery)
		}
		return nil
	})
	return last, err
}

// resident is the memory of both nodes at rest.
func (p *play) resident(ctx context.Context, row string) error {
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	now, _ := p.lab.master().rss()
	p.put(row, "master RSS MiB", now)
	now, _ = p.lab.standbys()[0].rss()
	p.put(row, "standby RSS MiB", now)
	return nil
}

// growth is a table for each way to grow: a column for each size.
func (r *results) growth() string {
	return r.growthTable("## Growth: files\n\nTwo nodes, XFS, 100 files in a directory, the same on both before they meet. Visible: a standby that ended in order, after 100 changes, from its start.\n"+
		"In-sync after a kill: it looks at everything once. CPU is of both nodes until they are quiet again.\n", "files", fileSteps()) +
		r.growthTable(fmt.Sprintf("## Growth: standbys\n\n1-4 KiB files at %d/s, ext4. All nodes share the machine, so latency grows with what all of them do; CPU and reads of the master are its own.\n", growRate), "standbys", standbySteps())
}

func (r *results) growthTable(intro, of string, steps []step) string {
	var b, head strings.Builder
	var metrics []string
	for _, s := range steps {
		if m := r.Rows[s.row]; m != nil {
			fmt.Fprintf(&head, " %s |", s.label)
			metrics = m.Metrics
		}
	}
	if len(metrics) == 0 {
		return ""
	}
	columns := strings.Count(head.String(), "|")
	fmt.Fprintf(&b, "\n%s\n| %s |%s\n|---|%s\n", intro, of, head.String(), strings.Repeat("---|", columns))
	for _, metric := range metrics {
		fmt.Fprintf(&b, "| %s |", metric)
		for _, s := range steps {
			if m := r.Rows[s.row]; m != nil {
				fmt.Fprintf(&b, " %s |", spread(m.Figures[ours][metric]))
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
