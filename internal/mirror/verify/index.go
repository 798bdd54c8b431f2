package verify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"revolve/internal/problem"
)

// Index remembers which bytes this node read under which state of an inode. It
// is memory, not truth: without it the next proof only knows less.
type Index struct {
	db      *bbolt.DB
	pending map[string][]byte
	bytes   int
}

const (
	// indexBatch and indexBytes bound what is held before it is written with one sync.
	indexBatch = 4096
	indexBytes = 4 << 20
	// indexWait bounds the wait for a proof that is just ending.
	indexWait = 3 * time.Second
	// recordSize: inode, size, mtime, ctime, the run that read it last, the one that read it first, digest.
	recordSize = headSize + 32
	headSize   = 6 * 8
)

const bucket = "read-1"

// OpenIndex opens the memory of a volume at path. One that cannot be read is begun anew.
func OpenIndex(path string) (*Index, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	open := func() (*bbolt.DB, error) { return bbolt.Open(path, 0o600, &bbolt.Options{Timeout: indexWait}) }
	db, err := open()
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, &problem.Problem{Op: "verify", Kind: problem.Conflict, Subject: path, Err: errors.New("another proof of this volume runs"), Hint: "wait for it: revolve status"}
	case err != nil && !errors.Is(err, os.ErrPermission):
		if rerr := os.Remove(path); rerr != nil {
			return nil, errors.Join(err, rerr)
		}
		db, err = open()
	}
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte(bucket))
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Index{db: db, pending: map[string][]byte{}}, nil
}

// Close writes what is held.
func (x *Index) Close() error { return errors.Join(x.flush(), x.db.Close()) }

// seen takes in that rel was read. If the inode's state is that of an earlier
// proof and the bytes are others, it returns the digest of then, which stays;
// proven says that an earlier proof read the same.
func (x *Index) seen(rel string, s state, hash []byte, run int64) (was []byte, proven bool, err error) {
	old, err := x.get(rel)
	if err != nil {
		return nil, false, err
	}
	first := run
	if len(old) == recordSize && bytes.Equal(old[:32], record(s, 0, 0, hash)[:32]) {
		first = int64(binary.LittleEndian.Uint64(old[40:]))
		if proven = first < run; !bytes.Equal(old[headSize:], hash) {
			was, hash = bytes.Clone(old[headSize:]), old[headSize:]
		}
	}
	x.pending[rel] = record(s, run, first, hash)
	if x.bytes += len(rel) + recordSize; len(x.pending) >= indexBatch || x.bytes >= indexBytes {
		err = x.flush()
	}
	return was, proven && was == nil, err
}

// forget has the next proof begin anew with rel.
func (x *Index) forget(rel string) error {
	delete(x.pending, rel)
	return x.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete([]byte(rel)) })
}

func (x *Index) get(rel string) (out []byte, err error) {
	if b, ok := x.pending[rel]; ok {
		return b, nil
	}
	err = x.db.View(func(tx *bbolt.Tx) error {
		out = bytes.Clone(tx.Bucket([]byte(bucket)).Get([]byte(rel)))
		return nil
	})
	return out, err
}

func record(s state, run, first int64, hash []byte) []byte {
	b := make([]byte, 0, recordSize)
	for _, n := range []uint64{s.inode, uint64(s.size), uint64(s.mtime), uint64(s.ctime), uint64(run), uint64(first)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return append(b, hash...)
}

func (x *Index) flush() error {
	if len(x.pending) == 0 {
		return nil
	}
	err := x.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		for rel, r := range x.pending {
			if err := b.Put([]byte(rel), r); err != nil {
				return fmt.Errorf("%q: %w", rel, err)
			}
		}
		return nil
	})
	clear(x.pending)
	x.bytes = 0
	return err
}

// Done forgets what a proof that came to its end did not see.
func (x *Index) Done(run int64) error {
	if err := x.flush(); err != nil {
		return err
	}
	return x.db.Update(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucket)).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if len(v) != recordSize || int64(binary.LittleEndian.Uint64(v[32:])) < run {
				if err := c.Delete(); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
