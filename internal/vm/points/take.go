package points

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/syswait"
)

// Image is a file of a machine of which a point is taken: at a path, or its bytes.
type Image struct {
	Name  string
	Path  string
	Bytes []byte // if Path is ""
	// Most is for a small file whose writer puts another one in its place: it is opened anew at the
	// moment of the point, and copied whatever the filesystem, up to so many bytes. 0: it is an image.
	Most int64
}

// Source is a point that can be read, to be sent: a published one, or one that
// is being taken of images of which no clone can be kept.
type Source struct {
	Point
	Files []SourceFile
	Aside bool // see Here
	store *Store
	node  cluster.NodeID
	took  time.Duration
	done  bool // it is published
}

// SourceFile is one file of it. Nobody writes to F until the source is closed.
type SourceFile struct {
	Name  string
	F     *os.File
	Size  int64
	Kept  bool     // F is the point's own; else it is the image itself
	Why   string   // F is not kept because
	Table *os.File // where the table of hashes of a file that is not kept goes; nil: it is kept

	path  string      // of what is opened anew then, and copied
	most  int64       // bytes of it
	clone *os.File    // where the clone comes
	bytes bool        // it is copied there instead: it is small, and on another filesystem
	stamp block.Stamp // of an image that is not kept, when it was to stand still
}

// Take prepares a point of a machine's images: everything that can be done while
// the guest still runs, so that Clone is short. The caller has the machine's Lock.
func (s *Store) Take(p Point, node cluster.NodeID, images []Image) (*Source, error) {
	p.Node, p.Files = node, nil
	for _, im := range images {
		p.Files = append(p.Files, File{Name: im.Name})
	}
	src := &Source{Point: p, store: s, node: node}
	if err := p.Check(); err != nil {
		return nil, err
	}
	if err := errors.Join(s.root.RemoveAll(src.dir()), s.root.Mkdir(src.dir(), 0o700)); err != nil {
		return nil, storeProblem("take point in", src.dir(), err)
	}
	for _, im := range images {
		f, err := src.prepare(im)
		if err != nil {
			src.Close()
			return nil, err
		}
		src.Files = append(src.Files, f)
	}
	return src, nil
}

func (src *Source) dir() string { return path.Join(dirOf(src.VM), stagingDir, string(src.ID)) }

// prepare opens one image, and has what the guest wrote go to the disk.
func (src *Source) prepare(im Image) (SourceFile, error) {
	if im.Path == "" {
		f, err := src.store.root.OpenFile(path.Join(src.dir(), im.Name), os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err == nil {
			_, err = f.Write(im.Bytes)
		}
		return SourceFile{Name: im.Name, F: f, Size: int64(len(im.Bytes)), Kept: true}, storeProblem("write", im.Name, err)
	}
	flags := 0
	if im.Most > 0 {
		flags = onlyFile
	}
	f, err := openImage(im.Path, flags)
	if err != nil {
		return SourceFile{}, err
	}
	_ = syswait.Sync(f) // what fails here fails again when it is read
	out := SourceFile{Name: im.Name, F: f, Why: src.store.choice.Why}
	if im.Most > 0 {
		out.Kept, out.path, out.most = true, im.Path, im.Most
		out.clone, err = src.store.root.OpenFile(path.Join(src.dir(), im.Name), os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		return out, storeProblem("take point in", src.dir(), err)
	}
	if src.store.choice.Tracker != block.Maps {
		return out, nil
	}
	c, err := src.store.root.OpenFile(path.Join(src.dir(), im.Name), os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return out, storeProblem("take point in", src.dir(), err)
	}
	// Whether these two can share blocks is known before the guest is stopped.
	if err := block.CanClone(c, f); errors.Is(err, block.ErrUnsupported) {
		out.Why = "its image is not on the filesystem of " + src.store.path
		if info, err := f.Stat(); err == nil && info.Size() <= smallImage { // such as a machine's NVRAM
			out.Kept, out.clone, out.bytes = true, c, true
			return out, nil
		}
		return out, errors.Join(c.Close(), src.store.root.Remove(path.Join(src.dir(), im.Name)))
	} else if err != nil {
		c.Close()
		return out, err
	}
	out.Kept, out.clone = true, c
	return out, nil
}

// onlyFile is for what lies in another user's directory: it leads nowhere, and is waited for in no case.
const onlyFile = unix.O_NOFOLLOW | unix.O_NONBLOCK

func openImage(name string, flags int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|flags, 0)
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = errors.Join(errors.New("not an ordinary file"), f.Close())
		}
	}
	if err != nil {
		return nil, &problem.Problem{Op: "open image", Kind: problem.Invalid, Subject: name, Err: err, Hint: "images are files, raw or qcow2, on XFS, btrfs or ext4"}
	}
	return f, nil
}

// Clone is the moment of the point: the guest's images are cloned. Its writers
// are held still by the caller where its level asks for that; where a file cannot
// be kept (Kept), they must stay so until the source was sent and closed.
func (src *Source) Clone() error {
	began := time.Now()
	src.Taken = began.UTC()
	for i := range src.Files {
		f := &src.Files[i]
		if f.clone == nil {
			stamp, err := block.StampOf(f.F)
			if err != nil {
				return storeProblem("look at", f.Name, err)
			}
			f.stamp = stamp
			continue
		}
		if err := f.copy(); err != nil {
			return storeProblem("clone", f.Name, err)
		}
		f.F.Close()
		f.F, f.clone = f.clone, nil
	}
	src.took = time.Since(began)
	src.store.step("cloned")
	return nil
}

// smallImage is copied where it cannot be cloned, while its writers stand still.
const smallImage = 16 << 20

func (f *SourceFile) copy() error {
	if f.path != "" {
		return f.again()
	}
	if !f.bytes {
		return block.Clone(f.clone, f.F)
	}
	_, err := io.Copy(f.clone, io.NewSectionReader(f.F, 0, 1<<62))
	return err
}

// again copies what is at its path now.
func (f *SourceFile) again() error {
	now, err := openImage(f.path, onlyFile)
	if err != nil {
		return err
	}
	f.F.Close()
	f.F = now
	n, err := io.Copy(f.clone, io.LimitReader(now, f.most+1))
	if err == nil && n > f.most {
		err = fmt.Errorf("it has more than %d bytes", f.most)
	}
	return err
}

// cloned is an error until Clone came to its end: before, what is open is the
// machine's own image, which is not to be changed, and the clone is empty.
func (src *Source) cloned() error {
	for _, f := range src.Files {
		if f.clone != nil {
			return &problem.Problem{Op: "take point of", Kind: problem.Conflict, Subject: f.Name, Err: errors.New("it was not cloned"), Hint: "see why, and take another point"}
		}
	}
	return nil
}

// Took is how long Clone held the images.
func (src *Source) Took() time.Duration { return src.took }

// Settle makes durable what was cloned, and publishes the point if all of it is
// kept. Nothing has to stand still for that any more.
func (src *Source) Settle() error {
	if err := src.cloned(); err != nil {
		return err
	}
	whole := true
	for i := range src.Files {
		f := &src.Files[i]
		var st unix.Stat_t
		if err := unix.Fstat(int(f.F.Fd()), &st); err != nil {
			return storeProblem("settle", f.Name, err)
		}
		f.Size = st.Size
		src.Point.Files[i].Size = st.Size
		if !f.Kept {
			whole = false
			t, err := src.store.root.OpenFile(path.Join(src.dir(), f.Name+tableSuffix), os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
			if err != nil {
				return storeProblem("settle", f.Name, err)
			}
			f.Table = t
		}
	}
	if whole {
		return src.Publish()
	}
	return nil
}

// Publish puts the point where it is found. Of files that are not kept their
// tables are, which must have been written by then.
func (src *Source) Publish() error {
	if src.done {
		return nil
	}
	if err := src.cloned(); err != nil {
		return err
	}
	r := Record{Point: src.Point, Here: Here{Node: src.node, Published: time.Now().UTC(), Files: []Held{}, Aside: src.Aside}}
	for i := range src.Files {
		f := &src.Files[i]
		h := Held{Name: f.Name, Why: f.Why, Tracker: src.store.choice.Tracker}
		if f.Table != nil {
			h.Table, h.Tracker = f.Name+tableSuffix, block.Hashes
			if err := syswait.Sync(f.Table); err != nil {
				return storeProblem("write", h.Table, err)
			}
		} else if err := errors.Join(f.F.Chmod(0o400), syswait.Sync(f.F)); err != nil {
			return storeProblem("write", f.Name, err)
		}
		var err error
		if h.Stamp, err = block.StampOf(f.F); err != nil {
			return storeProblem("write", f.Name, err)
		}
		if f.Table != nil && h.Stamp != f.stamp {
			return &problem.Problem{Op: "take point of", Kind: problem.Conflict, Subject: f.Name, Err: errors.New("the image was written to while it was read"),
				Hint: "shut the machine down for the copy, or put its images and vm_storage on one XFS or btrfs"}
		}
		r.Here.Files = append(r.Here.Files, h)
	}
	if err := src.store.publish(&r, src.dir()); err != nil {
		return err
	}
	src.done = true
	for i := range src.Files { // they are the point's now: whoever is sent it next writes none
		if t := src.Files[i].Table; t != nil {
			t.Close()
			src.Files[i].Table = nil
		}
	}
	return nil
}

// publish writes the record and renames the directory to its place.
func (s *Store) publish(r *Record, from string) error {
	to := path.Join(dirOf(r.VM), pointsDir, string(r.ID))
	err := s.writeJSON(path.Join(from, recordFile), r)
	s.step("recorded")
	if err == nil {
		err = s.root.Rename(from, to)
	}
	s.step("renamed")
	if err == nil {
		err = errors.Join(s.syncDir(path.Dir(to)), s.syncDir(path.Dir(from)))
	}
	return storeProblem("publish point", string(r.ID), err)
}

// Close lets go of the files. What was not published is removed.
func (src *Source) Close() {
	for _, f := range src.Files {
		f.F.Close()
		if f.clone != nil {
			f.clone.Close()
		}
		if f.Table != nil {
			f.Table.Close()
		}
	}
	if !src.done {
		_ = src.store.root.RemoveAll(src.dir()) // the next Lock does it otherwise
	}
}

// Reopen makes a published point a source again. problem.Corrupt: one of its
// files is not what was published. problem.NotFound: only tables were kept of it.
func (s *Store) Reopen(r *Record) (*Source, error) {
	src := &Source{Point: r.Point, store: s, node: r.Here.Node, done: true}
	for _, file := range r.Files {
		f, err := s.Untouched(r, file.Name)
		if err != nil {
			src.Close()
			return nil, err
		}
		src.Files = append(src.Files, SourceFile{Name: file.Name, F: f, Size: file.Size, Kept: true})
	}
	return src, nil
}

// OpenTable opens the table of hashes of a file of a point.
func (s *Store) OpenTable(r *Record, name string) (*block.Table, error) {
	held := r.held(name)
	if held == nil || held.Table != name+tableSuffix {
		return nil, &problem.Problem{Op: "open table of hashes", Kind: problem.NotFound, Subject: name, Err: fs.ErrNotExist}
	}
	return block.OpenTable(path.Join(s.Path(r.VM, r.ID), held.Table))
}
