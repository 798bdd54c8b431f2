package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/testbed"
)

// scene is one set-up that serves one row or several in sequence.
type scene struct {
	name  string
	rows  []string
	peers []string // engines beside ours
	disk  testbed.Disk
	play  func(ctx context.Context, p *play) error
	nodes int  // 0: three
	grows bool // how cost grows: measured when asked for
}

// The disks. Latency is measured on ext4, bursts on XFS, as the peers' figures
// were (create bursts after mass deletes are 5 to 10 times slower in ext4 itself).
const (
	latencyDisk = 2 << 30
	burstDisk   = 4 << 30
	treeDisk    = 8 << 30
)

func scenes() []scene {
	ext4 := testbed.Disk{FS: "ext4", Size: latencyDisk}
	return append([]scene{
		{name: "latency20", rows: []string{"latency20"}, peers: []string{"lsyncd-d0"}, disk: ext4, play: latency("latency20", 20, 10, false)},
		{name: "latency200", rows: []string{"latency200"}, peers: []string{"lsyncd-d0", "lsyncd-d1"}, disk: ext4, play: latency("latency200", 200, 10, false)},
		{name: "replace200", rows: []string{"replace200"}, peers: []string{"lsyncd-d0"}, disk: ext4, play: latency("replace200", 200, 10, true)},
		{name: "latency2000", rows: []string{"latency2000"}, peers: []string{"lsyncd-d1"}, disk: ext4, play: latency("latency2000", 2000, 20, false)},
		{name: "burst", rows: []string{"create", "rename", "delete"}, peers: []string{"lsyncd-d1", "naive"}, disk: testbed.Disk{FS: "xfs", Size: burstDisk}, play: burst},
		{name: "big", rows: []string{"new1g", "rewrite", "sparse"}, peers: []string{"lsyncd-d1"}, disk: testbed.Disk{FS: "xfs", Size: treeDisk}, play: big},
		{name: "tree", rows: []string{"initial", "return", "idle"}, peers: []string{"lsyncd-d1", "rsync"}, disk: testbed.Disk{FS: "xfs", Size: treeDisk}, play: bigTree},
		{name: "stopped", rows: []string{"stopped"}, disk: ext4, play: stopped},
	}, growth()...)
}

// rowNames are those of how cost grows, or the others.
func rowNames(grow bool) (names []string) {
	for _, sc := range scenes() {
		if sc.grows == grow {
			names = append(names, sc.rows...)
		}
	}
	return names
}

// play is one scene with one engine.
type play struct {
	bench  *bench
	lab    *lab
	engine engine
	told   string
}

// put notes a figure.
func (p *play) put(row, metric string, value float64) {
	if !p.bench.wanted(row) {
		return
	}
	p.bench.data.add(row, p.engine, metric, value)
	p.told += fmt.Sprintf("%s %s %.4g; ", row, metric, value)
}

// sample keeps latencies, of which the curve of the row is drawn.
func (p *play) sample(row string, ms []float64) {
	if p.bench.wanted(row) {
		p.bench.data.sample(row, p.engine, ms)
	}
}

func (p *play) wants(rows ...string) bool {
	for _, r := range rows {
		if p.bench.wanted(r) {
			return true
		}
	}
	return false
}

func (p *play) standbyHomes() (homes []string) {
	for _, n := range p.lab.standbys() {
		homes = append(homes, n.home())
	}
	return homes
}

// begin brings the engine up with nothing but empty directories to replicate.
func (p *play) begin(ctx context.Context) error {
	if err := makeDirs(p.lab.master().home()); err != nil {
		return err
	}
	return errors.Join(p.engine.prepare(ctx, p.lab), p.engine.start(ctx, p.lab), p.engine.ready(ctx, p.lab))
}

// cpuRest is how long after the last file the costs are read: what an engine
// does behind the work belongs to it.
const cpuRest = 300 * time.Millisecond

// judge compares all trees by content, off the clock.
func (p *play) judge(ctx context.Context) error {
	if d, ok := p.engine.(durable); ok { // a status knows nothing of a change that the watcher has not read yet
		if err := d.sync(ctx, p.lab); err != nil {
			return err
		}
	}
	if err := p.engine.ready(ctx, p.lab); err != nil {
		return err
	}
	for _, home := range p.standbyHomes() {
		if err := compare(ctx, p.lab.master().home(), home, true); err != nil {
			return fmt.Errorf("not equal at the end: %w", err)
		}
	}
	return nil
}

// initial is the row of the first copy, which begins when the standbys do.
const initial = "initial"

// timed is one piece of work: do makes the changes, seen waits for them on the
// standbys. Times run from the generator's first call.
type timed struct {
	row  string
	do   func() error
	seen func(ctx context.Context) (time.Time, error)
}

func (p *play) timed(ctx context.Context, w timed) error {
	before, err := p.lab.read()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := w.do(); err != nil {
		return err
	}
	generated := time.Now()
	var durableAt time.Time
	g, gctx := errgroup.WithContext(ctx)
	d, ok := p.engine.(durable)
	if ok {
		g.Go(func() error {
			wait := d.sync
			if w.row == initial { // no standby is connected yet that could be waited for
				wait = p.engine.ready
			}
			err := wait(gctx, p.lab)
			durableAt = time.Now()
			return err
		})
	}
	visible, err := w.seen(ctx)
	if err := errors.Join(err, g.Wait()); err != nil {
		return fmt.Errorf("%s: %w", w.row, err)
	}
	if err := pause(ctx, cpuRest); err != nil {
		return err
	}
	after, err := p.lab.read()
	if err != nil {
		return err
	}
	p.put(w.row, "visible s", visible.Sub(start).Seconds())
	if ok {
		if durableAt.Before(visible) {
			durableAt = visible
		}
		p.put(w.row, "durable s", durableAt.Sub(start).Seconds())
	}
	p.put(w.row, "generator s", generated.Sub(start).Seconds())
	p.put(w.row, "CPU s", after.total()-before.total())
	p.put(w.row, "sent MiB", float64(after.wire-before.wire)/(1<<20))
	p.put(w.row, "master read MiB", float64(after.read["a"]-before.read["a"])/(1<<20))
	p.put(w.row, "standby read MiB", float64(after.read["b"]-before.read["b"])/(1<<20))
	return nil
}

// burst: create, rename and delete many small files.
func burst(ctx context.Context, p *play) error {
	if err := p.begin(ctx); err != nil {
		return err
	}
	home := p.lab.master().home()
	var made []file
	err := p.timed(ctx, timed{"create",
		func() (err error) { made, err = nested(filepath.Join(home, "d00"), 2000, 10, 1024); return err },
		func(ctx context.Context) (time.Time, error) {
			if err := p.below("d00", made); err != nil {
				return time.Time{}, err
			}
			return await(ctx, p.standbyHomes(), made)
		}})
	if err != nil || !p.wants("rename", "delete") {
		return err
	}
	if err := p.judge(ctx); err != nil {
		return err
	}
	moved := made[:len(made)/2]
	for i := range moved {
		moved[i].path = "d01/moved" + moved[i].path[len("d00/t0"):]
	}
	err = p.timed(ctx, timed{"rename",
		func() error { return os.Rename(filepath.Join(home, "d00/t0"), filepath.Join(home, "d01/moved")) },
		func(ctx context.Context) (time.Time, error) {
			return awaitMoved(ctx, p.standbyHomes(), "d00/t0", moved)
		}})
	if err != nil || !p.wants("delete") {
		return err
	}
	if err := errors.Join(p.judge(ctx), os.Rename(filepath.Join(home, "d01/moved"), filepath.Join(home, "d00/t0")), p.judge(ctx)); err != nil {
		return err
	}
	err = p.timed(ctx, timed{"delete",
		func() error {
			return errors.Join(os.RemoveAll(filepath.Join(home, "d00/t0")), os.RemoveAll(filepath.Join(home, "d00/t1")))
		},
		func(ctx context.Context) (time.Time, error) {
			if _, err := awaitGone(ctx, p.standbyHomes(), "d00/t0"); err != nil {
				return time.Time{}, err
			}
			return awaitGone(ctx, p.standbyHomes(), "d00/t1")
		}})
	if err != nil {
		return err
	}
	return p.judge(ctx)
}

// below takes the files' looks from the master and puts their directory before them.
func (p *play) below(dir string, files []file) error {
	_, err := look(filepath.Join(p.lab.master().home(), dir), files)
	for i := range files {
		files[i].path = dir + "/" + files[i].path
	}
	return err
}

// The big files.
const (
	bigSize    = 1 << 30
	sparseData = 4 << 20
	rewrites   = 1000
)

func big(ctx context.Context, p *play) error {
	if err := p.begin(ctx); err != nil {
		return err
	}
	seen := func(path string) func(ctx context.Context) (time.Time, error) {
		return func(ctx context.Context) (time.Time, error) {
			want := []file{{path: path}}
			if _, err := look(p.lab.master().home(), want); err != nil {
				return time.Time{}, err
			}
			return await(ctx, p.standbyHomes(), want)
		}
	}
	name := p.lab.master().home("big")
	if p.wants("new1g", "rewrite") {
		if err := p.timed(ctx, timed{"new1g", func() error { return writeBig(name, bigSize, 5) }, seen("big")}); err != nil {
			return err
		}
		if err := p.judge(ctx); err != nil {
			return err
		}
	}
	if p.wants("rewrite") {
		if err := p.timed(ctx, timed{"rewrite", func() error { _, err := rewrite(name, rewrites, 9); return err }, seen("big")}); err != nil {
			return err
		}
		if err := p.judge(ctx); err != nil {
			return err
		}
	}
	if !p.wants("sparse") {
		return nil
	}
	if err := p.timed(ctx, timed{"sparse", func() error { return writeHoles(p.lab.master().home("sparse"), bigSize, sparseData) }, seen("sparse")}); err != nil {
		return err
	}
	if err := p.judge(ctx); err != nil {
		return err
	}
	info, err := os.Stat(p.lab.standbys()[0].home("sparse"))
	if err != nil {
		return err
	}
	p.put("sparse", "allocated MiB", float64(blocks(info))/2048)
	return nil
}
