package points

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/problem"
	"revolve/internal/syswait"
)

// Mode is how a file of a point that comes from another node is made.
type Mode string

// The modes.
const (
	New   Mode = "new"   // from nothing
	Clone Mode = "clone" // a clone of the base's file, changed
	Patch Mode = "patch" // the changes are kept aside, and made in the base's file when all are here (redo.go)
)

// Plan is what a staging directory is for; durable before anything is in it.
type Plan struct {
	Point Point           `json:"point"`
	Base  ID              `json:"base"`
	Modes map[string]Mode `json:"modes"`
	Odd   string          `json:"odd,omitempty"` // why the base is not used as it is
	Whole bool            `json:"whole"`         // everything is compared, nothing is taken to be the same
}

// progress is how far each file is: durable here, up to this byte.
type progress struct {
	Done    map[string]int64 `json:"done"`
	Patches map[string]int64 `json:"patches"` // length of each patch then
}

// Staging is a point on its way here. One goroutine uses it.
type Staging struct {
	Plan
	store *Store
	base  *Record
	open  map[string]*os.File // staged files, or patches
	read  map[string]*os.File // what the files will be, where nothing was changed
	prog  progress
	size  map[string]int64
}

// Stage goes on with a point that is on its way, or begins it, from a base that
// is here or (nil) from nothing. The caller has the machine's Lock. Other points
// on their way are given up: their source has a newer one.
func (s *Store) Stage(p Point, base *Record, whole bool) (*Staging, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	st := &Staging{store: s, base: base, open: map[string]*os.File{}, read: map[string]*os.File{}, size: map[string]int64{},
		prog: progress{Done: map[string]int64{}, Patches: map[string]int64{}}, Plan: Plan{Point: p, Modes: map[string]Mode{}, Whole: whole}}
	if base != nil {
		st.Base = base.ID
	}
	for _, f := range p.Files {
		st.size[f.Name] = f.Size
	}
	if err := s.dropOthers(p.VM, p.ID); err != nil {
		return nil, err
	}
	err := st.resume()
	if err != nil {
		err = st.begin()
	}
	if err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

func (s *Store) dropOthers(vm string, id ID) error {
	staging := path.Join(dirOf(vm), stagingDir)
	entries, err := fs.ReadDir(s.root.FS(), staging)
	for _, e := range entries {
		if e.Name() != string(id) && !strings.HasSuffix(e.Name(), redoSuffix) {
			err = errors.Join(err, s.root.RemoveAll(path.Join(staging, e.Name())))
		}
	}
	return storeProblem("remove what was on its way in", staging, err)
}

func (st *Staging) dir() string {
	return path.Join(dirOf(st.Point.VM), stagingDir, string(st.Point.ID))
}

func (st *Staging) name(file string) string {
	if st.Modes[file] == Patch {
		file += patchSuffix
	}
	return path.Join(st.dir(), file)
}

// resume takes up what an attempt before this one made durable.
func (st *Staging) resume() error {
	var plan Plan
	if err := st.store.readJSON(path.Join(st.dir(), planFile), &plan); err != nil {
		return err
	}
	if plan.Base != st.Base || plan.Point.ID != st.Point.ID || plan.Whole != st.Whole || len(plan.Modes) != len(st.Point.Files) {
		return errors.New("it was planned otherwise")
	}
	st.Plan = plan
	if err := st.store.readJSON(path.Join(st.dir(), progressFile), &st.prog); err != nil {
		return err
	}
	for _, f := range st.Point.Files {
		if err := st.openFile(f.Name, os.O_RDWR); err != nil {
			return err
		}
		if st.Modes[f.Name] == Patch {
			if err := st.open[f.Name].Truncate(st.prog.Patches[f.Name]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (st *Staging) openFile(name string, flags int) error {
	f, err := st.store.root.OpenFile(st.name(name), flags|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	st.open[name] = f
	if st.Modes[name] == New || st.Modes[name] == Clone {
		st.read[name] = f
		return nil
	}
	st.read[name], err = st.store.Untouched(st.base, name)
	return err
}

// begin makes the staging directory anew.
func (st *Staging) begin() error {
	s := st.store
	st.closeFiles()
	if err := errors.Join(s.root.RemoveAll(st.dir()), s.root.Mkdir(st.dir(), 0o700)); err != nil {
		return storeProblem("stage point in", st.dir(), err)
	}
	st.prog = progress{Done: map[string]int64{}, Patches: map[string]int64{}}
	for _, f := range st.Point.Files {
		if err := st.beginFile(f); err != nil {
			return storeProblem("stage", f.Name, err)
		}
	}
	err := errors.Join(s.writeJSON(path.Join(st.dir(), progressFile), st.prog), s.writeJSON(path.Join(st.dir(), planFile), st.Plan), s.syncDir(path.Dir(st.dir())))
	s.step("staged")
	return storeProblem("stage point in", st.dir(), err)
}

func (st *Staging) beginFile(file File) error {
	st.Modes[file.Name] = New
	var base *os.File
	if st.base != nil && st.base.held(file.Name) != nil {
		var err error
		if base, err = st.store.Untouched(st.base, file.Name); err != nil {
			st.Odd = err.Error()
		} else {
			defer base.Close()
			if st.Modes[file.Name] = Clone; st.store.choice.Tracker != block.Maps {
				st.Modes[file.Name] = Patch
			}
		}
	}
	if err := st.openFile(file.Name, os.O_RDWR|os.O_CREATE|os.O_EXCL); err != nil {
		return err
	}
	f := st.open[file.Name]
	switch st.Modes[file.Name] {
	case Patch:
		_, err := f.Write(patchHead(file.Size))
		st.prog.Patches[file.Name] = patchHeadSize
		return errors.Join(err, syswait.Sync(f))
	case Clone:
		if err := block.Clone(f, base); err != nil {
			return err
		}
	}
	return errors.Join(f.Truncate(file.Size), syswait.Sync(f))
}

// Done is up to where a file is durable here.
func (st *Staging) Done(name string) int64 { return st.prog.Done[name] }

func (st *Staging) check(name string, at, length int64) error {
	size, known := st.size[name]
	if !known || at < 0 || length <= 0 || length > size || at > size-length {
		return &problem.Problem{Op: "stage", Kind: problem.Invalid, Subject: name, Err: fmt.Errorf("%d bytes at %d of %d", length, at, size)}
	}
	return nil
}

// Write takes bytes of a file.
func (st *Staging) Write(name string, at int64, data []byte) error {
	if err := st.check(name, at, int64(len(data))); err != nil {
		return err
	}
	f := st.open[name]
	if st.Modes[name] == Patch {
		_, err := f.Seek(0, 2)
		if err == nil {
			_, err = f.Write(patchEntry(block.Range{At: at, Length: int64(len(data))}))
		}
		if err == nil {
			_, err = f.Write(data)
		}
		return storeProblem("write", name, err)
	}
	_, err := f.WriteAt(data, at)
	return storeProblem("write", name, err)
}

// Hole takes a range of a file that holds nothing.
func (st *Staging) Hole(name string, r block.Range) error {
	if err := st.check(name, r.At, r.Length); err != nil {
		return err
	}
	f := st.open[name]
	if st.Modes[name] == Patch {
		_, err := f.Seek(0, 2)
		if err == nil {
			_, err = f.Write(patchEntry(block.Range{At: r.At, Length: r.Length, Hole: true}))
		}
		return storeProblem("write", name, err)
	}
	return storeProblem("punch a hole into", name, block.Punch(f, r))
}

// Mark makes everything of a file up to a byte durable, so that it need not come again.
func (st *Staging) Mark(name string, done int64) error {
	f := st.open[name]
	if f == nil || done < 0 || done > st.size[name] {
		return &problem.Problem{Op: "stage", Kind: problem.Invalid, Subject: name, Err: fmt.Errorf("a mark at %d", done)}
	}
	if err := syswait.Sync(f); err != nil {
		return storeProblem("write", name, err)
	}
	st.prog.Done[name] = done
	if st.Modes[name] == Patch {
		info, err := f.Stat()
		if err != nil {
			return storeProblem("write", name, err)
		}
		st.prog.Patches[name] = info.Size()
	}
	err := st.store.writeJSON(path.Join(st.dir(), progressFile), st.prog)
	st.store.step("marked")
	return storeProblem("write", progressFile, err)
}

// Fresh has ranges that ReadAt is going to be asked for come from the disk: what
// is in memory proves nothing.
func (st *Staging) Fresh(name string, ranges []block.Range) {
	if f := st.read[name]; f != nil {
		for _, r := range ranges { // where it is refused they are read from memory
			_ = unix.Fadvise(int(f.Fd()), r.At, r.Length, unix.FADV_DONTNEED)
			_ = unix.Fadvise(int(f.Fd()), r.At, r.Length, unix.FADV_WILLNEED)
		}
	}
}

// ReadAt reads a file as it will be, where the source said nothing of it (in
// mode Patch), or everywhere.
func (st *Staging) ReadAt(name string, b []byte, at int64) error {
	if err := st.check(name, at, int64(len(b))); err != nil {
		return err
	}
	n, err := st.read[name].ReadAt(b, at)
	if err == io.EOF && st.Modes[name] == Patch { // the base is shorter: zeros follow, or the patch does
		clear(b[n:])
		return nil
	}
	return storeProblem("read", name, err)
}

// Discard gives up everything that was staged.
func (st *Staging) Discard() error {
	st.closeFiles()
	return storeProblem("remove", st.dir(), st.store.root.RemoveAll(st.dir()))
}

// Close lets go of the files; what is durable stays for the next attempt.
func (st *Staging) Close() { st.closeFiles() }

func (st *Staging) closeFiles() {
	for name, f := range st.open {
		f.Close()
		if r := st.read[name]; r != nil && r != f {
			r.Close()
		}
	}
	clear(st.open)
	clear(st.read)
}

// Publish makes the staged point one that is found, after everything of it is
// durable. here says how it came; what is known only on this node is filled in.
func (st *Staging) Publish(here Here) (Record, error) {
	here.Published, here.Base = time.Now().UTC(), st.Base
	r := Record{Point: st.Point, Here: here}
	patched := false
	for i := range r.Here.Files {
		h := &r.Here.Files[i]
		f := st.open[h.Name]
		if f == nil {
			return r, &problem.Problem{Op: "publish point", Kind: problem.Invalid, Subject: h.Name, Err: errors.New("no such file was staged")}
		}
		patched = patched || st.Modes[h.Name] == Patch
		if st.Modes[h.Name] == Patch {
			if err := errors.Join(sealPatch(f), syswait.Sync(f)); err != nil {
				return r, storeProblem("write", h.Name, err)
			}
			continue
		}
		if err := errors.Join(f.Chmod(0o400), syswait.Sync(f)); err != nil {
			return r, storeProblem("write", h.Name, err)
		}
		var err error
		if h.Stamp, err = block.StampOf(f); err != nil {
			return r, storeProblem("write", h.Name, err)
		}
	}
	if len(r.Here.Files) != len(r.Files) {
		return r, &problem.Problem{Op: "publish point", Kind: problem.Invalid, Subject: string(r.ID), Err: errors.New("not every file is there")}
	}
	st.closeFiles()
	if patched {
		return r, st.store.decide(&r, st)
	}
	err := st.store.publish(&r, st.dir())
	if err == nil { // with them it is a point as well
		at := path.Join(dirOf(r.VM), pointsDir, string(r.ID))
		_ = errors.Join(st.store.root.Remove(path.Join(at, progressFile)), st.store.root.Remove(path.Join(at, planFile)))
	}
	return r, err
}

// Patches: a head, entries in the order in which they came, a seal.
const (
	patchMagic    = "RVPATCH1"
	patchHeadSize = 16 // magic, size of the file
	entrySize     = 24 // at, length, kind
	entryData     = 1
	entryHole     = 2
	entrySeal     = 3
)

func patchHead(size int64) []byte {
	return binary.LittleEndian.AppendUint64([]byte(patchMagic), uint64(size))
}

func patchEntry(r block.Range) []byte {
	kind := uint64(entryData)
	if r.Hole {
		kind = entryHole
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(r.At))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Length))
	return binary.LittleEndian.AppendUint64(b, kind)
}
