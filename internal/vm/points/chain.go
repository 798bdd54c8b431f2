package points

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"revolve/internal/cluster"
)

// Chain is where a machine's history stands on a node, and where it may run.
type Chain struct {
	Last  Point          `json:"last"` // the newest point of it, without its files
	Home  cluster.NodeID `json:"home"`
	Since time.Time      `json:"since"`
}

const chainFile = "lineage.json"

// StoreFile is in every directory that was opened: one without it is not mounted.
const StoreFile = ".revolve-vms"

// Chain reads it. ok is false if this node never had it: then the points that came are all there is.
func (s *Store) Chain(vm string) (c Chain, ok bool, err error) {
	err = s.readJSON(path.Join(dirOf(vm), chainFile), &c)
	if errors.Is(err, fs.ErrNotExist) {
		return c, false, nil
	}
	return c, err == nil, storeProblem("read lineage of", vm, err)
}

// SetChain makes it durable. The caller has the machine's Lock.
func (s *Store) SetChain(vm string, c Chain) error {
	return storeProblem("write lineage of", vm, s.writeJSON(path.Join(dirOf(vm), chainFile), c))
}

// Note makes a small record about a machine durable: an intention that the next start finds.
func (s *Store) Note(vm, name string, v any) error {
	return storeProblem("write", name, s.writeJSON(path.Join(dirOf(vm), name), v))
}

// Noted reads one. ok is false if there is none.
func (s *Store) Noted(vm, name string, v any) (ok bool, err error) {
	err = s.readJSON(path.Join(dirOf(vm), name), v)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, storeProblem("read", name, err)
}

// Forget removes one.
func (s *Store) Forget(vm, name string) error {
	err := s.root.Remove(path.Join(dirOf(vm), name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = s.syncDir(dirOf(vm))
	}
	return storeProblem("remove", name, err)
}

// Dir is the directory of a machine.
func (s *Store) Dir(vm string) string { return filepath.Join(s.path, dirOf(vm)) }

// Opened is an error if a directory was never opened as a storage of points.
func Opened(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, StoreFile))
	return storeProblem("find the storage of VMs in", dir, err)
}

// Known reports whether a node keeps points or a history of a machine below a
// directory, and reads a note about it. It is for programs beside the agent, and changes nothing.
func Known(dir, vm, note string, v any) (known bool, err error) {
	root, err := os.OpenRoot(dir) // one that is not there is not mounted: nothing is known of any machine
	if err != nil {
		return false, storeProblem("open", dir, err)
	}
	defer root.Close()
	if err := Opened(dir); err != nil {
		return false, err
	}
	s := &Store{root: root, path: dir}
	if _, err := s.Noted(vm, note, v); err != nil {
		return false, err
	}
	list, err := s.List(vm)
	if err != nil {
		return false, err
	}
	_, ok, err := s.Chain(vm)
	return ok || len(list) > 0, err
}
