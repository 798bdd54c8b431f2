package points

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/problem"
)

const (
	recordFile   = "point.json"
	planFile     = "plan.json"
	progressFile = "progress.json"
	tableSuffix  = ".hashes"
	patchSuffix  = ".patch"
	pointsDir    = "points"
	stagingDir   = "staging"
	redoSuffix   = ".redo"
	goneSuffix   = ".gone"
	maxRecord    = 1 << 20 // bytes of a record
)

// Store is the points below one directory.
type Store struct {
	root   *os.Root
	path   string
	choice block.Choice
	// Step is called at the labelled moments of whatever changes the disk; tests end the process there. May be nil.
	Step func(name string)
}

// Open opens the directory, makes it if it is not there, tries what its
// filesystem can do, and carries out what was decided and not finished.
func Open(dir string) (*Store, error) {
	fail := func(err error) (*Store, error) {
		return nil, &problem.Problem{Op: "open storage of VMs", Kind: problem.Unavailable, Subject: dir, Err: err, Hint: "name a directory of this node that may be written to: vm_storage in the configuration"}
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fail(err)
	}
	choice, err := block.Choose(dir)
	if err != nil {
		return fail(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	mark, err := root.OpenFile(StoreFile, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		root.Close()
		return fail(err)
	}
	return &Store{root: root, path: dir, choice: choice}, errors.Join(mark.Sync(), mark.Close())
}

// Close lets go of the directory.
func (s *Store) Close() error { return s.root.Close() }

// Choice is how changes are known in this directory, and why so.
func (s *Store) Choice() block.Choice { return s.choice }

// Path is where a point is.
func (s *Store) Path(vm string, id ID) string {
	return filepath.Join(s.path, dirOf(vm), pointsDir, string(id))
}

func (s *Store) step(name string) {
	if s.Step != nil {
		s.Step(name)
	}
}

// Lock makes this process the only one that works on a machine's directory, and
// carries out what was decided before. problem.Conflict: another one does.
func (s *Store) Lock(vm string) (release func(), err error) {
	if err := CheckVM(vm); err != nil {
		return nil, err
	}
	// QEMU runs as a user of its own and passes through to live-…; points and staging are nobody else's.
	if err := errors.Join(s.root.MkdirAll(dirOf(vm), 0o711), s.root.Chmod(dirOf(vm), 0o711)); err != nil {
		return nil, storeProblem("make directory of", vm, err)
	}
	for _, d := range []string{pointsDir, stagingDir} {
		if err := s.root.MkdirAll(path.Join(dirOf(vm), d), 0o700); err != nil {
			return nil, storeProblem("make directory of", vm, err)
		}
	}
	f, err := s.root.OpenFile(path.Join(dirOf(vm), "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, storeProblem("lock", vm, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &problem.Problem{Op: "work on the points of", Kind: problem.Conflict, Subject: vm, Err: errors.New("a copy is being made or changed right now"), Hint: "wait for it: revolve vm points " + vm}
	}
	if err := errors.Join(s.redoAll(vm), s.sweep(vm)); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func storeProblem(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	kind := problem.Unavailable
	if errors.Is(err, fs.ErrNotExist) {
		kind = problem.NotFound
	}
	hint := ""
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		hint = "make room: delete points that are not needed (revolve vm points)"
	}
	return &problem.Problem{Op: op, Kind: kind, Subject: subject, Err: err, Hint: hint}
}

// A point is not begun that would leave less than this: a full disk harms whatever
// else is on it, and points are not worth that.
const (
	reservePart = 50      // of the filesystem
	reserveMost = 1 << 30 // bytes
)

// Free is how many bytes of points may still come here (statfs(2)).
func (s *Store) Free() (int64, error) {
	d, err := s.root.Open(".")
	if err != nil {
		return 0, storeProblem("look at the space of", s.path, err)
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return 0, storeProblem("look at the space of", s.path, err)
	}
	reserve := min(int64(st.Blocks)*st.Bsize/reservePart, reserveMost)
	return max(0, int64(st.Bavail)*st.Bsize-reserve), nil
}

// NoRoom says that a point does not fit.
func NoRoom(need, free int64) *problem.Problem {
	return &problem.Problem{Op: "make room for the point", Kind: problem.Unavailable,
		Err:  fmt.Errorf("it needs %d MiB, and %d MiB may be filled", need>>20, free>>20),
		Hint: "make room there: delete points that are not needed (revolve vm points)"}
}

// VMs lists the machines of which there are points, or were.
func (s *Store) VMs() ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return nil, storeProblem("list", s.path, err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, vmOf(e.Name()))
		}
	}
	return names, nil
}

// List is the points of a machine here, newest first. A directory whose record
// cannot be read is no point: nothing is made from it.
func (s *Store) List(vm string) ([]Record, error) {
	entries, err := fs.ReadDir(s.root.FS(), path.Join(dirOf(vm), pointsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, storeProblem("list the points of", vm, err)
	}
	var list []Record
	for _, e := range entries {
		if r, err := s.Get(vm, ID(e.Name())); err == nil {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b Record) int {
		switch {
		case a.Newer(&b.Point):
			return -1
		case b.Newer(&a.Point):
			return 1
		}
		return -strings.Compare(string(a.ID), string(b.ID))
	})
	return list, nil
}

// Get reads one record. problem.NotFound: there is no such point.
func (s *Store) Get(vm string, id ID) (Record, error) {
	if !id.Valid() {
		return Record{}, &problem.Problem{Op: "find point", Kind: problem.NotFound, Subject: string(id), Err: errors.New("not the name of a point"), Hint: "revolve vm points " + vm}
	}
	var r Record
	if err := s.readJSON(path.Join(dirOf(vm), pointsDir, string(id), recordFile), &r); err != nil {
		return r, storeProblem("read point", string(id), err)
	}
	if err := r.Check(); err != nil {
		return r, err
	}
	if r.ID != id || r.VM != vm || len(r.Here.Files) != len(r.Files) {
		return r, &problem.Problem{Op: "read point", Kind: problem.Corrupt, Subject: string(id), Err: errors.New("its record is that of another")}
	}
	return r, nil
}

func (s *Store) readJSON(name string, v any) error {
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && (info.Size() > maxRecord || !info.Mode().IsRegular()) {
		err = fmt.Errorf("a record of %d bytes", info.Size())
	}
	if err != nil {
		return err
	}
	return json.NewDecoder(f).Decode(v)
}

// writeJSON puts a record in place durably, as a whole.
func (s *Store) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := s.root.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := s.root.Rename(name+".new", name); err != nil {
		return err
	}
	return s.syncDir(path.Dir(name))
}

func (s *Store) syncDir(name string) error {
	d, err := s.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SetRehearsed records how a point's rehearsal went. The caller has the machine's Lock.
func (s *Store) SetRehearsed(vm string, id ID, how Rehearsed) error {
	r, err := s.Get(vm, id)
	if err != nil {
		return err
	}
	how.Failed = how.Failed[:min(len(how.Failed), maxWhy)]
	r.Here.Rehearsed = &how
	return storeProblem("record the rehearsal of", string(id), s.writeJSON(path.Join(dirOf(vm), pointsDir, string(id), recordFile), r))
}

// SetAside records that no other point is to descend from this one. The caller has the machine's Lock.
func (s *Store) SetAside(vm string, id ID) error {
	r, err := s.Get(vm, id)
	if err != nil {
		return err
	}
	r.Here.Aside = true
	return storeProblem("set aside", string(id), s.writeJSON(path.Join(dirOf(vm), pointsDir, string(id), recordFile), r))
}

// Delete removes one point; the others are as they were. It is gone as a whole
// before anything of it is removed.
func (s *Store) Delete(vm string, id ID) error {
	if _, err := s.Get(vm, id); err != nil {
		return err
	}
	from, to := path.Join(dirOf(vm), pointsDir, string(id)), path.Join(dirOf(vm), stagingDir, string(id)+goneSuffix)
	err := s.root.Rename(from, to)
	if err == nil {
		err = errors.Join(s.syncDir(path.Dir(from)), s.syncDir(path.Dir(to)))
	}
	s.step("deleted")
	if err == nil {
		err = s.root.RemoveAll(to)
	}
	return storeProblem("delete point", string(id), err)
}

// sweep removes what a process that was killed left behind: what a Delete was
// removing, points that were being taken (what comes from elsewhere has a plan,
// and goes on), and disks that were being made of a point.
func (s *Store) sweep(vm string) error {
	staging := path.Join(dirOf(vm), stagingDir)
	entries, err := fs.ReadDir(s.root.FS(), staging)
	if err != nil {
		return storeProblem("list", staging, err)
	}
	for _, e := range entries {
		name := path.Join(staging, e.Name())
		_, noPlan := s.root.Lstat(path.Join(name, planFile))
		if strings.HasSuffix(e.Name(), goneSuffix) || ID(e.Name()).Valid() && errors.Is(noPlan, fs.ErrNotExist) {
			err = errors.Join(err, s.root.RemoveAll(name))
		}
	}
	entries, listed := fs.ReadDir(s.root.FS(), dirOf(vm))
	err = errors.Join(err, listed)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), UnfinishedSuffix) {
			err = errors.Join(err, s.root.RemoveAll(path.Join(dirOf(vm), e.Name())))
		}
	}
	return storeProblem("remove what was left behind of", vm, err)
}

// UnfinishedSuffix marks a directory beside a machine's points that is being made; whoever takes the machine's Lock next removes it.
const UnfinishedSuffix = ".unfinished"

// Tidy carries out what was decided, and removes what was left behind, of a
// machine that has a directory here. Where somebody works on it, it is tidy.
func (s *Store) Tidy(vm string) error {
	if _, err := s.root.Lstat(path.Join(dirOf(vm), stagingDir)); err != nil {
		return nil // no machine's directory
	}
	release, err := s.Lock(vm)
	if problem.KindOf(err) == problem.Conflict && err != nil {
		return nil
	}
	if err == nil {
		release()
	}
	return err
}

// Untouched opens a file of a point if it is still the one that was published:
// whoever wrote to it, replaced it or restored it made it something else.
// problem.Corrupt: it is not, and nothing may be concluded from it.
func (s *Store) Untouched(r *Record, name string) (*os.File, error) {
	held := r.held(name)
	if held == nil || held.Table != "" {
		return nil, &problem.Problem{Op: "open", Kind: problem.NotFound, Subject: name, Err: errors.New("the point does not hold it here")}
	}
	f, err := s.root.OpenFile(path.Join(dirOf(r.VM), pointsDir, string(r.ID), name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, storeProblem("open", name, err)
	}
	stamp, err := block.StampOf(f)
	if err == nil && stamp != held.Stamp {
		err = errors.New("it is not the file that was published: it was written to or replaced")
	}
	if err != nil {
		f.Close()
		return nil, &problem.Problem{Op: "open", Kind: problem.Corrupt, Subject: filepath.Join(string(r.ID), name), Err: err}
	}
	return f, nil
}

func (r *Record) held(name string) *Held {
	for i := range r.Here.Files {
		if r.Here.Files[i].Name == name {
			return &r.Here.Files[i]
		}
	}
	return nil
}
