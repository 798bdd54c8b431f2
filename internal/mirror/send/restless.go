package send

import (
	"bytes"
	"time"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// readSmall reads a file whole. What changes under the reading is read again. A file that never stands still is sent all
// the same if two readings, one behind the other, found the same bytes: between them it held those and nothing else, whatever was
// written before and after (a log that grows without pause). Its time is then that of before the first, so what was written
// since looks different, and has a record of its own. Else it counts as gone for now, and stays owed.
func (s *Stream) readSmall(path string) (tree.Meta, []byte, error) {
	var before tree.Meta
	var was []byte
	for range readTries {
		m, data, still, err := s.readOnce(path)
		if err != nil || still {
			return m, data, err
		}
		if heldThroughout(before, was, m, data) {
			return before, was[:before.Size], nil
		}
		before, was = m, data
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.big.moves(path, true)
	return tree.Meta{}, nil, nil
}

// maxRestless bounds the files that are remembered as never standing still.
const maxRestless = 1000

// restlessAfter is how long a file must have been tried in vain before it is told of: most rest within seconds.
const restlessAfter = 10 * time.Second

// moves notes that the file at path changed while it was read.
func (b *bulk) moves(path string, small bool) {
	if _, known := b.restless[path]; !known && len(b.restless) < maxRestless {
		b.restless[path] = time.Now()
		if small {
			b.small[path] = true
		}
	}
}

// rests notes that the file at path was read.
func (s *Stream) rests(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.big.restless, path)
	delete(s.big.small, path)
}

// Restless are the files that the follower does not have as they are, because they never stood still when they were read.
type Restless struct {
	Files int
	Path  string    // the one that was tried for longest
	Since time.Time // when it was first tried in vain
}

// Restless returns what is known of them now.
func (s *Stream) Restless() (r Restless) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[string]bool{}
	for _, path := range s.big.wanted {
		wanted[path] = true
	}
	for path, since := range s.big.restless {
		if time.Since(since) < restlessAfter || !wanted[path] && !s.big.small[path] {
			continue // of a large one that it does not want it has what there is
		}
		if r.Files++; r.Files == 1 || since.Before(r.Since) {
			r.Path, r.Since = path, since
		}
	}
	return r
}

// heldThroughout reports whether the file held all of the first reading when the second began.
func heldThroughout(before tree.Meta, was []byte, now tree.Meta, data []byte) bool {
	n := before.Size
	return before.Kind == tree.File && now.Kind == tree.File && now.Inode == before.Inode && now.Mode == before.Mode && now.UID == before.UID && now.GID == before.GID &&
		now.Xattrs == before.Xattrs && now.Links == before.Links &&
		int64(len(was)) >= n && int64(len(data)) >= n && n <= wire.InlineMax && bytes.Equal(was[:n], data[:n])
}
