package points

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/problem"
	"revolve/internal/syswait"
)

// Where blocks cannot be shared there is room for one point, and the next is made
// of it in place. All changes are durable in patches before the first of them is
// made, so that this can be taken up at any moment; until it is finished there is
// no point to be seen, since half a one would be neither.
//
//	staging/ID             patches, record                 renamed to
//	staging/ID.redo/       decided: from here on it is carried out, whatever happens
//	staging/ID.redo/files  the base, moved here            its files take the changes, then the record
//	points/ID              files, renamed                  and staging/ID.redo is removed

const inPlace = "files"

// decide makes a staged point of patches one that is carried out.
func (s *Store) decide(r *Record, st *Staging) error {
	if err := s.writeJSON(path.Join(st.dir(), recordFile), r); err != nil {
		return storeProblem("publish point", string(r.ID), err)
	}
	err := s.root.Rename(st.dir(), st.dir()+redoSuffix)
	if err == nil {
		err = s.syncDir(path.Dir(st.dir()))
	}
	s.step("decided")
	if err != nil {
		return storeProblem("publish point", string(r.ID), err)
	}
	done, err := s.redo(r.VM, r.ID)
	if err == nil {
		*r = *done
	}
	return err
}

// redoAll finishes what was decided.
func (s *Store) redoAll(vm string) error {
	entries, err := fs.ReadDir(s.root.FS(), path.Join(dirOf(vm), stagingDir))
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), redoSuffix); ok {
			_, again := s.redo(vm, ID(id))
			err = errors.Join(err, again)
		}
	}
	return err
}

// redo carries one decision out, from wherever it stopped.
func (s *Store) redo(vm string, id ID) (*Record, error) {
	home := dirOf(vm)
	dir := path.Join(home, stagingDir, string(id)+redoSuffix)
	files, final := path.Join(dir, inPlace), path.Join(home, pointsDir, string(id))
	fail := func(err error) (*Record, error) {
		return nil, &problem.Problem{Op: "finish the point", Kind: problem.Unavailable, Subject: string(id), Err: err,
			Hint: "what is missing is in " + path.Join(s.path, dir) + "; correct the cause, it is taken up again by the next copy"}
	}
	if _, err := s.root.Lstat(final); err == nil { // all but the last step was done
		r, err := s.Get(vm, id)
		if err == nil {
			err = s.root.RemoveAll(dir)
		}
		return &r, err
	}
	var r Record
	if err := s.readJSON(path.Join(dir, recordFile), &r); err != nil {
		return fail(err)
	}
	if _, err := s.root.Lstat(files); errors.Is(err, fs.ErrNotExist) {
		err := s.root.Rename(path.Join(home, pointsDir, string(r.Here.Base)), files)
		if err = errors.Join(err, s.syncDir(path.Join(home, pointsDir)), s.syncDir(dir)); err != nil {
			return fail(err)
		}
	}
	s.step("moved")
	if err := s.patchFiles(&r, dir, files); err != nil {
		return fail(err)
	}
	if err := s.writeJSON(path.Join(files, recordFile), r); err != nil {
		return fail(err)
	}
	s.step("patched")
	if err := s.root.Rename(files, final); err != nil {
		return fail(err)
	}
	if err := errors.Join(s.syncDir(path.Join(home, pointsDir)), s.syncDir(dir)); err != nil {
		return fail(err)
	}
	s.step("renamed")
	return &r, s.root.RemoveAll(dir)
}

// patchFiles makes the changes, or brings in the file that is new, and stamps them.
func (s *Store) patchFiles(r *Record, dir, files string) error {
	keep := map[string]bool{recordFile: true}
	for i := range r.Here.Files {
		h := &r.Here.Files[i]
		keep[h.Name] = true
		at := path.Join(files, h.Name)
		patch, err := s.root.OpenFile(path.Join(dir, h.Name+patchSuffix), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) { // it came whole
			if _, err = s.root.Lstat(path.Join(dir, h.Name)); err == nil {
				err = s.root.Rename(path.Join(dir, h.Name), at)
			} else if errors.Is(err, fs.ErrNotExist) {
				err = nil // it is there since the attempt before
			}
		} else if err == nil {
			err = errors.Join(s.patchFile(patch, at), patch.Close())
		}
		if err == nil {
			h.Stamp, err = s.seal(at)
		}
		if err != nil {
			return err
		}
	}
	return s.onlyThese(files, keep)
}

// onlyThese removes the files that the base had and the point has not.
func (s *Store) onlyThese(files string, keep map[string]bool) error {
	entries, err := fs.ReadDir(s.root.FS(), files)
	for _, e := range entries {
		if !keep[e.Name()] {
			err = errors.Join(err, s.root.RemoveAll(path.Join(files, e.Name())))
		}
	}
	return err
}

func (s *Store) seal(name string) (block.Stamp, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return block.Stamp{}, err
	}
	defer f.Close()
	if err := errors.Join(f.Chmod(0o400), syswait.Sync(f)); err != nil {
		return block.Stamp{}, err
	}
	return block.StampOf(f)
}

func (s *Store) patchFile(patch *os.File, name string) error {
	size, body, err := wholePatch(patch)
	if err != nil {
		return err
	}
	if err := s.root.Chmod(name, 0o600); err != nil {
		return err
	}
	f, err := s.root.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	in := bufio.NewReaderSize(io.NewSectionReader(patch, patchHeadSize, body-patchHeadSize), 1<<18)
	for {
		var head [entrySize]byte
		if _, err := io.ReadFull(in, head[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		r := block.Range{At: int64(binary.LittleEndian.Uint64(head[:])), Length: int64(binary.LittleEndian.Uint64(head[8:])), Hole: binary.LittleEndian.Uint64(head[16:]) == entryHole}
		if r.Hole {
			err = block.Punch(f, r)
		} else {
			_, err = io.Copy(io.NewOffsetWriter(f, r.At), io.LimitReader(in, r.Length))
		}
		if err != nil {
			return err
		}
		s.step("entry")
	}
}

// sealPatch writes the seal behind the last entry: the hash of everything before it.
func sealPatch(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	sum := blake3.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, info.Size())); err != nil {
		return err
	}
	_, err = f.WriteAt(sum.Sum(binary.LittleEndian.AppendUint64(nil, entrySeal)), info.Size())
	return err
}

const sealSize = 8 + 32

// wholePatch checks a patch's seal, and says how long the file is to be and where the entries end.
func wholePatch(f *os.File) (size, body int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	body = info.Size() - sealSize
	corrupt := &problem.Problem{Op: "read patch", Kind: problem.Corrupt, Subject: f.Name(), Err: errors.New("it is not as it was written")}
	if body < patchHeadSize {
		return 0, 0, corrupt
	}
	sum := blake3.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, body)); err != nil {
		return 0, 0, err
	}
	tail, head := make([]byte, sealSize), make([]byte, patchHeadSize)
	if _, err := f.ReadAt(tail, body); err != nil {
		return 0, 0, err
	}
	if _, err := f.ReadAt(head, 0); err != nil {
		return 0, 0, err
	}
	if string(sum.Sum(binary.LittleEndian.AppendUint64(nil, entrySeal))) != string(tail) || string(head[:8]) != patchMagic {
		return 0, 0, corrupt
	}
	return int64(binary.LittleEndian.Uint64(head[8:])), body, nil
}
