package send

import (
	"bytes"

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
		m, data, still, err := s.o.Root.ReadSmall(path, wire.InlineMax)
		if err != nil || still {
			return m, data, err
		}
		if heldThroughout(before, was, m, data) {
			return before, was[:before.Size], nil
		}
		before, was = m, data
	}
	return tree.Meta{}, nil, nil
}

// heldThroughout reports whether the file held all of the first reading when the second began.
func heldThroughout(before tree.Meta, was []byte, now tree.Meta, data []byte) bool {
	n := before.Size
	return before.Kind == tree.File && now.Kind == tree.File && now.Inode == before.Inode && now.Mode == before.Mode && now.UID == before.UID && now.GID == before.GID &&
		now.Xattrs == before.Xattrs && now.Links == before.Links &&
		int64(len(was)) >= n && int64(len(data)) >= n && n <= wire.InlineMax && bytes.Equal(was[:n], data[:n])
}
