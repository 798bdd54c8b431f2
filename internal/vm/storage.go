package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"revolve/internal/problem"
	"revolve/internal/syswait"
	"revolve/internal/vm/points"
)

// StorageNote is where an agent notes, in its state directory, where its points
// are, so that the hook finds them while no agent answers.
const StorageNote = "vm-storage.json"

type storageNote struct {
	Dir string `json:"dir"`
}

func readNote(state string) (note storageNote, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(state, StorageNote))
	if errors.Is(err, fs.ErrNotExist) {
		return note, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &note)
	}
	return note, err == nil, err
}

// CheckStorage refuses a directory that was this node's storage of points and is
// empty now, as where a disk is not mounted: nobody would know of any machine where its home is.
func CheckStorage(state, dir string) error {
	note, ok, err := readNote(state)
	if err != nil || !ok || note.Dir != dir {
		return err
	}
	if err := points.Opened(dir); err != nil {
		return &problem.Problem{Op: "open storage of VMs", Kind: problem.Unavailable, Subject: dir, Err: fmt.Errorf("it was opened before, and is another one now: %w", err),
			Hint: "mount it, then restart the agent; if it is a new disk: touch " + filepath.Join(dir, points.StoreFile)}
	}
	return nil
}

// NoteStorage writes it, or removes it where there are none.
func NoteStorage(state, dir string) error {
	if dir == "" {
		err := os.Remove(filepath.Join(state, StorageNote))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	b, err := json.Marshal(storageNote{dir})
	if err != nil {
		return err
	}
	name := filepath.Join(state, StorageNote)
	if old, err := os.ReadFile(name); err == nil && string(old) == string(b) {
		return nil
	}
	return writeState(state, StorageNote, b)
}

// writeState makes a file of the state directory durable: after a power cut it is the old one or the new one.
func writeState(state, name string, b []byte) error {
	name = filepath.Join(state, name)
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, syswait.Sync(f), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(name+".new", name), syncDir(state))
}
