package apply

import (
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// rig is an applier on a directory, with a clock of its own.
type rig struct {
	t     testing.TB
	dir   string
	state string
	now   time.Time
	seq   uint64
	down  bool
	found journal.Opened

	pruner *Pruner
	*Applier
}

func newRig(t testing.TB, dir string) *rig {
	t.Helper()
	return newRigAt(t, dir, t.TempDir())
}

func newRigAt(t testing.TB, dir, state string) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, state: state, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	r.open()
	if err := r.o.Journal.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}}); err != nil {
		t.Fatal(err)
	}
	r.reload()
	return r
}

func (r *rig) open() {
	r.t.Helper()
	r.down = false
	root, err := tree.Open(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	j, found, err := journal.Open(r.state)
	if err != nil {
		r.t.Fatal(err)
	}
	r.found = found
	r.t.Cleanup(func() { r.shut(j, root) })
	r.Applier, err = New(Options{
		Root: root, Journal: j, Node: "b", Excluded: tree.IsHidden, TrashAge: 7 * 24 * time.Hour, Unclean: !found.Clean && !found.LastWrite.IsZero(), Answered: found.Answered,
		Now: func() time.Time { return r.now }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// shut closes what may have been closed already.
func (r *rig) shut(j *journal.Journal, root *tree.Root) {
	j.Close(false)
	if r.o.Root == root && !r.down {
		root.Close()
	}
}

// halt closes all, as before an unmount.
func (r *rig) halt() {
	r.o.Journal.Close(false)
	r.o.Root.Close()
	r.down = true
}

// reopen is a start after a crash.
func (r *rig) reopen() {
	r.t.Helper()
	r.halt()
	r.open()
}

func fileOp(path, content string) wire.Op {
	return wire.Op{Kind: wire.OpFile, Path: path, Data: []byte(content),
		Meta: tree.Meta{Kind: tree.File, Mode: 0o644, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Size: int64(len(content)), MTime: 1e18}}
}

func dirOp(path string) wire.Op {
	return wire.Op{Kind: wire.OpDir, Path: path,
		Meta: tree.Meta{Kind: tree.Dir, Mode: 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MTime: 1e18}}
}

func removeOp(path string) wire.Op { return wire.Op{Kind: wire.OpRemove, Path: path} }

func renameOp(old, path string) wire.Op { return wire.Op{Kind: wire.OpRename, Old: old, Path: path} }

// try stages and commits operations as the next of the stream.
func (r *rig) try(ops ...wire.Op) error {
	for _, o := range ops {
		r.seq++
		o.Seq = r.seq
		if err := r.Stage(o); err != nil {
			return err
		}
	}
	return r.Commit()
}

func (r *rig) do(ops ...wire.Op) {
	r.t.Helper()
	if err := r.try(ops...); err != nil {
		r.t.Fatal(err)
	}
}

// local writes as this node's own master would: into the tree and the journal.
func (r *rig) local(kind journal.Kind, path, old string) {
	r.t.Helper()
	if err := r.o.Journal.Append(journal.Record{Kind: kind, Pos: r.o.Journal.Next(), Path: path, Old: old}); err != nil {
		r.t.Fatal(err)
	}
}

// guard0 has others' writes told from the stream's from now on; none is known yet.
func (r *rig) guard0() {
	r.t.Helper()
	g := &Guard{Set: NewSet(r.o.Root, "b", 1, WhyForeign, r.now), Waits: func(string, tree.Meta) bool { return false }}
	if err := r.Guard(g); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(2 * clockTick) // the kernel stamps inodes by ticks
}

func (r *rig) abs(rel string) string { return filepath.Join(r.dir, rel) }

// aside are the files of the staging area.
func (r *rig) aside() (files []string, err error) {
	err = filepath.WalkDir(r.abs(stagingDir), func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, name)
		}
		return err
	})
	return files, err
}

func (r *rig) write(rel, content string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.abs(rel)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.abs(rel), []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) wants(rel, content string) {
	r.t.Helper()
	b, err := os.ReadFile(r.abs(rel))
	if err != nil || string(b) != content {
		r.t.Errorf("%s holds %q (%v), want %q", rel, b, err, content)
	}
}

func (r *rig) gone(rel string) {
	r.t.Helper()
	if _, err := os.Lstat(r.abs(rel)); !os.IsNotExist(err) {
		r.t.Errorf("%s is there (%v)", rel, err)
	}
}
