package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks
	}
	return 0
}

// lastPatience is how long after the last write a file may take before it counts as lost.
const lastPatience = 20 * time.Second

// latency writes small files at a rate. same: half of the writes replace a file.
func latency(row string, rate, seconds int, same bool) func(ctx context.Context, p *play) error {
	return func(ctx context.Context, p *play) error {
		if err := p.begin(ctx); err != nil {
			return err
		}
		// A first second is not counted: caches, connections and heaps have to warm up.
		warm := &paced{root: p.lab.master().home(), rate: rate, count: rate, prefix: "w"}
		if err := warm.run(ctx, nil); err != nil {
			return err
		}
		if err := p.engine.ready(ctx, p.lab); err != nil {
			return err
		}
		load := &paced{root: p.lab.master().home(), rate: rate, count: rate * seconds, prefix: "f", same: same}
		before, err := p.lab.read()
		if err != nil {
			return err
		}
		m := newMeasure(p, load)
		if err := m.run(ctx, nil); err != nil {
			return err
		}
		if err := pause(ctx, cpuRest); err != nil {
			return err
		}
		after, err := p.lab.read()
		if err != nil {
			return err
		}
		m.report(row)
		n := float64(load.count)
		p.put(row, "CPU ms/file", 1000*(after.total()-before.total())/n)
		master := after.cpu["a"] - before.cpu["a"]
		p.put(row, "master CPU ms/file", 1000*master/n)
		p.put(row, "CPU ms/file of one standby", 1000*(after.total()-before.total()-master)/n/float64(len(p.lab.standbys())))
		p.put(row, "master read KiB/file", float64(after.read["a"]-before.read["a"])/1024/n)
		p.put(row, "sent KiB/file", float64(after.wire-before.wire)/1024/n)
		now, peak := p.lab.master().rss()
		p.put(row, "master RSS MiB", max(now, peak))
		return p.judge(ctx)
	}
}

// measure is a paced load with eyes on every standby.
type measure struct {
	p       *play
	load    *paced
	eyes    []*eyes
	durable []float64 // ms, of samples
}

func newMeasure(p *play, load *paced) *measure { return &measure{p: p, load: load} }

// sampleEvery is how often the durable time is asked for.
const sampleEvery = 250 * time.Millisecond

// run writes the load and returns when everything was seen, or lastPatience
// after the end. also runs beside it.
func (m *measure) run(ctx context.Context, also func(ctx context.Context) error) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(watching)
	for _, home := range m.p.standbyHomes() {
		e, err := openEyes(home)
		if err != nil {
			return err
		}
		defer e.close()
		m.eyes = append(m.eyes, e)
		buf := make([]byte, 8192)
		g.Go(func() error {
			return e.watch(gctx, func(name string) bool { return m.right(home, name, buf) })
		})
	}
	samples := make(chan time.Time, 1)
	g.Go(func() error { return m.sample(gctx, samples) })
	load, lctx := errgroup.WithContext(gctx)
	if also != nil {
		load.Go(func() error { return also(lctx) })
	}
	load.Go(func() error {
		last := time.Now()
		return m.load.run(lctx, func(i int) {
			if at := m.load.closed[i]; at.Sub(last) >= sampleEvery {
				last = at
				select {
				case samples <- at:
				default:
				}
			}
		})
	})
	err := load.Wait()
	if err == nil {
		_ = until(ctx, lastPatience, 20*time.Millisecond, func() error { // what is missing is counted as lost
			if n := m.missing(); n > 0 {
				return fmt.Errorf("%d files are missing", n)
			}
			return nil
		})
	}
	stop()
	return errors.Join(err, g.Wait())
}

// sample asks, now and then, when everything up to a write is durable.
func (m *measure) sample(ctx context.Context, at <-chan time.Time) error {
	d, ok := m.p.engine.(durable)
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-at:
			if !ok {
				continue
			}
			if err := d.sync(ctx, m.p.lab); err == nil {
				m.durable = append(m.durable, time.Since(t).Seconds()*1000)
			}
		}
	}
}

func (m *measure) index(name string) (i int, ok bool) {
	n, err := fmt.Sscanf(filepath.Base(name), m.load.prefix+"%06d", &i)
	return i, n == 1 && err == nil && i < m.load.count
}

// right: the newest version that was written under that name, or the one before.
func (m *measure) right(root, name string, buf []byte) bool {
	i, ok := m.index(name)
	if !ok {
		return false
	}
	if m.load.same && m.load.right(root, i+m.load.count/2, buf) {
		return true
	}
	return m.load.right(root, i, buf)
}

// seen returns when version i was seen by a standby's eyes.
func (m *measure) seen(e *eyes, i int) (time.Time, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.seen[m.load.name(i)]
	closed := m.load.closed[i]
	if closed.IsZero() {
		return time.Time{}, false
	}
	for _, t := range list {
		if t.After(closed) {
			return t, true
		}
	}
	return time.Time{}, false
}

func (m *measure) missing() (n int) {
	for i := range m.load.count {
		for _, e := range m.eyes {
			if _, ok := m.seen(e, i); !ok {
				n++
				break
			}
		}
	}
	return n
}

// latencies are those of files [from, to), in ms, until the slowest of these eyes saw them.
func (m *measure) latencies(from, to int, which ...*eyes) (ms []float64, lost int) {
	for i := from; i < to; i++ {
		last, all := time.Time{}, true
		for _, e := range which {
			t, ok := m.seen(e, i)
			all = all && ok
			if t.After(last) {
				last = t
			}
		}
		if !all {
			lost++
			continue
		}
		ms = append(ms, last.Sub(m.load.closed[i]).Seconds()*1000)
	}
	return ms, lost
}

func (m *measure) report(row string) {
	ms, lost := m.latencies(0, m.load.count, m.eyes...)
	m.p.put(row, "p50 ms", percentile(ms, 0.5))
	m.p.put(row, "p99 ms", percentile(ms, 0.99))
	m.p.put(row, "max ms", percentile(ms, 1))
	m.p.put(row, "lost", float64(lost))
	m.p.sample(row, ms)
	if len(m.durable) > 0 {
		m.p.put(row, "durable p50 ms", percentile(m.durable, 0.5))
		m.p.put(row, "durable max ms", percentile(m.durable, 1))
	}
	m.p.put(row, "generator late ms", m.load.late.Seconds()*1000)
}

// The tree of the initial sync.
const (
	treeDirs    = 10_000
	treePerDir  = 10
	treeBytes   = 1024
	treeBig     = 2
	treeChanges = 100
	idleFor     = 15 * time.Second
)

// bigTree: the first sync of a tree, the return of a standby, and what nothing costs.
func bigTree(ctx context.Context, p *play) error {
	master := p.lab.master()
	files, err := nested(master.home(), treeDirs, treePerDir, treeBytes)
	if err != nil {
		return err
	}
	for i := range treeBig {
		name := fmt.Sprintf("big%d", i)
		if err := writeBig(master.home(name), bigSize, uint64(i)); err != nil {
			return err
		}
		files = append(files, file{path: name})
	}
	if _, err := look(master.home(), files); err != nil {
		return err
	}
	syscall.Sync()
	if err := p.engine.prepare(ctx, p.lab); err != nil {
		return err
	}
	err = p.timed(ctx, timed{initial,
		func() error { return p.engine.start(ctx, p.lab) },
		func(ctx context.Context) (time.Time, error) { return await(ctx, p.standbyHomes(), files) }})
	if err != nil || !p.wants("return", "idle") {
		return err
	}
	if err := p.judge(ctx); err != nil {
		return err
	}
	if p.wants("return") {
		if err := p.comeBack(ctx, "return", files[:treeChanges*37]); err != nil {
			return err
		}
	}
	if p.wants("idle") && p.engine.name() != "rsync" {
		return p.idle(ctx)
	}
	return nil
}

// comeBack changes files while one standby is away and times its return.
func (p *play) comeBack(ctx context.Context, row string, files []file) error {
	others, away := p.standbyHomes(), p.lab.standbys()[len(p.lab.standbys())-1]
	if err := p.engine.stopStandby(ctx, away); err != nil {
		return err
	}
	changed, err := p.change(files)
	if err != nil {
		return err
	}
	if p.engine.name() != "rsync" {
		if _, err := await(ctx, others[:len(others)-1], changed); err != nil {
			return err
		}
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	before, err := p.lab.read()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := p.engine.startStandby(ctx, away); err != nil {
		return err
	}
	visible, err := await(ctx, []string{away.home()}, changed)
	if err != nil {
		return fmt.Errorf("return: %w", err)
	}
	if err := pause(ctx, cpuRest); err != nil {
		return err
	}
	after, err := p.lab.read()
	if err != nil {
		return err
	}
	p.put(row, "visible s", visible.Sub(start).Seconds())
	p.put(row, "CPU s", after.total()-before.total())
	p.put(row, "sent MiB", float64(after.wire-before.wire)/(1<<20))
	return nil
}

// change gives treeChanges of the files new bytes and returns what they look like.
func (p *play) change(files []file) (changed []file, err error) {
	for i := range treeChanges {
		f := files[i*len(files)/treeChanges]
		if err := os.WriteFile(p.lab.master().home(f.path), []byte(time.Now().String()), 0o644); err != nil {
			return nil, err
		}
		changed = append(changed, f)
	}
	return look(p.lab.master().home(), changed)
}

func (p *play) idle(ctx context.Context) error {
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	before, err := p.lab.read()
	if err != nil {
		return err
	}
	if err := pause(ctx, idleFor); err != nil {
		return err
	}
	after, err := p.lab.read()
	if err != nil {
		return err
	}
	p.put("idle", "CPU % of a core, all nodes", 100*(after.total()-before.total())/idleFor.Seconds())
	now, _ := p.lab.master().rss()
	p.put("idle", "master RSS MiB", now)
	now, _ = p.lab.standbys()[0].rss()
	p.put("idle", "standby RSS MiB", now)
	return nil
}

// The row of the stopped standby.
const (
	stoppedRate   = 200
	stoppedBefore = 8  // seconds
	stoppedFor    = 60 // seconds
	stoppedAfter  = 8  // seconds
)

// stopped freezes one standby for a minute under load: the other must not notice.
func stopped(ctx context.Context, p *play) error {
	if err := p.begin(ctx); err != nil {
		return err
	}
	frozen := p.lab.standbys()[1]
	load := &paced{root: p.lab.master().home(), rate: stoppedRate, count: stoppedRate * (stoppedBefore + stoppedFor + stoppedAfter), prefix: "f"}
	rss0, _ := p.lab.master().rss()
	m := newMeasure(p, load)
	highest := 0.0
	err := m.run(ctx, func(ctx context.Context) error {
		if err := errors.Join(pause(ctx, stoppedBefore*time.Second), frozen.Hold()); err != nil {
			return err
		}
		for range stoppedFor {
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
			now, _ := p.lab.master().rss()
			highest = max(highest, now)
		}
		return frozen.Resume()
	})
	if err != nil {
		return err
	}
	other, all := m.eyes[:1], m.eyes
	first := stoppedRate * stoppedBefore
	during := first + stoppedRate*stoppedFor
	before, _ := m.latencies(0, first, other...)
	while, _ := m.latencies(first, during, other...)
	_, lost := m.latencies(0, load.count, all...)
	p.put("stopped", "other's p99 ms meanwhile", percentile(while, 0.99))
	p.put("stopped", "other's p99 ms before", percentile(before, 0.99))
	p.put("stopped", "other's p50 ms meanwhile", percentile(while, 0.5))
	p.put("stopped", "master RSS growth MiB", math.Max(0, highest-rss0))
	p.put("stopped", "lost", float64(lost))
	return p.judge(ctx)
}
