package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/testbed"
)

const lan cluster.LinkID = "lan"

// lab is some nodes, three in most scenes, with a directory each; the first is the master.
type lab struct {
	stage *testbed.Stage
	bed   *testbed.Bed
	nodes []*node
	logs  string
}

type node struct {
	*testbed.Node
	lab  *lab
	addr string
}

func newLab(stage *testbed.Stage, disk testbed.Disk, nodes int) (*lab, error) {
	bed, err := testbed.NewBed(stage)
	if err != nil {
		return nil, err
	}
	l := &lab{stage: stage, bed: bed, logs: filepath.Join(stage.Dir, "logs")}
	if err := l.build(disk, nodes); err != nil {
		return nil, errors.Join(err, bed.Close())
	}
	return l, nil
}

func (l *lab) build(disk testbed.Disk, nodes int) error {
	if err := errors.Join(os.RemoveAll(l.logs), os.MkdirAll(l.logs, 0o755), l.bed.AddLink(lan)); err != nil {
		return err
	}
	for i := range nodes {
		name := cluster.NodeID(rune('a' + i))
		addr := fmt.Sprintf("10.77.0.%d", 11+i)
		n, err := l.bed.AddNode(testbed.NodeSpec{ID: name, Disk: disk, Links: []testbed.Attachment{
			{Link: lan, Addrs: []netip.Prefix{netip.MustParsePrefix(addr + "/24")}}}})
		if err != nil {
			return err
		}
		if n.FS() != disk.FS {
			return fmt.Errorf("there is no %s here (root and loop devices are needed): %v", disk.FS, l.bed.Fidelity())
		}
		l.nodes = append(l.nodes, &node{Node: n, lab: l, addr: addr})
		if err := os.Mkdir(l.nodes[i].home(), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) master() *node     { return l.nodes[0] }
func (l *lab) standbys() []*node { return l.nodes[1:] }

// home is the mirrored directory as the stage sees it; self is what the node
// itself calls a path below its disk.
func (n *node) home(rel ...string) string {
	return filepath.Join(append([]string{n.Root(), "home"}, rel...)...)
}
func (n *node) self(rel string) string { return filepath.Join(n.lab.bed.Self(), rel) }

// start runs a program on the node.
func (n *node) start(name string, argv ...string) (*testbed.Proc, error) {
	return n.Start(testbed.Command{Argv: argv, Log: filepath.Join(n.lab.logs, string(n.ID)+"."+name+".log")})
}

// end ends a program and collects it.
func end(ctx context.Context, p *testbed.Proc, sig os.Signal) error {
	if err := p.Signal(signalOf(sig)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := p.Wait(ctx)
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
