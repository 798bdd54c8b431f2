package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/problem"
	"revolve/internal/syswait"
)

const (
	// segmentSize starts a new segment: small enough that dropping the oldest is no loss of a day, large enough to be few files.
	segmentSize = 8 << 20
	// maxSegments bounds a volume's journal to 64 MiB, about a million changes of 60-byte paths.
	maxSegments = 8
	// chunkSize is how much is appended to one segment at once. A new master's first changes may be many more.
	chunkSize = 1 << 20
	// maxHead bounds the debts that a segment's head repeats: some 80,000 paths. More become one debt for
	// everything, which a comparison pays; it costs reading the tree and no data.
	maxHead = 8 << 20
	// MaxBytes bounds what a journal takes on disk, even in the moment in which a new segment is there and the
	// oldest not yet gone: full heads, full segments and a last chunk.
	MaxBytes = (maxSegments + 1) * (maxHead + segmentSize + 2*chunkSize)
	// cleanName marks an orderly Close; it is removed when the journal is opened.
	cleanName = "clean"
)

// ErrTrimmed says that the journal does not reach back to a position.
var ErrTrimmed = errors.New("journal: does not reach back that far")

// Opened is what Open found.
type Opened struct {
	Clean     bool      // closed in order the last time
	Torn      int64     // bytes cut off at the end
	LastWrite time.Time // when the journal was last written to, by its file's time; zero if new
	// Flown are the paths that were visible and not known to be durable, or about to be visible.
	Flown map[string]Flying
	Known time.Time // everything that this node published before is in the journal: LastWrite, or earlier after an unclean stop
	// Answered are paths that this node had asked for and that were paid last, at most maxAnswered, oldest first; of large files none.
	Answered []string
}

// Journal is the journal of one volume. Its methods may be called concurrently.
type Journal struct {
	dir string

	syncing  sync.Mutex // held around fsync; taken before mu
	mu       sync.Mutex
	segments []segment // oldest first; the last one is written to
	file     *os.File
	size     int64 // of the last segment
	head     int64 // of that, its head: a large one must not make segments short
	dirty    bool  // written since the last Sync
	state    state
	changed  chan struct{} // closed at the next Append
	closed   bool
	buf      []byte

	collapsed int
}

// state is what replaying the records gives.
type state struct {
	history reconcile.History
	owed    reconcile.Owed
	durable cluster.Position
	ahead   map[string]Flying // paths that are visible and not known to be durable
	landed  int64             // what was published before this time (ns) is durable; 0: not known
	fresh   bool              // the segment that this was replayed from voids those before it
}

// Flying is a path that is visible, or was about to be, and is not known to be durable.
type Flying struct {
	flight uint64
	Size   int64  // -1: not known
	Looks  uint32 // as Record.Looks
}

type segment struct {
	number uint64
	after  cluster.Position // position before its first change
}

// Open opens or creates the journal in dir.
func Open(dir string) (*Journal, Opened, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Opened{}, fail("create journal", dir, err)
	}
	j := &Journal{dir: dir, changed: make(chan struct{})}
	numbers, err := j.list()
	if err != nil {
		return nil, Opened{}, err
	}
	var o Opened
	if numbers, err = j.dropHeadless(numbers, &o); err != nil {
		return nil, o, err
	}
	for i, n := range numbers {
		if err := j.load(n, i == len(numbers)-1, &o); err != nil {
			return nil, o, err
		}
	}
	if len(j.segments) == 0 {
		j.state = state{}
		if err := j.rotate(); err != nil {
			return nil, o, err
		}
	}
	o.Answered = o.Answered[max(0, len(o.Answered)-maxAnswered):]
	o.Known = o.LastWrite
	if landed := time.Unix(0, j.state.landed); j.state.landed > 0 && landed.Before(o.LastWrite) {
		// After a power cut the file's time may be newer than its last records: what flew then is found by its own time.
		o.Known = landed
	}
	if o.Flown, err = j.oweAhead(); err != nil {
		return nil, o, err
	}
	switch err := os.Remove(j.path(cleanName)); {
	case err == nil:
		o.Clean, o.Known = true, o.LastWrite
		return j, o, syncDir(dir)
	case errors.Is(err, fs.ErrNotExist):
		o.Clean = o.LastWrite.IsZero()
		return j, o, nil
	default:
		return nil, o, fail("open journal", dir, err)
	}
}

func (j *Journal) list() ([]uint64, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fail("open journal", j.dir, err)
	}
	var numbers []uint64
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// dropHeadless removes the last segments if they have not even a whole head:
// they were just begun when power was lost.
func (j *Journal) dropHeadless(numbers []uint64, o *Opened) ([]uint64, error) {
	for len(numbers) > 0 {
		name := j.path(segmentName(numbers[len(numbers)-1]))
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fail("read journal", name, err)
		}
		if _, _, good := replay(b, nil); good > 0 {
			break
		}
		o.Torn += int64(len(b))
		if err := os.Remove(name); err != nil {
			return nil, fail("drop journal segment", name, err)
		}
		numbers = numbers[:len(numbers)-1]
	}
	return numbers, nil
}

// load replays one segment. Only the last may be torn; a damaged earlier one
// makes everything up to it unusable, which costs a comparison of trees and no data.
func (j *Journal) load(number uint64, last bool, o *Opened) error {
	name := j.path(segmentName(number))
	b, err := os.ReadFile(name)
	if err != nil {
		return fail("read journal", name, err)
	}
	st, after, good := replay(b, &o.Answered)
	if good == 0 || !last && good < len(b) {
		j.segments = nil
		return nil
	}
	if st.fresh {
		if err := j.void(); err != nil {
			return err
		}
	}
	j.segments = append(j.segments, segment{number, after})
	j.state = st
	j.state.fresh = false // it voids what is before this segment, not what the next one finds
	if !last {
		return nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return fail("read journal", name, err)
	}
	o.LastWrite = info.ModTime()
	o.Torn += int64(len(b) - good)
	f, err := os.OpenFile(name, os.O_RDWR, 0o600)
	if err != nil {
		return fail("open journal", name, err)
	}
	_, first, _ := decodeFrame(b)
	j.file, j.size, j.head = f, int64(good), int64(first)
	return f.Truncate(int64(good))
}

// oweAhead owes what was visible and not durable when the node stopped: its
// bytes may be missing, and its master may be another by now.
func (j *Journal) oweAhead() (flown map[string]Flying, err error) {
	if len(j.state.ahead) == 0 {
		return nil, nil
	}
	var records []Record
	last := uint64(0)
	flown = map[string]Flying{}
	for path, f := range j.state.ahead {
		if _, there := j.state.owed.Get(path); !there && f.flight != 0 {
			records = append(records, Record{Kind: Owe, Path: path})
		}
		last = max(last, f.flight)
		flown[path] = f
	}
	if err := j.Append(append(records, Record{Kind: Landed, ID: last, At: j.state.landed})...); err != nil {
		return nil, err
	}
	return flown, j.Sync()
}

// owedNow are the debts as a new segment's head has to know them: what flies counts as owed.
func (s *state) owedNow() []reconcile.Debt {
	owed := s.owed.Clone()
	for path, f := range s.ahead {
		if _, there := owed.Get(path); !there && f.flight != 0 {
			owed.Add(reconcile.Debt{Path: path})
		}
	}
	return owed.List()
}

// void removes the segments loaded so far: a restart was cut short before it could.
func (j *Journal) void() error {
	for _, s := range j.segments {
		if err := os.Remove(j.path(segmentName(s.number))); err != nil {
			return fail("drop journal segment", j.dir, err)
		}
	}
	j.segments = nil
	return nil
}

func (s *state) apply(r Record) {
	switch r.Kind {
	case head:
		s.history = slices.Clone(r.history)
		s.owed, s.fresh, s.durable, s.ahead, s.landed = reconcile.Owed{}, r.fresh, r.durable, nil, r.landed
		for _, d := range r.owed {
			s.owed.Add(d)
		}
	case Begun:
		s.history = s.history.Extend(r.Reign, 0)
		s.landed = 0 // what this node writes in its own reign is not published by it
	case Durable:
		s.durable, s.landed = r.Pos, 0
	case Ahead:
		if s.ahead == nil {
			s.ahead = map[string]Flying{}
		}
		s.ahead[r.Path] = Flying{r.ID, int64(r.Pos.Seq) - 1, r.Looks}
	case Landed:
		maps.DeleteFunc(s.ahead, func(_ string, f Flying) bool { return f.flight <= r.ID })
		s.landed = r.At
	case Owe:
		s.owed.Add(reconcile.Debt{Path: r.Path, ID: r.ID, Tree: r.Below})
	case Paid:
		s.owed.Pay(r.Path, r.Below)
	case Removed:
		s.owed.Removed(r.Path)
	case Renamed:
		s.owed.Renamed(r.Old, r.Path)
	}
	if r.Kind.IsChange() {
		s.history = s.history.Extend(cluster.Reign{Term: r.Pos.Term, Owner: s.history.Reign().Owner}, r.Pos.Seq)
	}
}

// Append writes records. Changes must continue the sequence of the last reign:
// anything else is a bug of the caller and refused. A record is durable after Sync.
func (j *Journal) Append(records ...Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return fail("append to journal", j.dir, os.ErrClosed)
	}
	if err := j.check(records); err != nil {
		return err
	}
	for len(records) > 0 {
		n := chunkOf(records)
		if err := j.append(records[:n]); err != nil {
			return err
		}
		records = records[n:]
	}
	close(j.changed)
	j.changed = make(chan struct{})
	return nil
}

// chunkOf is how many of the records are written at once. What belongs to a
// change, such as the debt that it makes, stands behind it and in its chunk.
func chunkOf(records []Record) int {
	bytes, changes := 0, slices.ContainsFunc(records, func(r Record) bool { return r.Kind.IsChange() })
	for i, r := range records {
		if bytes > chunkSize && (r.Kind.IsChange() || !changes) {
			return i
		}
		bytes += len(r.Path) + len(r.Old) + 32
	}
	return len(records)
}

func (j *Journal) append(records []Record) error {
	if j.size-j.head > segmentSize {
		if err := j.rotate(); err != nil {
			return err
		}
	}
	j.buf = j.buf[:0]
	for _, r := range records {
		j.buf = appendRecord(j.buf, r)
	}
	if n, err := j.file.WriteAt(j.buf, j.size); err != nil {
		// A part may have reached the disk: cut it off, so that a later append does not stand behind garbage.
		if n > 0 {
			err = errors.Join(err, j.file.Truncate(j.size))
		}
		return fail("append to journal", j.dir, err)
	}
	j.size += int64(len(j.buf))
	j.dirty = true
	for _, r := range records {
		j.state.apply(r)
	}
	return nil
}

func (j *Journal) check(records []Record) error {
	end, reign := j.state.history.End(), j.state.history.Reign()
	for _, r := range records {
		switch {
		case r.Kind == Begun && r.Reign.Compare(reign) <= 0:
			return problemf("reign %v does not follow %v", r.Reign, reign)
		case r.Kind == Begun:
			reign, end = r.Reign, cluster.Position{Term: r.Reign.Term}
		case r.Kind.IsChange():
			if r.Pos.Term != reign.Term || r.Pos.Seq <= end.Seq {
				return problemf("change %v does not follow %v of reign %v", r.Pos, end, reign)
			}
			end = r.Pos
		}
	}
	return nil
}

func problemf(format string, args ...any) error {
	return &problem.Problem{Op: "append to journal", Kind: problem.Internal, Err: fmt.Errorf(format, args...)}
}

// rotate begins a new segment and drops the oldest ones beyond the bound. The
// new head is durable before anything is dropped.
func (j *Journal) rotate() error {
	number := uint64(1)
	if n := len(j.segments); n > 0 {
		number = j.segments[n-1].number + 1
	}
	name := j.path(segmentName(number))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fail("create journal segment", name, err)
	}
	j.collapse()
	b := appendRecord(nil, Record{Kind: head, heading: &heading{history: j.state.history, owed: j.state.owedNow(), durable: j.state.durable, landed: j.state.landed, fresh: j.state.fresh}})
	if _, err := f.WriteAt(b, 0); err != nil {
		return errors.Join(fail("write journal segment", name, err), f.Close(), os.Remove(name))
	}
	if j.file != nil {
		if err := errors.Join(j.file.Sync(), j.file.Close()); err != nil {
			return errors.Join(fail("sync journal", j.dir, err), f.Close(), os.Remove(name))
		}
	}
	j.file, j.size, j.head, j.dirty, j.state.fresh = f, int64(len(b)), int64(len(b)), false, false
	j.segments = append(j.segments, segment{number, j.state.history.End()})
	if err := errors.Join(f.Sync(), syncDir(j.dir)); err != nil {
		return fail("sync journal segment", name, err)
	}
	for len(j.segments) > maxSegments {
		if err := os.Remove(j.path(segmentName(j.segments[0].number))); err != nil {
			return fail("drop journal segment", j.dir, err)
		}
		j.segments = j.segments[1:]
	}
	return nil
}

// collapse makes more debts than a head may hold one for everything.
func (j *Journal) collapse() {
	bytes := 0
	list := j.state.owed.List()
	for _, d := range list {
		bytes += len(d.Path) + 16
	}
	if bytes > maxHead {
		j.state.owed = reconcile.Owed{}
		j.state.owed.Add(reconcile.Debt{Tree: true})
		j.collapsed++
	}
}

// Sync makes everything appended durable. Appending and reading go on
// meanwhile: an fsync can take seconds on a busy disk.
func (j *Journal) Sync() error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	f, due := j.file, j.dirty && !j.closed
	j.dirty = j.dirty && !due
	j.mu.Unlock()
	if !due {
		return nil
	}
	if err := syswait.Sync(f); err != nil && !errors.Is(err, os.ErrClosed) { // closed: rotate has synced it
		j.mu.Lock()
		j.dirty = true
		j.mu.Unlock()
		return fail("sync journal", j.dir, err)
	}
	return nil
}

// Close syncs and leaves the mark of an orderly end if clean is said.
func (j *Journal) Close(clean bool) error {
	err := j.Sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	err = errors.Join(err, j.file.Close())
	if err != nil || !clean {
		return err
	}
	f, err := os.OpenFile(j.path(cleanName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fail("close journal", j.dir, err)
	}
	return errors.Join(f.Sync(), f.Close(), syncDir(j.dir))
}

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

func segmentName(n uint64) string { return fmt.Sprintf("%016d", n) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func fail(op, subject string, err error) error {
	return &problem.Problem{Op: op, Kind: problem.Unavailable, Subject: subject, Err: err,
		Hint: "check that the state directory's disk is writable and has space"}
}
