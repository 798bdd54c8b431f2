package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// fill makes bytes that no compressor and no hole finder likes, told by seed.
func fill(b []byte, seed uint64) {
	x := seed*0x9e3779b97f4a7c15 + 1
	for len(b) >= 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b, x)
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(x >> (8 * i))
	}
}

// file is what a file on a standby must look like.
type file struct {
	path  string
	size  int64
	mtime int64
}

func stat(name string) (file, error) {
	var st unix.Stat_t
	err := unix.Lstat(name, &st)
	return file{size: st.Size, mtime: st.Mtim.Nano()}, err
}

// paced writes small files at a rate, into dirs, and notes when each was closed.
type paced struct {
	root   string
	rate   int
	count  int
	prefix string // of the names
	same   bool   // the second half of the files replaces the first

	closed []time.Time
	sizes  []int
	late   time.Duration // how far the generator itself fell behind its rate, at most
}

const pacedDirs = 20

func (p *paced) name(i int) string {
	if p.same {
		i %= p.count / 2
	}
	return fmt.Sprintf("d%02d/%s%06d", i%pacedDirs, p.prefix, i)
}

func makeDirs(root string) error {
	var errs []error
	for i := range pacedDirs {
		errs = append(errs, os.MkdirAll(filepath.Join(root, fmt.Sprintf("d%02d", i)), 0o755))
	}
	return errors.Join(errs...)
}

// run writes all files. each is told of every file right after its close().
func (p *paced) run(ctx context.Context, each func(i int)) error {
	p.closed, p.sizes = make([]time.Time, p.count), make([]int, p.count)
	rng := rand.New(rand.NewPCG(1, uint64(p.rate)))
	for i := range p.sizes {
		p.sizes[i] = 1024 + rng.IntN(3073)
	}
	buf := make([]byte, 4096)
	start := time.Now()
	for i := range p.count {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(p.rate))
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		} else {
			p.late = max(p.late, -wait)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b := buf[:p.sizes[i]]
		fill(b, uint64(i))
		f, err := os.Create(filepath.Join(p.root, p.name(i)))
		if err != nil {
			return err
		}
		if _, err := f.Write(b); err != nil {
			return errors.Join(err, f.Close())
		}
		p.closed[i] = time.Now()
		if err := f.Close(); err != nil {
			return err
		}
		if each != nil {
			each(i)
		}
	}
	return nil
}

// right reports whether the file at root has the bytes of file i.
func (p *paced) right(root string, i int, buf []byte) bool {
	f, err := os.Open(filepath.Join(root, p.name(i)))
	if err != nil {
		return false
	}
	defer f.Close()
	n, err := f.Read(buf)
	if err != nil || n != p.sizes[i] {
		return false
	}
	want := make([]byte, n)
	fill(want, uint64(i))
	return bytes.Equal(buf[:n], want)
}

// nested makes dirs directories three deep below root, with files of size bytes
// each, and returns what it made.
func nested(root string, dirs, perDir, size int) (made []file, err error) {
	buf := make([]byte, size)
	for d := range dirs {
		// t0 and t1 each hold half of everything: one of them is renamed later.
		dir := fmt.Sprintf("t%d/%02d/%03d", d*2/dirs, d%50, d)
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
		for i := range perDir {
			fill(buf, uint64(d*perDir+i))
			path := fmt.Sprintf("%s/f%03d", dir, i)
			if err := os.WriteFile(filepath.Join(root, path), buf, 0o644); err != nil {
				return nil, err
			}
			made = append(made, file{path: path})
		}
	}
	return made, nil
}

// look fills in what the files look like on the master.
func look(root string, files []file) ([]file, error) {
	g := glance{root: root}
	defer g.leave()
	for i, f := range files {
		have, err := g.at(f.path)
		if err != nil {
			return nil, err
		}
		have.path = f.path
		files[i] = have
	}
	return files, nil
}

// writeBig writes size bytes in large pieces.
func writeBig(name string, size int64, seed uint64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	buf := make([]byte, 4<<20)
	for at := int64(0); at < size; at += int64(len(buf)) {
		fill(buf, seed+uint64(at))
		if _, err := f.Write(buf[:min(int64(len(buf)), size-at)]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// rewrite changes count blocks of 4 KiB at random places of a file and returns where.
func rewrite(name string, count int, seed uint64) (at []int64, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	rng := rand.New(rand.NewPCG(2, seed))
	buf := make([]byte, 4096)
	for i := range count {
		off := rng.Int64N(st.Size()/4096) * 4096
		fill(buf, seed<<32+uint64(i))
		if _, err := f.WriteAt(buf, off); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		at = append(at, off)
	}
	return at, f.Close()
}

// writeHoles makes a file of size bytes with pieces of 64 KiB of data, data bytes in all.
func writeHoles(name string, size, data int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	pieces := data / int64(len(buf))
	for i := range pieces {
		fill(buf, uint64(i)+77)
		if _, err := f.WriteAt(buf, i*(size/pieces)); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Truncate(size), f.Close())
}
