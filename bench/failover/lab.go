package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/testbed"
)

const (
	lan  cluster.LinkID = "lan" // carries the address
	fast cluster.LinkID = "fast"
	vip                 = "10.77.0.200"
)

// realTime starts the client and the echoes above everything that is measured
// and loaded: the ruler must not be what is late.
// The program's path is resolved here: behind chrt, /proc/self/exe is chrt.
func realTime(role, argument string) ([]string, error) {
	exe, err := os.Executable()
	return []string{"chrt", "-f", "60", exe, role, argument}, err
}

// lab is three nodes and a client, with one engine.
type lab struct {
	stage   *testbed.Stage
	bed     *testbed.Bed
	nodes   []*node
	engine  engine
	holders *holders
	answers *answers
	cards   *answers // of the cards, asked for the address
	logs    string
	refused int // planned switches of this trial that were refused for now

	wait sync.WaitGroup // reader of the client; joined by close
}

type node struct {
	*testbed.Node
	lab   *lab
	name  string
	addr  string
	other string // its address on the second link
	index int

	watch   *testbed.AddressWatch // of its kernel, from power on to power off
	watched chan struct{}         // closed once what the watch has read is noted
}

func newLab(ctx context.Context, stage *testbed.Stage, e engine) (*lab, error) {
	bed, err := testbed.NewBed(stage)
	if err != nil {
		return nil, err
	}
	l := &lab{stage: stage, bed: bed, engine: e, holders: newHolders(netip.MustParseAddr(vip)), answers: &answers{}, cards: &answers{}, logs: filepath.Join(stage.Dir, "logs")}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) build(ctx context.Context) error {
	err := errors.Join(os.RemoveAll(l.logs), os.MkdirAll(l.logs, 0o755), l.bed.AddLink(lan), l.bed.AddLink(fast))
	if err != nil {
		return err
	}
	for i, name := range []string{"a", "b", "c"} {
		n := &node{lab: l, name: name, index: i, addr: fmt.Sprintf("10.77.0.%d", 11+i), other: fmt.Sprintf("10.78.0.%d", 11+i)}
		n.Node, err = l.bed.AddNode(testbed.NodeSpec{ID: cluster.NodeID(name), Disk: testbed.Disk{FS: "tmpfs", Size: 256 << 20}, Links: []testbed.Attachment{
			{Link: lan, Addrs: []netip.Prefix{netip.MustParsePrefix(n.addr + "/24")}},
			{Link: fast, Addrs: []netip.Prefix{netip.MustParsePrefix(n.other + "/24")}}}})
		if err != nil {
			return err
		}
		l.nodes = append(l.nodes, n)
	}
	if err := l.engine.prepare(ctx, l); err != nil {
		return err
	}
	for _, n := range l.nodes {
		if err := n.boot(ctx); err != nil {
			return err
		}
	}
	if c, ok := l.engine.(configurer); ok {
		if err := until(ctx, time.Minute, 500*time.Millisecond, func() error { return c.configure(ctx, l) }); err != nil {
			return err
		}
	}
	return errors.Join(l.client("client", "10.77.0.90", roleAsk, l.answers), l.client("cards", cardsAddr, roleCards, l.cards))
}

// cardsAddr is who asks the cards.
const cardsAddr = "10.77.0.91"

// client starts asking.
func (l *lab) client(name cluster.NodeID, addr, role string, to *answers) error {
	c, err := l.bed.AddNode(testbed.NodeSpec{ID: name, Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{
		{Link: lan, Addrs: []netip.Prefix{netip.MustParsePrefix(addr + "/24")}}}})
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	argv, err := realTime(role, vip)
	if err == nil {
		_, err = c.Start(testbed.Command{Argv: argv, Stdout: w, Stderr: os.Stderr})
	}
	if err != nil {
		r.Close()
		return err
	}
	l.wait.Go(func() { defer r.Close(); to.read(r) })
	return nil
}

// boot starts what runs on a node that has power.
func (n *node) boot(ctx context.Context) (err error) {
	if n.watch, err = n.WatchAddresses(); err != nil {
		return err
	}
	done := make(chan struct{})
	n.watched = done
	go func() { // joined by unwatch
		defer close(done)
		err := n.watch.Run(context.Background(), func(c testbed.AddressChange) { n.lab.holders.note(n.name, c) })
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: who has the address is not known:", err)
		}
	}()
	argv, err := realTime(roleEcho, n.name)
	if err == nil {
		_, err = n.start("echo", argv...)
	}
	if err != nil {
		return err
	}
	return n.lab.engine.start(ctx, n)
}

// unwatch ends the watch of a node that is about to lose power: what its kernel
// still says while it is taken apart is no news.
func (n *node) unwatch() {
	if n.watch != nil {
		_ = n.watch.Close()
		<-n.watched
		n.watch = nil
	}
}

// start runs a program on the node.
func (n *node) start(name string, argv ...string) (*testbed.Proc, error) {
	return n.Start(testbed.Command{Argv: argv, Log: filepath.Join(n.lab.logs, n.name+"."+name+".log")})
}

// self is what the node itself calls a path below its disk; root what the stage calls it.
func (n *node) self(rel string) string { return filepath.Join(n.lab.bed.Self(), rel) }
func (n *node) root(rel string) string { return filepath.Join(n.Root(), rel) }

// whole waits until one node has the address, answers, and the engine calls all nodes well.
func (l *lab) whole(ctx context.Context) (m *node, err error) {
	var since instant
	var who string
	err = until(ctx, time.Minute, 20*time.Millisecond, func() error {
		list := l.holders.current()
		if len(list) != 1 || list[0] != who {
			since, who = now(), ""
			if len(list) == 1 {
				who = list[0]
			}
			return fmt.Errorf("the address is on %v", list)
		}
		m = l.nodes[slices.IndexFunc(l.nodes, func(n *node) bool { return n.name == who })]
		if now() < since.add(l.engine.settle()) {
			return errors.New("the holder is new")
		}
		if last := l.answers.between(now(), now()); len(last) == 0 || last[0].node != who[0] || last[0].came < now().add(-5*flushEvery) {
			return fmt.Errorf("%s does not answer", who)
		}
		return l.engine.whole(ctx, l, m)
	})
	return m, err
}

func (l *lab) close() error {
	for _, n := range l.nodes {
		n.unwatch()
	}
	err := l.bed.Close()
	l.wait.Wait()
	return err
}

// keepLogs copies the engines' logs out of the stage.
func (l *lab) keepLogs(dir, name string) {
	if dir == "" {
		return
	}
	list, _ := filepath.Glob(filepath.Join(l.logs, "*"))
	_ = os.MkdirAll(dir, 0o755)
	for _, from := range list {
		if err := copyFile(from, filepath.Join(dir, name+"."+filepath.Base(from))); err != nil {
			fmt.Fprintln(os.Stderr, "bench: keep log:", err)
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// until polls cond until it is nil, ctx ends or the time is over.
func until(ctx context.Context, limit, every time.Duration, cond func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := cond()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(every):
		}
	}
}
