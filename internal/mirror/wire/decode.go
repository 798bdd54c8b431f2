package wire

import (
	"encoding/binary"
	"fmt"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

// decoder reads a frame; bad sticks after the first violation.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() {
	d.b, d.bad = nil, true
}

func (d *decoder) end(what string) error {
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%s: %w", what, errMalformed)
	}
	return nil
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail()
	}
	return v == 1
}

func (d *decoder) string() string {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) pos() cluster.Position {
	return cluster.Position{Term: cluster.Term(d.uint()), Seq: d.uint()}
}

func (d *decoder) meta() tree.Meta {
	m := tree.Meta{Kind: tree.Kind(d.byte())}
	switch m.Kind {
	case 0:
		return m
	case tree.File, tree.Dir, tree.Symlink, tree.Other:
	default:
		if !m.Kind.Special() {
			d.fail()
			return m
		}
	}
	mode, uid, gid, size := d.uint(), d.uint(), d.uint(), d.uint()
	m.MTime, m.Rdev, m.Target, m.Xattrs, m.Group = d.int(), d.uint(), d.string(), d.string(), d.uint()
	if len(m.Xattrs) > tree.MaxXattrs || tree.CheckXattrs(m.Xattrs) != nil || mode > 0o7777 || uid > 1<<32-1 || gid > 1<<32-1 || size > 1<<62 || len(m.Target) >= tree.MaxPath {
		d.fail()
	}
	if m.Kind == tree.File {
		m.Origin, m.Rdev = m.Rdev, 0
	}
	m.Mode, m.UID, m.GID, m.Size = uint32(mode), uint32(uid), uint32(gid), int64(size)
	return m
}

// names reads the names of a group; what is promised beyond the frame costs no memory.
func (d *decoder) names() (names []string) {
	n := d.uint()
	if n > GroupMax {
		d.fail()
	}
	for range n {
		name := d.string()
		if d.bad {
			return nil
		}
		names = append(names, name)
	}
	return names
}
