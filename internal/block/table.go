package block

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// A Table is the hashes of a file's blocks, in a file of its own: 0.4 % of the
// size of a small image, 0.02 % of that of a large one. It is written once, from
// front to back, and read in the same order when the file is read the next time.
//
//	head: magic, 8 bytes; size of the file, 8; size of a block, 8 (little-endian)
//	one hash for each block; of zeros alone for a block of zeros
//	seal: BLAKE3 of everything before it, 32 bytes
type Table struct {
	f     *os.File
	in    *bufio.Reader
	size  int64 // of the file that it tells of
	block int64
	next  int64 // block whose hash comes next
}

// HashSize is the length of a block's hash: 128 bits of BLAKE3. Two different
// blocks have the same one by chance once in 2^128.
const HashSize = 16

const (
	tableMagic = "RVHASH1\n"
	tableHead  = 24
	tableSeal  = 32
	leastBlock = 4 << 10
	mostBlock  = 64 << 10
	mostHashes = 16 << 20 // a table of up to 256 MiB; then the blocks grow
	atOnce     = 1 << 20  // read from the file
)

// BlockSize is how finely a file of this size is told apart.
func BlockSize(size int64) int64 {
	b := int64(leastBlock)
	for b < mostBlock && size/b > mostHashes {
		b *= 2
	}
	return b
}

// HashOf is the hash of one block: zeros for one that holds nothing else.
func HashOf(b []byte) (h [HashSize]byte) {
	if Zero(b) {
		return h
	}
	sum := blake3.Sum256(b)
	copy(h[:], sum[:])
	return h
}

var zeros [4096]byte //tidy:constant never written

// Zero reports whether there is nothing but zeros.
func Zero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// OpenTable opens a table that Scan wrote, after it has seen that it is whole.
// problem.Corrupt: it is not. problem.NotFound: it is not there.
func OpenTable(path string) (*Table, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &problem.Problem{Op: "open table of hashes", Kind: problem.NotFound, Subject: path, Err: err}
	}
	if err != nil {
		return nil, &problem.Problem{Op: "open table of hashes", Kind: problem.Unavailable, Subject: path, Err: err}
	}
	t := &Table{f: f}
	if err := t.check(); err != nil {
		f.Close()
		return nil, &problem.Problem{Op: "open table of hashes", Kind: problem.Corrupt, Subject: path, Err: err}
	}
	return t, nil
}

// Close lets go of the file.
func (t *Table) Close() error { return t.f.Close() }

// check reads everything once, and stands at the first hash then.
func (t *Table) check() error {
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	body := info.Size() - tableSeal
	if body < tableHead {
		return errors.New("too short")
	}
	sum := blake3.New()
	if _, err := io.Copy(sum, io.NewSectionReader(t.f, 0, body)); err != nil {
		return err
	}
	var seal [tableSeal]byte
	if _, err := t.f.ReadAt(seal[:], body); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), seal[:]) {
		return errors.New("its seal is broken")
	}
	t.in = bufio.NewReaderSize(io.NewSectionReader(t.f, 0, body), 1<<16)
	var head [tableHead]byte
	if _, err := io.ReadFull(t.in, head[:]); err != nil {
		return err
	}
	t.size, t.block = int64(binary.LittleEndian.Uint64(head[8:])), int64(binary.LittleEndian.Uint64(head[16:]))
	if string(head[:8]) != tableMagic || t.size < 0 || t.block != BlockSize(t.size) || body != tableHead+hashes(t.size, t.block)*HashSize {
		return errors.New("not a table of ours")
	}
	return nil
}

func hashes(size, block int64) int64 { return (size + block - 1) / block }

// hash gives the hash of the next block; ok is false behind the end.
func (t *Table) hash() (h [HashSize]byte, ok bool, err error) {
	if t == nil || t.next >= hashes(t.size, t.block) {
		return h, false, nil
	}
	t.next++
	_, err = io.ReadFull(t.in, h[:])
	return h, err == nil, err
}

// Scanned is what a scan did.
type Scanned struct {
	Read    int64 // bytes read from the file
	Blocks  int64
	Changed int64 // blocks that differ from the old table
}

// Scan reads a file of this size once, writes its table to out, and shows, in
// order, what differs from the old table, with its bytes (nil for zeros). Without
// an old one, or if it was made with blocks of another size, that is everything,
// holes included. Nobody may write to the file meanwhile. data is valid until
// changed returns. out may be nil.
func Scan(ctx context.Context, f *os.File, size int64, old *Table, out io.Writer, changed func(r Range, data []byte) error) (Scanned, error) {
	s := scan{f: f, size: size, block: BlockSize(size), old: old, changed: changed, sum: blake3.New()}
	if old != nil && (old.block != s.block || old.next != 0) {
		return Scanned{}, &problem.Problem{Op: "compare with a table of hashes", Kind: problem.Invalid, Subject: f.Name(), Err: fmt.Errorf("its blocks have %d bytes, those of this file %d", old.block, s.block)}
	}
	if out == nil {
		out = io.Discard
	}
	buffered := bufio.NewWriterSize(out, 1<<16)
	s.out = io.MultiWriter(buffered, s.sum)
	head := binary.LittleEndian.AppendUint64([]byte(tableMagic), uint64(size))
	if _, err := s.out.Write(binary.LittleEndian.AppendUint64(head, uint64(s.block))); err != nil {
		return s.done, err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL) // it only reads ahead further
	if err := s.run(ctx); err != nil {
		return s.done, err
	}
	if _, err := buffered.Write(s.sum.Sum(nil)); err != nil {
		return s.done, err
	}
	return s.done, buffered.Flush()
}

type scan struct {
	f           *os.File
	size, block int64
	old         *Table
	out         io.Writer
	sum         *blake3.Hasher
	changed     func(Range, []byte) error
	done        Scanned
	list        []byte // hashes of one chunk
}

func (s *scan) run(ctx context.Context) error {
	pieces, err := Data(s.f, s.size)
	if err != nil {
		return err
	}
	buf := make([]byte, atOnce)
	for at := int64(0); at < s.size; at += atOnce {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := buf[:min(atOnce, s.size-at)]
		for len(pieces) > 0 && pieces[0].End() <= at {
			pieces = pieces[1:]
		}
		if hole := pieces[0].Hole && pieces[0].End() >= at+int64(len(chunk)); hole {
			chunk = nil
		} else if _, err := s.f.ReadAt(chunk, at); err != nil {
			return err
		}
		s.done.Read += int64(len(chunk))
		if err := s.chunk(at, min(atOnce, s.size-at), chunk); err != nil {
			return err
		}
	}
	return nil
}

// chunk compares the blocks of one reading; b is nil for a hole.
func (s *scan) chunk(at, length int64, b []byte) error {
	s.list = s.list[:0]
	var pending Range
	flush := func() error {
		if pending.Length == 0 {
			return nil
		}
		r := pending
		pending = Range{}
		if r.Hole {
			return s.changed(r, nil)
		}
		return s.changed(r, b[r.At-at:r.End()-at])
	}
	for off := int64(0); off < length; off += s.block {
		n := min(s.block, length-off)
		var h [HashSize]byte
		if b != nil {
			h = HashOf(b[off : off+n])
		}
		s.list = append(s.list, h[:]...)
		was, known, err := s.old.hash()
		if err != nil {
			return err
		}
		s.done.Blocks++
		if known && was == h && s.sameLength(at+off, n) {
			continue
		}
		s.done.Changed++
		r := Range{at + off, n, h == [HashSize]byte{}}
		if pending.Length > 0 && (pending.End() != r.At || pending.Hole != r.Hole) {
			if err := flush(); err != nil {
				return err
			}
		}
		if pending.Length == 0 {
			pending = r
		} else {
			pending.Length += r.Length
		}
	}
	if err := flush(); err != nil {
		return err
	}
	_, err := s.out.Write(s.list)
	return err
}

// sameLength reports whether the old table's block at this place was as long:
// zeros have the same hash however many they are, and the copy must grow by them.
func (s *scan) sameLength(at, n int64) bool {
	return at+n <= s.old.size && (n == s.block || at+n == s.old.size)
}
