package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/setup"
)

// This file is what init makes of its answers: all of it, or nothing.

// mayMake looks before anything is asked whether there would be a place for it.
func (c *initCommand) mayMake(e *env) error {
	if peer.HasIdentity(e.state) {
		return &problem.Problem{Op: "make cluster", Kind: problem.Conflict, Subject: e.state, Err: errors.New("there is an identity already; nothing was changed"),
			Hint: "this machine is a node: revolve status; for another cluster name another --state"}
	}
	info, err := os.Lstat(c.Out)
	switch {
	case c.Out == "", err == nil && info.IsDir():
		return &problem.Problem{Op: opMake, Kind: problem.Invalid, Subject: c.Out, Err: errors.New("--out is no file"), Hint: "name the file itself, such as --out " + defaultConfig}
	case err == nil && !c.Force:
		return exists(c.Out)
	}
	for _, dir := range []string{filepath.Dir(c.Out), e.state} {
		if err := unix.Access(nearest(dir), unix.W_OK); err != nil {
			return unwritten(c.Out, fmt.Errorf("%s: %w", nearest(dir), err))
		}
	}
	return nil
}

func exists(path string) error {
	return &problem.Problem{Op: opMake, Kind: problem.Conflict, Subject: path, Err: errors.New("the file exists; nothing was changed"),
		Hint: "revolve init --config " + path + " --node NAME makes a cluster of it; --force writes another, and keeps this one beside it"}
}

func unwritten(path string, err error) error {
	p := &problem.Problem{Op: "write configuration", Kind: problem.Unavailable, Subject: path, Err: err}
	if errors.Is(err, fs.ErrPermission) {
		p.Kind, p.Hint = problem.Permission, "run it as root; --print only shows the file"
	}
	return p
}

// nearest is the directory, or the last one above it that exists.
func nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// make makes the directory of the volume, the file and the identity. If one of them fails, those before it are taken back.
func (c *initCommand) make(e *env, cfg *config.Config, text string, form *setup.Form) (err error) {
	var undo []func()
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			undo[i]()
		}
	}()
	said := ""
	dir := form.Answers.Path
	switch err := os.Mkdir(dir, 0o755); {
	case err == nil:
		undo = append(undo, func() { _ = os.Remove(dir) }) // only if it is empty
		said = "made " + dir + "\n"
	case !errors.Is(err, fs.ErrExist):
		return unwritten(dir, err)
	}
	kept, back, err := writeNew(c.Out, text, c.Force)
	if err != nil {
		return err
	}
	undo = append(undo, back)
	if err := peer.Init(e.state, cfg.Cluster, cluster.NodeID(c.Node)); err != nil {
		return err
	}
	undo = nil // from here on there is an identity that belongs to the file
	if err := keepConfig(e.state, c.Out); err != nil {
		return err
	}
	cfg.Warnings = append(cfg.Warnings, form.Advice()...)
	said += "wrote " + c.Out + "\n"
	if kept != "" {
		said += "the one before is " + kept + "\n"
	}
	return c.made(e, cfg, said, initAnswer{Config: c.Out, Kept: kept})
}

const (
	// configMode: it names files with secrets and how machines are woken, which is nobody's business who has no part in it.
	configMode = 0o640
	// maxKept bounds the names that are tried for a former file.
	maxKept = 100
)

// writeNew writes a file as a whole, durably. One that was there stays unless force is said, and then under the
// name kept. back takes it all back.
func writeNew(path, text string, force bool) (kept string, back func(), err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, unwritten(path, err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-")
	if err != nil {
		return "", nil, unwritten(path, err)
	}
	defer os.Remove(f.Name()) // gone already if it has its name
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Chmod(configMode), f.Sync(), f.Close()); err != nil {
		return "", nil, unwritten(path, err)
	}
	if force {
		if kept, err = keepBeside(path); err != nil {
			return "", nil, unwritten(path, err)
		}
	}
	if kept != "" {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path) // unlike a rename it refuses if somebody was faster
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return "", nil, exists(path)
	case err != nil:
		return "", nil, unwritten(path, err)
	}
	back = func() {
		if kept != "" {
			_ = os.Rename(kept, path)
		} else {
			_ = os.Remove(path)
		}
	}
	if err := syncDir(dir); err != nil {
		back()
		return "", nil, unwritten(path, err)
	}
	return kept, back, nil
}

// keepBeside gives a file a second name that nothing has; "" if there is no file.
func keepBeside(path string) (string, error) {
	for i := range maxKept {
		name := path + ".old"
		if i > 0 {
			name += fmt.Sprintf(".%d", i)
		}
		switch err := os.Link(path, name); {
		case err == nil:
			return name, nil
		case errors.Is(err, fs.ErrNotExist):
			return "", nil
		case !errors.Is(err, fs.ErrExist):
			return "", err
		}
	}
	return "", fmt.Errorf("%d former files are beside it already", maxKept)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
