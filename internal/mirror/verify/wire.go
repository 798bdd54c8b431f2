package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// Frame kinds. The numbers never change.
const (
	frameAsk     byte = 1 // JSON Ask
	frameRefuse  byte = 2 // JSON refusal
	framePage    byte = 3 // JSON page
	frameEnd     byte = 4 // JSON End
	frameRepair  byte = 5 // JSON Repair
	frameContent byte = 6 // JSON content: a file's bytes are asked for
	frameData    byte = 7 // bytes of it
	frameDone    byte = 8 // JSON done: the proof came to its end
	frameBusy    byte = 9 // nothing: the answer takes its time
)

const (
	// silence is how long the other side may say nothing: while it reads it says every busyEvery that it does.
	silence   = 20 * time.Second
	busyEvery = 3 * time.Second
	// idle is how long a standby waits for the next question: the master reads a large file meanwhile, or waits at a barrier.
	idle = 10 * time.Minute
	// dataChunk is how much of a file one frame carries.
	dataChunk = 256 << 10
)

type page struct {
	Entries []Entry `json:"entries"`
}

type content struct {
	Path []byte `json:"path"`
	Size int64  `json:"size"`
}

type done struct {
	Run int64 `json:"run"`
}

type refusal struct {
	Kind problem.Kind `json:"kind"`
	Err  string       `json:"err"`
	Hint string       `json:"hint,omitempty"`
}

// Conn is what is needed of a connection.
type Conn interface {
	Peer() cluster.NodeID
	Read() (kind byte, payload []byte, err error)
	Write(kind byte, parts ...[]byte) error
	Flush() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

func send(c Conn, kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return sendBytes(c, kind, b)
}

func sendBytes(c Conn, kind byte, b []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	return errors.Join(c.Write(kind, b), c.Flush())
}

// Host is the standby's side of a proof.
type Host struct {
	Reader *Reader
	// Not is what this node could not set.
	Not func() End
	// Repair has names come again.
	Repair func(ctx context.Context, r Repair) error
}

// Serve answers questions until the connection ends. The caller closes it, also when ctx ends.
func Serve(ctx context.Context, c Conn, h Host) error {
	for {
		if err := c.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		kind, payload, err := c.Read()
		if err != nil {
			return err
		}
		if err := h.answer(ctx, c, kind, payload); err != nil {
			return errors.Join(err, send(c, frameRefuse, refusal{problem.KindOf(err), err.Error(), problem.HintOf(err)}))
		}
	}
}

// decode reads JSON from the other side and checks it.
func decode[T any](payload []byte, check func(*T) error) (v T, err error) {
	if err = json.Unmarshal(payload, &v); err == nil {
		err = check(&v)
	}
	return v, err
}

func (h Host) answer(ctx context.Context, c Conn, kind byte, payload []byte) error {
	switch kind {
	case frameAsk:
		a, err := decode(payload, (*Ask).Check)
		if err != nil {
			return corrupt(c.Peer(), err)
		}
		return h.digests(ctx, c, a)
	case frameRepair:
		r, err := decode(payload, (*Repair).Check)
		if err != nil {
			return corrupt(c.Peer(), err)
		}
		if err := h.Repair(ctx, r); err != nil {
			return err
		}
		return send(c, frameEnd, End{})
	case frameContent:
		w, err := decode(payload, (*content).check)
		if err != nil {
			return corrupt(c.Peer(), err)
		}
		return h.content(ctx, c, w)
	case frameDone:
		d, err := decode(payload, func(*done) error { return nil })
		if err != nil {
			return corrupt(c.Peer(), err)
		}
		return errors.Join(h.Reader.Index.Done(d.Run), send(c, frameEnd, End{}))
	}
	return corrupt(c.Peer(), fmt.Errorf("unexpected frame %d", kind))
}

func (w *content) check() error {
	if w.Size < 0 || len(w.Path) == 0 || tree.IsHidden(string(w.Path)) {
		return errors.New("no file of the volume")
	}
	return tree.Check(string(w.Path))
}

func (h Host) digests(ctx context.Context, c Conn, a Ask) error {
	last := time.Now()
	h.Reader.pace.busy = func() error { // the asking side must know that somebody works
		if time.Since(last) < busyEvery {
			return nil
		}
		last = time.Now()
		return sendBytes(c, frameBusy, nil)
	}
	list, more, err := h.Reader.Digests(ctx, a)
	if err != nil {
		return err
	}
	for len(list) > 0 {
		n := min(pageEntries, len(list))
		if err := send(c, framePage, page{list[:n]}); err != nil {
			return err
		}
		list = list[n:]
	}
	end := h.Not()
	end.More = more
	return send(c, frameEnd, end)
}

func (h Host) content(ctx context.Context, c Conn, w content) error {
	rel := string(w.Path)
	if h.Reader.Excluded(rel) {
		return corrupt(c.Peer(), errors.New("no file of the volume"))
	}
	f, m, err := h.Reader.Root.OpenFile(rel)
	if err != nil {
		return err
	}
	defer f.Close()
	if m.Size != w.Size {
		return &problem.Problem{Op: "verify", Kind: problem.Unavailable, Subject: rel, Err: errors.New("it has another size by now")}
	}
	buf := make([]byte, dataChunk)
	for at := int64(0); at < w.Size; {
		n := min(int64(len(buf)), w.Size-at)
		if _, err := f.ReadAt(buf[:n], at); err != nil {
			return err
		}
		if err := errors.Join(ctx.Err(), sendBytes(c, frameData, buf[:n])); err != nil {
			return err
		}
		at += n
	}
	return send(c, frameEnd, End{})
}

// Remote is a standby over a connection.
type Remote struct{ C Conn }

// next is the next frame of an answer.
func (r Remote) next() (kind byte, payload []byte, err error) {
	for {
		if err := r.C.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return 0, nil, err
		}
		kind, payload, err = r.C.Read()
		switch {
		case err != nil:
			return 0, nil, err
		case kind == frameBusy:
			continue
		case kind != frameRefuse:
			return kind, payload, nil
		}
		var f refusal
		if err := json.Unmarshal(payload, &f); err != nil {
			return 0, nil, corrupt(r.C.Peer(), err)
		}
		return 0, nil, &problem.Problem{Op: "verify with", Kind: f.Kind, Subject: string(r.C.Peer()), Err: errors.New(f.Err), Hint: f.Hint}
	}
}

// Digests answers an Ask.
func (r Remote) Digests(a Ask) (list []Entry, end End, err error) {
	if err := send(r.C, frameAsk, a); err != nil {
		return nil, end, err
	}
	for {
		kind, payload, err := r.next()
		switch {
		case err != nil:
			return nil, end, err
		case kind == frameEnd:
			return list, end, json.Unmarshal(payload, &end)
		case kind != framePage:
			return nil, end, corrupt(r.C.Peer(), fmt.Errorf("unexpected frame %d", kind))
		}
		var p page
		if err := json.Unmarshal(payload, &p); err != nil {
			return nil, end, corrupt(r.C.Peer(), err)
		}
		for i := range p.Entries {
			if err := a.fits(&p.Entries[i]); err != nil {
				return nil, end, corrupt(r.C.Peer(), err)
			}
		}
		if list = append(list, p.Entries...); len(list) > maxAnswer {
			return nil, end, corrupt(r.C.Peer(), fmt.Errorf("more than %d names", maxAnswer))
		}
	}
}

// fits refuses an entry that was not asked for or says nonsense.
func (a *Ask) fits(e *Entry) error {
	if len(e.Name) == 0 || len(e.Name) > 255 || tree.Check(tree.Join(string(a.Dir), string(e.Name))) != nil {
		return fmt.Errorf("%q is no name", e.Name)
	}
	if len(e.Hash) != 0 && len(e.Hash) != 32 || len(e.Was) != 0 && len(e.Was) != 32 || len(e.Xattrs) != 0 && len(e.Xattrs) != 32 {
		return errors.New("a digest of another length")
	}
	return nil
}

// ended takes the end of an answer that has nothing else.
func (r Remote) ended() error {
	kind, _, err := r.next()
	if err == nil && kind != frameEnd {
		err = corrupt(r.C.Peer(), fmt.Errorf("unexpected frame %d", kind))
	}
	return err
}

// Repair has names come again from the master.
func (r Remote) Repair(p Repair) error {
	if err := send(r.C, frameRepair, p); err != nil {
		return err
	}
	return r.ended()
}

// Done ends a proof that came to its end.
func (r Remote) Done(run int64) error {
	if err := send(r.C, frameDone, done{run}); err != nil {
		return err
	}
	return r.ended()
}

// Content hands the bytes of a file to take, exactly size of them.
func (r Remote) Content(rel string, size int64, take func([]byte) error) error {
	if err := send(r.C, frameContent, content{[]byte(rel), size}); err != nil {
		return err
	}
	for {
		kind, payload, err := r.next()
		switch {
		case err != nil:
			return err
		case kind == frameEnd && size == 0:
			return nil
		case kind != frameData || len(payload) == 0 || int64(len(payload)) > size:
			return corrupt(r.C.Peer(), fmt.Errorf("frame %d of %d bytes where %d are to come", kind, len(payload), size))
		}
		size -= int64(len(payload))
		if err := take(payload); err != nil {
			return err
		}
	}
}
