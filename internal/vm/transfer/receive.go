package transfer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"time"

	"revolve/internal/block"
	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
)

// Receiving is what a receiver needs.
type Receiving struct {
	Store *points.Store
	Node  cluster.NodeID
	Log   *slog.Logger
}

// Receive takes one point from a peer and closes the connection. What came
// durably stays when it fails.
func Receive(ctx context.Context, c Conn, o Receiving) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	r := &receiver{line: line{c}, o: o}
	defer r.close()
	err := r.run()
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	r.close()
	if r.say(frameFailed, failureOf(err)) == nil {
		r.linger()
	}
	return err
}

type receiver struct {
	line
	o       Receiving
	release func()
	offer   Offer
	st      *points.Staging
	file    string
	size    int64
	buf     []byte
}

func (r *receiver) close() {
	if r.st != nil {
		r.st.Close()
	}
	if r.release != nil {
		r.release()
		r.release = nil
	}
}

// lockPatience is how long an attempt waits for the one before it, whose connection may have been cut while it waited for a disk.
const (
	lockPatience = 10 * time.Second
	lockPoll     = 50 * time.Millisecond
)

func (r *receiver) lock(vm string) (err error) {
	for late := time.Now().Add(lockPatience); ; time.Sleep(lockPoll) {
		r.release, err = r.o.Store.Lock(vm)
		if problem.KindOf(err) != problem.Conflict || err == nil || time.Now().After(late) {
			return err
		}
	}
}

// linger reads on until the sender has read why, so that closing does not throw the reason away.
func (r *receiver) linger() {
	if r.SetReadDeadline(time.Now().Add(5*time.Second)) != nil {
		return
	}
	for {
		if _, _, err := r.Read(); err != nil {
			return
		}
	}
}

func (r *receiver) run() error {
	for {
		if err := r.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		kind, b, err := r.Read()
		if err != nil {
			return err
		}
		if kind == frameCommit {
			return r.commit(b)
		}
		if err := r.take(kind, b); err != nil {
			return err
		}
	}
}

func (r *receiver) take(kind byte, b []byte) error {
	if kind == frameOffer {
		return r.begin(b)
	}
	if r.st == nil || kind != frameFile && r.file == "" {
		return corrupt(r, "a frame of kind %d before its time", kind)
	}
	switch kind {
	case frameFile:
		return r.next(string(b))
	case frameData:
		n, data, ok := take(b, 1)
		if !ok || len(data) == 0 || len(data) > maxData {
			return corrupt(r, "%d bytes of data", len(data))
		}
		return r.st.Write(r.file, n[0], data)
	case frameHole:
		n, rest, ok := take(b, 2)
		if !ok || len(rest) > 0 {
			return corrupt(r, "a malformed hole")
		}
		return r.st.Hole(r.file, block.Range{At: n[0], Length: n[1], Hole: true})
	case frameMark:
		n, rest, ok := take(b, 1)
		if !ok || len(rest) > 0 {
			return corrupt(r, "a malformed mark")
		}
		if err := r.st.Mark(r.file, n[0]); err != nil {
			return err
		}
		return errors.Join(r.Write(frameMarked), r.Flush())
	case frameHashes:
		return r.compare(b)
	case frameProve:
		return r.prove(b)
	}
	return corrupt(r, "a frame of kind %d", kind)
}

// begin judges an offer and says from where it starts.
func (r *receiver) begin(b []byte) error {
	again := r.st != nil
	var o Offer
	if err := decode(r, b, &o); err != nil {
		return err
	}
	if err := o.Point.Check(); err != nil {
		return err
	}
	if again {
		if o.Point.ID != r.offer.Point.ID {
			return corrupt(r, "another point on the same connection")
		}
		if err := r.st.Discard(); err != nil {
			return err
		}
		r.st = nil
	} else {
		if free, err := r.o.Store.Free(); err != nil {
			return err
		} else if free < leastRoom {
			return points.NoRoom(leastRoom, free)
		}
		if err := r.lock(o.Point.VM); err != nil {
			return err
		}
	}
	r.offer = o
	a, base, err := r.judge(o)
	if err != nil {
		return err
	}
	if a.Record == nil {
		if r.st, err = r.o.Store.Stage(o.Point, base, o.Whole); err != nil {
			return err
		}
		free, err := r.room(o)
		if err != nil {
			return err
		}
		a.Free = &free
		a.Odd = r.st.Odd
		for _, f := range o.Point.Files {
			a.Files = append(a.Files, Start{f.Name, r.st.Modes[f.Name], r.st.Done(f.Name)})
		}
	}
	return r.say(frameAnswer, a)
}

// leastRoom is for directories and records.
const leastRoom = 1 << 20

// room refuses what would not fit here, as far as that is known: all of a file that
// begins anew. Of the others the sender sees what changed, and refuses itself.
func (r *receiver) room(o Offer) (free int64, err error) {
	if free, err = r.o.Store.Free(); err != nil {
		return 0, err
	}
	need := int64(0)
	for i, f := range o.Point.Files {
		if r.st.Modes[f.Name] == points.New && len(o.Data) == len(o.Point.Files) {
			need += max(0, min(o.Data[i], f.Size)-r.st.Done(f.Name))
		}
	}
	if need > free {
		return free, points.NoRoom(need, free)
	}
	return free - need, nil
}

// judge compares the histories. A point descends from what is here, or it is refused.
func (r *receiver) judge(o Offer) (Answer, *points.Record, error) {
	a := Answer{Choice: r.o.Store.Choice(), Files: []Start{}}
	list, err := r.o.Store.List(o.Point.VM)
	if err != nil {
		return a, nil, err
	}
	for i := range list {
		if list[i].ID == o.Point.ID {
			a.Record = &list[i]
			return a, nil, nil
		}
	}
	if err := Judge(o, list); err != nil {
		return a, nil, err
	}
	if c, ok, err := r.o.Store.Chain(o.Point.VM); err != nil {
		return a, nil, err
	} else if ok && c.Last.Lineage == o.Point.Lineage && c.Last.Generation > o.Point.Generation && !o.Force {
		return a, nil, olderHome(o.Point.VM)
	}
	for i := range list {
		if slices.Contains(o.Point.Ancestors, list[i].ID) && list[i].Lineage == o.Point.Lineage {
			a.Base, a.Proof = list[i].ID, list[i].Here.Proof
			return a, &list[i], nil
		}
	}
	return a, nil, nil
}

// Judge decides whether a point may come to where these are, newest first: it
// must descend from the newest of them, but for those that were kept aside when
// this node's machine had lost. Times decide nothing.
func Judge(o Offer, here []points.Record) error {
	here = slices.DeleteFunc(slices.Clone(here), func(r points.Record) bool { return r.Here.Aside })
	if len(here) == 0 || o.Force {
		return nil
	}
	newest := &here[0]
	refuse := func(kind problem.Kind, text string) error { return refusal(o.Point.VM, kind, text) }
	switch {
	case newest.Lineage != o.Point.Lineage:
		return refuse(problem.Conflict, "the points there are of another machine of that name")
	case newest.Generation > o.Point.Generation:
		return olderHome(o.Point.VM)
	case !slices.Contains(o.Point.Ancestors, newest.ID):
		return refuse(problem.Conflict, "the newest point there, "+string(newest.ID)+", is not in this one's history: the copies have diverged")
	}
	return nil
}

func refusal(vm string, kind problem.Kind, text string) error {
	return &problem.Problem{Op: "take a point of", Kind: kind, Subject: vm, Err: errors.New(text),
		Hint: "look at both: revolve vm points " + vm + "; with --force this one comes too, and what is there stays as a point"}
}

func olderHome(vm string) error {
	return refusal(vm, problem.StaleTerm, "the machine was started elsewhere since; this node's copy is the older one")
}

func (r *receiver) next(name string) error {
	for _, f := range r.offer.Point.Files {
		if f.Name == name {
			r.file, r.size = name, f.Size
			return nil
		}
	}
	return corrupt(r, "a file %q that was not offered", name)
}

func (r *receiver) buffer(n int64) []byte {
	if int64(cap(r.buf)) < n {
		r.buf = make([]byte, maxHashed)
	}
	return r.buf[:n]
}

// compare says which blocks differ from what is here.
func (r *receiver) compare(b []byte) error {
	h, ok := decodeHashed(b)
	if !ok {
		return corrupt(r, "malformed hashes")
	}
	want := make([]byte, len(h.list)/block.HashSize)
	for i := range want {
		at := h.at + int64(i)*h.block
		if at >= r.size {
			return corrupt(r, "hashes behind the end")
		}
		piece := r.buffer(min(h.block, r.size-at))
		if err := r.st.ReadAt(r.file, piece, at); err != nil {
			return err
		}
		if sum := block.HashOf(piece); string(sum[:]) != string(h.list[i*block.HashSize:(i+1)*block.HashSize]) {
			want[i] = 1
		}
	}
	return errors.Join(r.Write(frameWant, want), r.Flush())
}

// prove reads what is asked for from the disk.
func (r *receiver) prove(b []byte) error {
	list, ok := decodeQuestions(b)
	if !ok {
		return corrupt(r, "malformed questions")
	}
	var ranges []block.Range
	for _, q := range list {
		ranges = append(ranges, block.Range{At: q.at, Length: q.length})
	}
	r.st.Fresh(r.file, ranges)
	differs := make([]byte, len(list))
	for i, q := range list {
		if q.at > r.size-q.length {
			return corrupt(r, "a question behind the end")
		}
		piece := r.buffer(q.length)
		if err := r.st.ReadAt(r.file, piece, q.at); err != nil {
			return err
		}
		if block.HashOf(piece) != q.hash {
			differs[i] = 1
		}
	}
	return errors.Join(r.Write(frameDiffers, differs), r.Flush())
}

func (r *receiver) commit(b []byte) error {
	var here points.Here
	if err := decode(r, b, &here); err != nil {
		return err
	}
	if r.st == nil {
		return corrupt(r, "a commit of nothing")
	}
	here, ok := here.Bounded(&r.offer.Point)
	if !ok {
		return corrupt(r, "a commit that does not name the point's files")
	}
	here.Node, here.From = r.o.Node, r.Peer()
	record, err := r.st.Publish(here)
	if err != nil {
		return err
	}
	r.close()
	r.o.Log.Info("point published", "vm", record.VM, "point", record.ID, "from", here.From)
	if err := r.say(framePublished, record); err != nil {
		return err
	}
	r.linger()
	return nil
}
