package kept

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/restore"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// Serve answers one question on the connection; open opens a volume of this
// node's, and told hears of every wish to let something go. The caller closes the
// connection.
func Serve(ctx context.Context, c conn, open func(cluster.VolumeID) (*tree.Root, error), told func(Ask)) error {
	kind, payload, err := receive(c)
	if err != nil {
		return err
	}
	var ask Ask
	if kind != frameAsk {
		return corrupt(c, errors.New("not a question"))
	}
	if err := errors.Join(json.Unmarshal(payload, &ask), ask.Check()); err != nil {
		return refuse(c, &problem.Problem{Op: "read question", Kind: problem.Corrupt, Err: err})
	}
	root, err := open(ask.Volume)
	if err != nil {
		return refuse(c, err)
	}
	defer root.Close()
	if ask.Removes() {
		told(ask)
	}
	if err := serve(ctx, c, root, ask); err != nil {
		return refuse(c, err)
	}
	return nil
}

func refuse(c conn, err error) error {
	r := refusal{Kind: problem.KindOf(err), Err: err.Error(), Hint: problem.HintOf(err)}
	var p *problem.Problem
	if errors.As(err, &p) && p.Err != nil {
		r.Op, r.Subject, r.Err = p.Op, p.Subject, p.Err.Error()
	}
	return errors.Join(err, send(c, frameRefuse, r))
}

func serve(ctx context.Context, c conn, root *tree.Root, ask Ask) error {
	switch ask.What {
	case askTrash:
		return serveTrash(c, root, ask)
	case askDivergent:
		return serveDivergent(c, root)
	case askFetch:
		return serveFetch(ctx, c, root, ask)
	case askUnpin:
		pins, err := apply.Unpin(root, ask.Slot)
		if err != nil {
			return err
		}
		return send(c, frameEnd, end{Pins: pins})
	case askDrop:
		n, err := restore.Drop(root, ask.Set, texts(ask.Only))
		if err != nil {
			return err
		}
		return send(c, frameEnd, end{N: n})
	case askForget:
		var items []restore.Item
		for _, i := range ask.Items {
			items = append(items, restore.Item{Path: string(i.Path), File: string(i.File)})
		}
		n, err := restore.Forget(root, ask.Set, items)
		if err != nil {
			return err
		}
		return send(c, frameEnd, end{N: n})
	}
	return &problem.Problem{Op: "answer question", Kind: problem.Invalid, Subject: ask.What, Err: errors.New("unknown question")}
}

func texts(paths [][]byte) (out []string) {
	for _, p := range paths {
		out = append(out, string(p))
	}
	return out
}

func serveTrash(c conn, root *tree.Root, ask Ask) error {
	list, err := apply.ListTrash(root, string(ask.Path))
	if err != nil {
		return err
	}
	pins, err := apply.Pins(root)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		n := min(pageEntries, len(list))
		var p page
		for _, t := range list[:n] {
			p.Trash = append(p.Trash, trashEntry{t, []byte(t.Path)})
		}
		list = list[n:]
		if err := send(c, framePage, p); err != nil {
			return err
		}
	}
	return send(c, frameEnd, end{Pins: pins})
}

func serveDivergent(c conn, root *tree.Root) error {
	list, err := apply.ListDivergent(root)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		n := min(pageEntries, len(list))
		if err := send(c, framePage, page{Divergent: list[:n]}); err != nil {
			return err
		}
		list = list[n:]
	}
	return send(c, frameEnd, end{})
}

// serveFetch sends what can be brought back of a set, or of a path in the trash.
func serveFetch(ctx context.Context, c conn, root *tree.Root, ask Ask) (err error) {
	var items []restore.Item
	var left []restore.Left
	if ask.Set != "" {
		items, left, err = restore.PickSet(root, ask.Set, texts(ask.Only))
	} else {
		items, err = restore.PickTrash(root, string(ask.Path), ask.Slot)
	}
	if err != nil {
		return err
	}
	if len(items) > maxItems {
		return &problem.Problem{Op: "restore", Kind: problem.Invalid, Err: errors.New("too much at once"), Hint: "name a directory below it"}
	}
	b := begin{}
	metas := make([]tree.Meta, len(items))
	for i, it := range items {
		m, err := root.Lstat(it.File)
		if err != nil && !tree.IsGone(err) {
			return err
		}
		if metas[i] = m; m.Kind != 0 {
			b.Items++
			b.Bytes += m.Size
		}
	}
	if err := send(c, frameBegin, b); err != nil {
		return err
	}
	for i, it := range items {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if metas[i].Kind == 0 {
			continue
		}
		if err := sendItem(c, root, it, metas[i]); err != nil {
			return err
		}
	}
	return send(c, frameEnd, end{Left: left})
}

func opKind(k tree.Kind) wire.OpKind {
	switch {
	case k == tree.File:
		return wire.OpFile
	case k == tree.Dir:
		return wire.OpDir
	case k == tree.Symlink:
		return wire.OpSymlink
	}
	return wire.OpNode
}

// sendItem sends one thing. Old is where it is kept here, so that it can be
// forgotten by that name.
func sendItem(c conn, root *tree.Root, it restore.Item, m tree.Meta) error {
	var f *os.File
	if m.Kind == tree.File {
		var err error
		if f, m, err = root.OpenFile(it.File); err != nil {
			return err
		}
		defer f.Close()
	}
	op := wire.Op{Kind: opKind(m.Kind), Path: it.Path, Meta: m}
	name := []byte(it.File)
	if err := c.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	if err := c.Write(frameItem, wire.AppendID(nil, uint64(len(name))), name, op.Append(nil)); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for left := m.Size; f != nil && left > 0; {
		n, err := io.ReadFull(f, buf[:min(left, chunk)])
		if err != nil {
			return &problem.Problem{Op: "read", Kind: problem.Unavailable, Subject: it.Path, Err: errors.New("it is shorter than it was"), Hint: "try again"}
		}
		left -= int64(n)
		if err := errors.Join(c.SetWriteDeadline(time.Now().Add(silence)), c.Write(frameData, buf[:n])); err != nil {
			return err
		}
	}
	return nil
}
