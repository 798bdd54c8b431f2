package wire

import (
	"github.com/zeebo/blake3"

	"revolve/internal/mirror/tree"
)

// SumSize is the length of what SumOf returns.
const SumSize = 32

// SumOf is a sum of everything that an OpFile would say of a small file: its bytes, and all of its metadata that
// is not this node's own affair.
func SumOf(m tree.Meta, data []byte) []byte {
	m.Origin, m.Inode, m.Links, m.CTime, m.Group, m.Holes = 0, 0, 0, 0, 0, false
	op := Op{Kind: OpFile, Meta: m}
	h := blake3.New()
	_, _ = h.Write(op.Append(nil)) // a hash takes everything
	_, _ = h.Write(data)
	return h.Sum(nil)
}
