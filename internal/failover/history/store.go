package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"revolve/internal/problem"
)

const (
	// MaxRecords is how many are remembered, of reigns: a year of one failover a day, in half a megabyte.
	MaxRecords = 400
	// maxLine bounds a line: a record of 64 volumes is 20 KiB.
	maxLine = 64 << 10
	// maxFile is when the file is written anew: lines that were replaced go then.
	maxFile = 4 << 20
)

// entry is what a store keeps: of two of the same thing the one of the higher revision counts.
type entry[T any] interface {
	Check() error        // refuses what is no such thing
	compare(other T) int // newest first; 0: the same thing
	revision() int
}

// Store is a list of one node: Records or Rehearsals.
type Store[T entry[T]] struct {
	path string

	writing sync.Mutex // held while the disk is waited for
	size    int64      // of the file

	mu   sync.Mutex
	list []T // newest first
}

// Open reads the history at path; there need not be one. Lines that are no
// records are dropped: a history with a hole is better than none.
func Open(path string) (*Store[Record], error) { return open[Record](path) }

// OpenRehearsals reads the rehearsals at path, in the same way.
func OpenRehearsals(path string) (*Store[Rehearsal], error) { return open[Rehearsal](path) }

func open[T entry[T]](path string) (*Store[T], error) {
	s := &Store[T]{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, &problem.Problem{Op: "read history", Kind: problem.Unavailable, Subject: path, Err: err}
	}
	torn := len(b) > 0 && b[len(b)-1] != '\n'
	for line := range bytes.SplitSeq(b, []byte{'\n'}) {
		var r T
		if len(line) == 0 {
			continue
		}
		if len(line) > maxLine || json.Unmarshal(line, &r) != nil || r.Check() != nil {
			torn = true
			continue
		}
		s.take(r)
	}
	s.size = int64(len(b))
	if torn || s.size > maxFile {
		return s, s.rewrite()
	}
	return s, nil
}

// take puts r into the list; false means that a later revision is there already.
func (s *Store[T]) take(r T) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, found := slices.BinarySearchFunc(s.list, r, T.compare)
	if found {
		if s.list[at].revision() >= r.revision() {
			return false
		}
		s.list[at] = r
		return true
	}
	s.list = slices.Insert(s.list, at, r)
	if len(s.list) > MaxRecords {
		s.list = s.list[:MaxRecords]
		return at < MaxRecords
	}
	return true
}

// List is every record, newest first. It never waits for the disk.
func (s *Store[T]) List() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// Put makes records durable: new ones, and later revisions of known ones; the
// others are passed over. It waits for the disk.
func (s *Store[T]) Put(records ...T) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	var lines []byte
	for _, r := range records {
		if err := r.Check(); err != nil {
			return err
		}
		if b, err := json.Marshal(r); err == nil && len(b) < maxLine && s.take(r) { // it counts here even if the disk refuses it
			lines = append(append(lines, b...), '\n')
		}
	}
	if len(lines) == 0 {
		return nil
	}
	if s.size+int64(len(lines)) > maxFile {
		return s.rewrite()
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return s.failed(err)
	}
	n, err := f.Write(lines)
	s.size += int64(n)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return s.failed(err)
	}
	if s.size == int64(n) { // it was made by this
		return s.failed(syncDir(filepath.Dir(s.path)))
	}
	return nil
}

// rewrite writes the file anew, without what was replaced.
func (s *Store[T]) rewrite() error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	for _, r := range slices.Backward(s.List()) {
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	aside := s.path + ".new"
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return s.failed(err)
	}
	_, err = f.Write(b.Bytes())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return s.failed(err)
	}
	if err := os.Rename(aside, s.path); err != nil {
		return s.failed(err)
	}
	s.size = int64(b.Len())
	return s.failed(syncDir(filepath.Dir(s.path)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *Store[T]) failed(err error) error {
	if err == nil {
		return nil
	}
	return &problem.Problem{Op: "write history", Kind: problem.Unavailable, Subject: s.path, Err: err,
		Hint: "check that the state directory's disk is writable and has space"}
}
