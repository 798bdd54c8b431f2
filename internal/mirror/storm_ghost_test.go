package mirror

import (
	"context"
	"encoding/json"
	"errors"

	"revolve/internal/cluster"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// haunt runs a second stream beside the one to the follower: it reads ahead of
// that one when that one is cut off, and behind it now and then. What it reads, the other is told from (send.Reads).
func (w *world) haunt() error {
	w.reads = send.NewReads()
	mine, theirs, cut := newPipe("a", "c")
	s, err := send.New(mine, send.Options{
		Root: w.srcRoot, Journal: w.srcJournal, Excluded: tree.IsHidden, Links: w.finder, Reads: w.reads, Reign: w.reign, Extras: wire.ExtrasTrash, Log: w.v.log,
		Ping: func(cluster.Position) wire.Ping { return wire.Ping{Head: w.srcJournal.Position()} },
	}, wire.Ready{From: w.srcJournal.Position()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { _ = s.Run(ctx); cut.stop(); ended <- struct{}{} }()
	go func() { _ = nod(theirs); cut.stop(); ended <- struct{}{} }()
	w.exorcise = func() { cancel(); <-ended; <-ended }
	return nil
}

// nod is a follower that says yes to everything, and keeps nothing.
func nod(conn Conn) error {
	answer := func(kind byte, v any) error {
		b, err := json.Marshal(v)
		return errors.Join(err, conn.Write(kind, b), conn.Flush())
	}
	for {
		kind, payload, err := conn.Read()
		if err != nil {
			return err
		}
		switch kind {
		case wire.FrameBatch:
			b, err := wire.DecodeBatch(payload)
			if err != nil {
				return err
			}
			if err := errors.Join(conn.Write(wire.FrameAck, wire.Ack{Pos: b.Pos, Batches: 1}.Append(nil)), conn.Flush()); err != nil {
				return err
			}
		case wire.FrameList:
			l, err := wire.DecodeList(payload)
			if err != nil {
				return err
			}
			if err := answer(wire.FrameWants, wire.Wants{Job: l.Job, Dir: []byte(l.Dir)}); err != nil {
				return err
			}
		case wire.FrameTreeEnd:
			id, _, err := wire.DecodeID(payload)
			if err != nil {
				return err
			}
			if err := answer(wire.FrameCompared, wire.Compared{Job: id}); err != nil {
				return err
			}
		}
	}
}
