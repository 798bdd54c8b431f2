package transfer

import (
	"context"

	"revolve/internal/block"
)

// compareAll has both sides read all of a file: what differs is sent.
func (s *sender) compareAll(ctx context.Context, why string) error {
	s.begin(Compared, why)
	s.done = 0 // what is durable there may be of a tracker that was wrong
	c := &comparison{sender: s, block: block.BlockSize(s.file.Size)}
	if err := s.scan(ctx, nil, c.piece); err != nil {
		return err
	}
	for len(c.pending) > 0 {
		if err := c.settle(); err != nil {
			return err
		}
	}
	return nil
}

type asked struct {
	at   int64
	data []byte
}

// comparison is the pieces whose hashes were sent and not answered.
type comparison struct {
	*sender
	block   int64
	pending []asked
	spare   [][]byte
}

// piece takes what a scan reads; holes need no comparison.
func (c *comparison) piece(r block.Range, data []byte) error {
	if r.Hole {
		c.told[c.file.Name] = block.Append(c.told[c.file.Name], r)
		return c.hole(r)
	}
	for len(c.pending) >= ahead {
		if err := c.settle(); err != nil {
			return err
		}
	}
	kept := append(c.buffer(), data...)
	var list []byte
	for at := int64(0); at < int64(len(data)); at += c.block {
		h := block.HashOf(data[at:min(at+c.block, int64(len(data)))])
		list = append(list, h[:]...)
	}
	if err := c.Write(frameHashes, numbers(r.At, c.block), list); err != nil {
		return err
	}
	c.sent(16 + int64(len(list)))
	c.pending = append(c.pending, asked{r.At, kept})
	return c.Flush()
}

func (c *comparison) buffer() []byte {
	if n := len(c.spare); n > 0 {
		b := c.spare[n-1]
		c.spare = c.spare[:n-1]
		return b[:0]
	}
	return make([]byte, 0, maxHashed)
}

// settle hears which blocks of the oldest piece differ, and sends them.
func (c *comparison) settle() error {
	p := c.pending[0]
	c.pending = c.pending[1:]
	for c.unmarked > 0 { // answers come in order
		if err := c.hearMark(); err != nil {
			return err
		}
	}
	want, err := c.hear(frameWant, idle)
	if err != nil {
		return err
	}
	if int64(len(want)) != (int64(len(p.data))+c.block-1)/c.block {
		return corrupt(c, "an answer about %d blocks", len(want))
	}
	for i, w := range want {
		if w == 0 {
			continue
		}
		off := int64(i) * c.block
		b := p.data[off:min(off+c.block, int64(len(p.data)))]
		c.held.Changed += int64(len(b))
		if err := c.Write(frameData, numbers(p.at+off), b); err != nil {
			return err
		}
		c.sent(8 + int64(len(b)))
	}
	c.spare = append(c.spare, p.data)
	return nil
}
