package transfer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
)

// Sending is what a sender needs. It reads Source only.
type Sending struct {
	Store  *points.Store
	Source *points.Source
	Whole  bool // prove every block: nothing is taken to be the same
	Force  bool // also onto a copy of another history
	Proof  Budget
	Every  int64             // so many bytes are made durable at once; MarkEvery if 0
	Rand   *rand.Rand        // chooses the samples
	Tell   func(Moment)      // told how far it is; may be nil
	Step   func(name string) // called at the labelled moments; tests end the process there. May be nil
}

// Moment is how far a transfer is.
type Moment struct {
	File    string
	Tracker block.Tracker
	Why     string
	Changed int64 // bytes to send of it, 0 as long as that is not known
	Sent    int64
}

// Send brings a point to the peer and returns its record there.
func Send(ctx context.Context, c Conn, o Sending) (points.Record, error) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if o.Every == 0 {
		o.Every = MarkEvery
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	s := &sender{line: line{c}, o: o, buf: make([]byte, maxData)}
	record, err := s.run(ctx)
	if err != nil && ctx.Err() != nil {
		err = &problem.Problem{Op: "copy point to", Kind: problem.Unavailable, Subject: string(c.Peer()), Err: ctx.Err(), Hint: "what came is kept there; the next copy goes on from it"}
	}
	return record, err
}

type sender struct {
	line
	o      Sending
	answer Answer
	base   *points.Record // as it is here
	here   points.Here
	told   map[string][]block.Range // what was sent of each file
	buf    []byte

	file     *points.SourceFile
	held     *points.Held
	done     int64 // durable there from before
	marked   int64 // bytes sent since the last mark
	unmarked int   // marks that were not answered
}

func (s *sender) step(name string) {
	if s.o.Step != nil {
		s.o.Step(name)
	}
}

func (s *sender) run(ctx context.Context) (points.Record, error) {
	var found []points.Found
	why := "every block is to be compared"
	for whole := s.o.Whole; ; whole = true {
		if err := s.offer(whole); err != nil || s.answer.Record != nil {
			if err == nil {
				return *s.answer.Record, nil
			}
			return points.Record{}, err
		}
		if err := s.files(ctx, whole, why); err != nil {
			return points.Record{}, err
		}
		if !whole {
			s.step("sent")
			differs, err := s.prove(ctx)
			if err != nil {
				return points.Record{}, err
			}
			if len(differs) > 0 { // the tracker, or a disk, did not tell the truth: nothing it said counts
				found, why = differs, fmt.Sprintf("%d blocks differed that nothing told of", len(differs))
				continue
			}
		} else {
			s.everything()
		}
		s.here.Proof.Found = append(s.here.Proof.Found, found...)
		return s.commit()
	}
}

// offer asks from what the receiver starts.
func (s *sender) offer(whole bool) error {
	s.here, s.told, s.base = points.Here{Files: []points.Held{}}, map[string][]block.Range{}, nil
	if err := s.say(frameOffer, Offer{Point: s.o.Source.Point, Whole: whole, Force: s.o.Force, Data: filled(s.o.Source)}); err != nil {
		return err
	}
	s.answer = Answer{}
	if err := s.hearJSON(frameAnswer, idle, &s.answer); err != nil {
		return err
	}
	if s.answer.Record == nil && len(s.answer.Files) != len(s.o.Source.Files) {
		return corrupt(s, "an answer about %d of %d files", len(s.answer.Files), len(s.o.Source.Files))
	}
	if s.answer.Base != "" {
		if r, err := s.o.Store.Get(s.o.Source.VM, s.answer.Base); err == nil {
			s.base = &r
		}
	}
	s.step("offered")
	return nil
}

// filled is how many bytes of each file are on the disk (stat(2): st_blocks counts 512 bytes).
func filled(src *points.Source) (list []int64) {
	for _, f := range src.Files {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.F.Fd()), &st); err != nil {
			return nil
		}
		list = append(list, min(f.Size, st.Blocks*512))
	}
	return list
}

// room refuses what would not fit there, before any of it is sent. Of a file that
// begins anew there the receiver has judged that.
func (s *sender) room(list []block.Range) error {
	if s.answer.Free == nil || s.held.Tracker == Everything {
		return nil
	}
	need := int64(0)
	for _, r := range list {
		if !r.Hole && r.End() > s.done {
			need += r.End() - max(r.At, s.done)
		}
	}
	if need > *s.answer.Free {
		return answeredRoom(s, need, *s.answer.Free)
	}
	*s.answer.Free -= need
	return nil
}

func answeredRoom(c Conn, need, free int64) error {
	p := points.NoRoom(need, free)
	p.Op, p.Err = "copy point to "+string(c.Peer())+":", spent{p.Err}
	return p
}

func (s *sender) files(ctx context.Context, whole bool, why string) error {
	for i := range s.o.Source.Files {
		s.file = &s.o.Source.Files[i]
		start := s.answer.Files[i]
		if start.Name != s.file.Name || start.Done < 0 || start.Done > s.file.Size {
			return corrupt(s, "an answer about another file")
		}
		s.held, s.done, s.marked = &points.Held{Name: s.file.Name}, start.Done, 0
		if err := s.Write(frameFile, []byte(s.file.Name)); err != nil {
			return s.reason(err)
		}
		if err := s.one(ctx, start.Mode, whole, why); err != nil {
			return s.reason(err)
		}
		if err := s.mark(s.file.Size); err != nil {
			return s.reason(err)
		}
		s.here.Files = append(s.here.Files, *s.held)
	}
	for s.unmarked > 0 {
		if err := s.hearMark(); err != nil {
			return err
		}
	}
	return nil
}

// reason is what the receiver said, if it said anything before the connection broke.
func (s *sender) reason(err error) error {
	if problem.KindOf(err) != problem.Unavailable {
		return err
	}
	for range 2 * ahead { // answers to what was asked before it
		kind, b, readErr := s.readSoon()
		if readErr != nil {
			return err
		}
		if kind == frameFailed {
			return failed(s, b)
		}
	}
	return err
}

func (s *sender) readSoon() (byte, []byte, error) {
	if err := s.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return 0, nil, err
	}
	return s.Read()
}

// one sends what changed in one file, by the best way there is.
func (s *sender) one(ctx context.Context, mode points.Mode, whole bool, why string) error {
	f := s.file
	switch {
	case mode == points.New || f.Size < small:
		reason := "there is no copy of it to start from"
		if mode != points.New {
			reason = "it is small"
		}
		return s.wholeFile(ctx, reason)
	case whole:
		return s.compareAll(ctx, why)
	case s.base == nil:
		return s.compareAll(ctx, "the point that the copy was made of is no longer here")
	}
	if f.Kept {
		err := s.byMaps(ctx)
		if reason := noMaps(err); reason != "" {
			return s.compareAll(ctx, reason)
		}
		return err
	}
	table, err := s.o.Store.OpenTable(s.base, f.Name)
	if err != nil {
		return s.compareAll(ctx, "no table of its hashes: "+err.Error())
	}
	defer table.Close()
	s.begin(block.Hashes, f.Why)
	return s.scan(ctx, table, s.changedBlocks)
}

// small files are sent as they are: a comparison would cost more.
const small = 1 << 20

// errNoMaps marks a cause for which maps cannot be compared.
type errNoMaps struct{ error }

func noMaps(err error) string {
	var no errNoMaps
	if errors.As(err, &no) {
		return no.Error()
	}
	return ""
}

func (s *sender) begin(t block.Tracker, why string) {
	s.held.Tracker, s.held.Why = t, why
	s.tell(0)
}

func (s *sender) tell(changed int64) {
	if s.o.Tell != nil {
		s.o.Tell(Moment{File: s.file.Name, Tracker: s.held.Tracker, Why: s.held.Why, Changed: changed, Sent: s.held.Sent})
	}
}

// byMaps compares the point's clone with that of the base.
func (s *sender) byMaps(ctx context.Context) error {
	was, err := s.o.Store.Untouched(s.base, s.file.Name)
	if err != nil {
		return errNoMaps{err}
	}
	defer was.Close()
	changed, err := block.Changed(was, s.file.F, s.file.Size)
	if err != nil {
		return errNoMaps{err}
	}
	// Another pair of eyes: whoever wrote to the base meanwhile makes it another file.
	if again, err := s.o.Store.Untouched(s.base, s.file.Name); err != nil {
		return errNoMaps{err}
	} else {
		again.Close()
	}
	s.begin(block.Maps, s.o.Store.Choice().Why)
	return s.ranges(ctx, changed)
}

// wholeFile sends everything that is not a hole.
func (s *sender) wholeFile(ctx context.Context, why string) error {
	s.begin(Everything, why)
	if !s.file.Kept {
		return s.scan(ctx, nil, s.changedBlocks)
	}
	list, err := block.Data(s.file.F, s.file.Size)
	if err != nil {
		return err
	}
	return s.ranges(ctx, list)
}

// Trackers of this package: what they say is known by reading.
const (
	Everything block.Tracker = "everything" // all of it is sent
	Compared   block.Tracker = "compared"   // both sides read all of it, and what differs is sent
)

// ranges reads and sends them. The next ones are read into memory meanwhile.
func (s *sender) ranges(ctx context.Context, list []block.Range) error {
	fd, total := int(s.file.F.Fd()), int64(0)
	for _, r := range list {
		total += r.Length
	}
	s.told[s.file.Name], s.held.Changed = list, total
	s.tell(total)
	if err := s.room(list); err != nil {
		return err
	}
	if len(list) > 1 {
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM) // what lies between them is not read
	}
	next := 0
	for i, r := range list {
		for ; next < len(list) && next < i+readAhead; next++ {
			if n := list[next]; !n.Hole && n.Length <= maxData {
				_ = unix.Fadvise(fd, n.At, n.Length, unix.FADV_WILLNEED)
			}
		}
		if err := s.span(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// readAhead is how many ranges the disk is asked for at once.
const readAhead = 64

// span sends one range, but for what is durable there.
func (s *sender) span(ctx context.Context, r block.Range) error {
	if r.End() <= s.done {
		return nil
	}
	if r.At < s.done {
		r.At, r.Length = s.done, r.End()-s.done
	}
	if r.Hole {
		return s.hole(r)
	}
	for at := r.At; at < r.End(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := s.buf[:min(maxData, r.End()-at)]
		if _, err := s.file.F.ReadAt(b, at); err != nil {
			return &problem.Problem{Op: "read", Kind: problem.Unavailable, Subject: s.file.Name, Err: spent{err}, Hint: "look at the disk: dmesg, smartctl"}
		}
		s.held.Read += int64(len(b))
		if err := s.data(at, b); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return nil
}

// data sends bytes, or that they are zeros.
func (s *sender) data(at int64, b []byte) error {
	if block.Zero(b) {
		return s.hole(block.Range{At: at, Length: int64(len(b)), Hole: true})
	}
	if err := s.Write(frameData, numbers(at), b); err != nil {
		return err
	}
	s.sent(8 + int64(len(b)))
	return s.markDue(at + int64(len(b)))
}

func (s *sender) hole(r block.Range) error {
	s.sent(16)
	return s.Write(frameHole, numbers(r.At, r.Length))
}

func (s *sender) sent(n int64) {
	s.held.Sent += n + frameHead
	s.marked += n
}

// frameHead is what a connection adds to a frame.
const frameHead = 5

func (s *sender) markDue(done int64) error {
	if s.marked < s.o.Every {
		return nil
	}
	s.step("mark")
	s.tell(s.held.Changed)
	return s.mark(done)
}

// mark has everything up to a byte made durable there. One may be under way while the next is sent.
func (s *sender) mark(done int64) error {
	s.marked = 0
	for s.unmarked > 1 {
		if err := s.hearMark(); err != nil {
			return err
		}
	}
	s.unmarked++
	return errors.Join(s.Write(frameMark, numbers(done)), s.Flush())
}

func (s *sender) hearMark() error {
	_, err := s.hear(frameMarked, commitWithin)
	s.unmarked--
	return err
}

// scan reads the file once and writes its table.
func (s *sender) scan(ctx context.Context, old *block.Table, changed func(block.Range, []byte) error) error {
	table := s.file.Table
	if table != nil { // an attempt before may have written to it
		if _, err := table.Seek(0, 0); err != nil {
			return err
		}
		if err := table.Truncate(0); err != nil {
			return err
		}
	}
	read, err := block.Scan(ctx, s.file.F, s.file.Size, old, writerOf(table), changed)
	s.held.Read += read.Read
	return err
}

func (s *sender) changedBlocks(r block.Range, data []byte) error {
	s.told[s.file.Name] = block.Append(s.told[s.file.Name], r)
	s.held.Changed += r.Length
	if r.End() <= s.done {
		return nil
	}
	if r.Hole {
		return s.hole(r)
	}
	for len(data) > 0 {
		n := min(len(data), maxData)
		if err := s.data(r.At, data[:n]); err != nil {
			return err
		}
		r.At, data = r.At+int64(n), data[n:]
	}
	return nil
}

func (s *sender) commit() (r points.Record, err error) {
	s.step("proven")
	if err := s.o.Source.Publish(); err != nil { // the base of the next copy, before there is a copy of it
		return r, err
	}
	s.step("based")
	if err := s.say(frameCommit, s.here); err != nil {
		return r, s.reason(err)
	}
	s.step("committed")
	if err := s.hearJSON(framePublished, commitWithin, &r); err != nil {
		return r, err
	}
	if r.ID != s.o.Source.ID {
		return r, corrupt(s, "it published another point")
	}
	s.step("published")
	return r, nil
}

func writerOf(f *os.File) interface{ Write([]byte) (int, error) } {
	if f == nil {
		return nothing{}
	}
	return f
}

type nothing struct{}

func (nothing) Write(b []byte) (int, error) { return len(b), nil }
