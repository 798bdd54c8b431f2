package agent

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/mirror"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/kept"
	"revolve/internal/mirror/restore"
	"revolve/internal/mirror/tree"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// This file is what nodes keep, asked of all of them: a person stands on the
// master, and the trash lies on the standbys.

// askWithin bounds the wait for one node's list.
const askWithin = 10 * time.Second

// openVolume opens a volume of this node's.
func (a *Agent) openVolume(name cluster.VolumeID) (*tree.Root, error) {
	path := a.engine.VolumePath(name)
	if path == "" {
		return nil, &problem.Problem{Op: "open volume", Kind: problem.NotFound, Subject: string(name), Err: errors.New("there is no such volume"), Hint: "revolve status lists them"}
	}
	root, err := tree.Open(path)
	if err != nil {
		return nil, &problem.Problem{Op: "open volume", Kind: problem.Unavailable, Subject: path, Err: err, Hint: "mount its disk"}
	}
	return root, nil
}

// withNode asks one other node over a connection of its own.
func (a *Agent) withNode(ctx context.Context, node cluster.NodeID, do func(*peer.Conn) error) error {
	if !a.known(node) {
		return &problem.Problem{Op: "ask node", Kind: problem.NotFound, Subject: string(node), Err: errors.New("it is not in the configuration")}
	}
	conn, err := a.dial(ctx, node, kept.Service)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return do(conn)
}

// serveKept answers another node's question about what is kept here.
func (a *Agent) serveKept(ctx context.Context, c *peer.Conn) error {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	return kept.Serve(ctx, c, a.openVolume, func(ask kept.Ask) {
		a.o.Log.Warn("a person on another node lets something go that is kept here", "what", ask.What, "on", c.Peer(), "volume", ask.Volume, "set", ask.Set, "slot", ask.Slot)
	})
}

// volumesOf are those that a query is about.
func (a *Agent) volumesOf(q control.KeptQuery) ([]cluster.VolumeID, error) {
	var all []cluster.VolumeID
	for _, v := range a.o.Config.Volumes {
		if q.Volume == "" || q.Volume == v.Name {
			all = append(all, v.Name)
		}
	}
	if len(all) == 0 && q.Volume != "" {
		return nil, &problem.Problem{Op: "look for what is kept", Kind: problem.NotFound, Subject: string(q.Volume), Err: errors.New("there is no such volume"), Hint: "revolve status lists them"}
	}
	return all, nil
}

// each asks this node and the others, or the one that the query names, at the
// same time. Who does not answer is silent, and so is who is not heard, unless it was named.
func (a *Agent) each(ctx context.Context, q control.KeptQuery, here func(cluster.VolumeID, *tree.Root) error, there func(cluster.NodeID, cluster.VolumeID, *peer.Conn) error) ([]control.Silent, error) {
	volumes, err := a.volumesOf(q)
	if err != nil {
		return nil, err
	}
	nodes := []cluster.NodeID{q.From}
	if q.From == "" {
		nodes = append(alive(a.current()), a.o.Node)
	}
	errs := make([]error, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			for _, v := range volumes {
				if n == a.o.Node {
					errs[i] = errors.Join(errs[i], a.withVolume(v, here))
				} else {
					errs[i] = errors.Join(errs[i], a.withNode(ctx, n, func(c *peer.Conn) error { return there(n, v, c) }))
				}
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	silent := a.unheard(q, nodes)
	for i, err := range errs {
		if err != nil && q.From != "" {
			return nil, err
		}
		if err != nil {
			silent = append(silent, control.Silent{Node: nodes[i], Why: err.Error()})
		}
	}
	return silent, nil
}

// unheard are the nodes that a query of all leaves out.
func (a *Agent) unheard(q control.KeptQuery, asked []cluster.NodeID) []control.Silent {
	silent := []control.Silent{}
	for _, n := range a.nodes() {
		if q.From == "" && !slices.Contains(asked, n) {
			silent = append(silent, control.Silent{Node: n, Why: "it is not heard"})
		}
	}
	return silent
}

func (a *Agent) withVolume(v cluster.VolumeID, do func(cluster.VolumeID, *tree.Root) error) error {
	root, err := a.openVolume(v)
	if err != nil {
		return err
	}
	defer root.Close()
	return do(v, root)
}

// Trash lists what the nodes keep in their trash.
func (b backend) Trash(ctx context.Context, q control.KeptQuery) (control.TrashAnswer, error) {
	got := make(chan []control.Trashed, 2*config.MaxNodes*len(b.a.o.Config.Volumes))
	take := func(node cluster.NodeID, v cluster.VolumeID, list []apply.Trashed) {
		var out []control.Trashed
		for _, t := range list {
			out = append(out, control.Trashed{On: node, Volume: v, Slot: t.Slot, Time: t.Time, Path: t.Path, Size: t.Size,
				File: filepath.Join(b.a.cfg().VolumePath(node, v), t.File)})
		}
		got <- out
	}
	silent, err := b.a.each(ctx, q, func(v cluster.VolumeID, root *tree.Root) error {
		list, err := apply.ListTrash(root, string(q.Path))
		take(b.a.o.Node, v, list)
		return err
	}, func(n cluster.NodeID, v cluster.VolumeID, c *peer.Conn) error {
		list, _, err := kept.AskTrash(c, v, string(q.Path))
		take(n, v, list)
		return err
	})
	close(got)
	answer := control.TrashAnswer{Trash: []control.Trashed{}, Silent: silent}
	for list := range got {
		answer.Trash = append(answer.Trash, list...)
	}
	slices.SortStableFunc(answer.Trash, func(x, y control.Trashed) int {
		return cmp.Or(cmp.Compare(x.Volume, y.Volume), cmp.Compare(y.Slot, x.Slot), cmp.Compare(x.Path, y.Path), cmp.Compare(x.On, y.On))
	})
	return answer, err
}

// KeptAside lists the divergent changes that the nodes keep.
func (b backend) KeptAside(ctx context.Context, q control.KeptQuery) (control.DivergentAnswer, error) {
	got := make(chan []control.Divergent, 2*config.MaxNodes*len(b.a.o.Config.Volumes))
	silent, err := b.a.each(ctx, q, func(v cluster.VolumeID, root *tree.Root) error {
		list, err := apply.ListDivergent(root)
		got <- b.a.divergentOf(b.a.o.Node, v, list)
		return err
	}, func(n cluster.NodeID, v cluster.VolumeID, c *peer.Conn) error {
		list, err := kept.AskDivergent(c, v)
		got <- b.a.divergentOf(n, v, list)
		return err
	})
	close(got)
	answer := control.DivergentAnswer{Divergent: []control.Divergent{}, Silent: silent}
	for list := range got {
		answer.Divergent = append(answer.Divergent, list...)
	}
	slices.SortStableFunc(answer.Divergent, func(x, y control.Divergent) int {
		return cmp.Or(cmp.Compare(x.Volume, y.Volume), cmp.Compare(y.Set, x.Set), cmp.Compare(x.On, y.On))
	})
	return answer, err
}

func (a *Agent) divergentOf(node cluster.NodeID, v cluster.VolumeID, list []apply.Kept) (out []control.Divergent) {
	for _, k := range list {
		d := control.Divergent{On: node, Volume: v, Set: k.Set, Node: k.Node, Term: k.Term, Time: k.Time, Why: k.Why, What: k.What, Path: k.Path, Old: k.Old, Size: k.Size}
		if k.File != "" {
			d.File = filepath.Join(a.cfg().VolumePath(node, v), k.File)
		}
		out = append(out, d)
	}
	return out
}

// Fetch brings over what another node keeps, below the hidden directory of the volume here.
func (b backend) Fetch(ctx context.Context, q control.KeptQuery) (control.Fetched, error) {
	out := control.Fetched{Items: []control.FetchedItem{}, Left: []control.FetchedLeft{}}
	root, err := b.a.openVolume(q.Volume)
	if err != nil {
		return out, err
	}
	defer root.Close()
	err = b.a.withNode(ctx, q.From, func(c *peer.Conn) error {
		f, err := kept.Fetch(c, kept.Ask{Volume: q.Volume, Path: q.Path, Slot: q.Slot, Set: q.Set, Only: q.Only}, root)
		if err != nil {
			return err
		}
		out.Dir = f.Dir
		for i, it := range f.Items {
			out.Items = append(out.Items, control.FetchedItem{Path: []byte(it.Path), File: it.File, Kept: []byte(f.Kept[i].File)})
		}
		for _, l := range f.Left {
			out.Left = append(out.Left, control.FetchedLeft(l))
		}
		return nil
	})
	return out, err
}

// Forget takes what was brought back out of the other node's set.
func (b backend) Forget(ctx context.Context, q control.KeptQuery, items []control.FetchedItem) error {
	var all []restore.Item
	for _, i := range items {
		all = append(all, restore.Item{Path: string(i.Path), File: string(i.Kept)})
	}
	slices.Reverse(all) // directories were kept before what is in them
	for part := range slices.Chunk(all, kept.MaxForget) {
		err := b.a.withNode(ctx, q.From, func(c *peer.Conn) error {
			_, err := kept.AskForget(c, q.Volume, q.Set, part)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Drop makes another node forget divergent changes for good.
func (b backend) Drop(ctx context.Context, q control.KeptQuery) (n int, err error) {
	var only []string
	for _, o := range q.Only {
		only = append(only, string(o))
	}
	err = b.a.withNode(ctx, q.From, func(c *peer.Conn) (err error) {
		n, err = kept.AskDrop(c, q.Volume, q.Set, only)
		return err
	})
	return n, err
}

// Unpin lets pinned trash go by age and quota again, on every node that is heard or on one.
func (b backend) Unpin(ctx context.Context, q control.KeptQuery) (control.UnpinAnswer, error) {
	got := make(chan control.Unpinned, 2*config.MaxNodes*len(b.a.o.Config.Volumes))
	take := func(n cluster.NodeID, v cluster.VolumeID, pins []apply.Pin) {
		u := control.Unpinned{Node: n, Volume: v}
		for _, p := range pins {
			u.Slots = append(u.Slots, p.Slot)
		}
		if len(u.Slots) > 0 {
			b.a.o.Log.Info("trash was unpinned", "on", n, "volume", v, "slots", u.Slots)
			got <- u
		}
	}
	silent, err := b.a.each(ctx, q, func(v cluster.VolumeID, root *tree.Root) error {
		pins, err := apply.Unpin(root, q.Slot)
		take(b.a.o.Node, v, pins)
		return err
	}, func(n cluster.NodeID, v cluster.VolumeID, c *peer.Conn) error {
		pins, err := kept.AskUnpin(c, v, q.Slot)
		take(n, v, pins)
		return err
	})
	close(got)
	answer := control.UnpinAnswer{Unpinned: []control.Unpinned{}, Silent: silent}
	for u := range got {
		answer.Unpinned = append(answer.Unpinned, u)
	}
	slices.SortFunc(answer.Unpinned, func(x, y control.Unpinned) int {
		return cmp.Or(cmp.Compare(x.Node, y.Node), cmp.Compare(x.Volume, y.Volume))
	})
	return answer, err
}

// Resume lets a paused volume of this node's go on.
func (b backend) Resume(_ context.Context, r control.Resuming) (string, error) {
	return b.a.engine.Resume(r.Volume, mirror.Resuming{AcceptDeletions: r.AcceptDeletions, NotMounted: r.NotMounted})
}
