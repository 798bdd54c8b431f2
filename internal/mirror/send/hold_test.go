package send_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/wire"
)

// compared is a follower with an empty tree, which asks for what is listed, and for one path more with its acknowledgement of a position.
type compared struct {
	mute
	answers chan []byte
	asksAt  cluster.Position
	asksFor string
	story   []string // what came, in order
}

func (c *compared) Read() (byte, []byte, error) {
	select {
	case b := <-c.answers:
		return b[0], b[1:], nil
	case <-c.down:
		return 0, nil, io.EOF
	}
}

func (c *compared) answer(kind byte, v any) error {
	b, err := json.Marshal(v)
	c.answers <- append([]byte{kind}, b...)
	return err
}

func (c *compared) Write(kind byte, parts ...[]byte) error {
	payload := bytes.Join(parts, nil)
	switch kind {
	case wire.FrameList:
		l, err := wire.DecodeList(payload)
		if err != nil {
			return err
		}
		w := wire.Wants{Job: l.Job, Dir: []byte(l.Dir)}
		for _, e := range l.Entries {
			w.Names = append(w.Names, []byte(e.Name))
		}
		return c.answer(wire.FrameWants, w)
	case wire.FrameTreeEnd:
		id, _, err := wire.DecodeID(payload)
		if err != nil {
			return err
		}
		c.story = append(c.story, "compared")
		return c.answer(wire.FrameCompared, wire.Compared{Job: id})
	case wire.FrameOp:
		op, err := wire.DecodeOp(payload)
		if err != nil {
			return err
		}
		switch op.Kind {
		case wire.OpFile, wire.OpRemove:
			c.story = append(c.story, op.Path)
		case wire.OpPaid:
			c.story = append(c.story, "paid")
			close(c.frames)
		}
	case wire.FrameBatch:
		b, err := wire.DecodeBatch(payload)
		if err != nil {
			return err
		}
		if c.asksFor != "" && b.Pos == c.asksAt {
			path := c.asksFor
			c.asksFor = ""
			if err := c.answer(wire.FrameWants, wire.Wants{Names: [][]byte{[]byte(path)}}); err != nil {
				return err
			}
		}
		c.answers <- append([]byte{wire.FrameAck}, wire.Ack{Pos: b.Pos, Batches: 1}.Append(nil)...)
	}
	return nil
}

// TestAComparisonIsOwedUntilItsRecordsHaveCome: what a comparison gives is ahead of the records that tell of it.
// Were it paid for at once, and the source died before it sent them, another follower would stand at the same
// position without that, and nothing would say so. What the follower asks for meanwhile has no part in it.
func TestAComparisonIsOwedUntilItsRecordsHaveCome(t *testing.T) {
	src := newSource(t)
	src.write("f", "written, and not yet told")
	conn := &compared{mute: mute{frames: make(chan []byte), down: make(chan struct{})}, answers: make(chan []byte, 100), asksFor: "asked", asksAt: cluster.Position{Term: 1, Seq: 2}}
	drain := func(context.Context) error { // f is told, and by the second time it was written once more
		src.dirty("f")
		return nil
	}
	s, ctx, done, end := src.run(conn, send.Options{Compare: true, Extras: wire.ExtrasTrash, Drain: drain}, wire.Ready{From: src.journal.Position()})
	select {
	case <-conn.frames:
	case err := <-done:
		t.Fatalf("the stream ended: %v", err)
	case <-ctx.Done():
	}
	busy := s.State().Busy
	end()
	if want := []string{"f", "compared", "f", "f", "asked", "paid"}; !slices.Equal(conn.story, want) {
		t.Errorf("what came is %q, want %q", conn.story, want)
	}
	if busy {
		t.Error("it counts as under way though it is paid")
	}
}
