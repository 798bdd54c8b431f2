package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/mirror/watch"
)

// Seen is when a change on a volume became known.
type Seen string

// When a change is seen.
const (
	AtOnce  Seen = "at-once"
	AtClose Seen = "at-close" // when the file is closed, and unmapped
	Never   Seen = "never"
	Untried Seen = "untried" // this filesystem or kernel, or these privileges, refuse the change itself
)

// Sight is one kind of change that was made on a volume's own mount, and when
// the watcher that the agent uses told of it.
type Sight struct {
	Volume string `json:"volume"`
	What   string `json:"what"`
	Seen   Seen   `json:"seen"`
	Note   string `json:"note,omitempty"` // why it could not be tried
	covers string // if it is not seen at once: what it means, and what covers it
}

const (
	ownDir = ".revolve"
	// trialDir is where changes are tried: in the volume's own directory, which is never mirrored.
	trialDir = ownDir + "/doctor-"
	// trialAge is how old the trial of a doctor that was killed must be before it is swept: none takes this long.
	trialAge = time.Hour
	// trialWithin bounds all trials on a volume: they take milliseconds on a disk that answers.
	trialWithin = 30 * time.Second
)

// trial is a directory for trying things on a volume, and how to be rid of it.
type trial struct {
	top  *os.Root
	dir  *os.File
	name string
	own  bool // .revolve was made for it
}

// newTrial makes a directory that only this user may enter. Everything below is
// reached through its descriptor, so nobody can swap it for something else.
func newTrial(volume string) (*trial, error) {
	top, err := os.OpenRoot(volume)
	if err != nil {
		return nil, err
	}
	t := &trial{top: top, name: trialDir + strconv.FormatInt(time.Now().UnixNano(), 36)}
	err = top.Mkdir(ownDir, 0o700)
	t.own = err == nil
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = t.enter()
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *trial) enter() error {
	info, err := t.top.Lstat(ownDir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", ownDir)
	}
	t.sweep()
	if err := t.top.Mkdir(t.name, 0o700); err != nil {
		return err
	}
	t.dir, err = t.top.Open(t.name)
	return err
}

// sweep removes what a doctor that was killed left.
func (t *trial) sweep() {
	entries, err := fs.ReadDir(t.top.FS(), ownDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := ownDir + "/" + e.Name()
		if info, err := e.Info(); err == nil && strings.HasPrefix(name, trialDir) && time.Since(info.ModTime()) > trialAge {
			_ = t.top.RemoveAll(name)
		}
	}
}

// path is the directory, wherever it is.
func (t *trial) path() string { return fmt.Sprintf("/proc/self/fd/%d", t.dir.Fd()) }

func (t *trial) close() {
	if t.dir != nil {
		_ = t.dir.Close()
	}
	_ = t.top.RemoveAll(t.name)
	if t.own {
		_ = t.top.Remove(ownDir) // only if it is empty
	}
	_ = t.top.Close()
}

// look makes every kind of change below dir, an absolute path, and says when the
// watcher told of it. "" chooses the backend as the agent does.
func look(ctx context.Context, dir string, backend watch.Backend) ([]Sight, watch.Backend, error) {
	ctx, cancel := context.WithTimeout(ctx, trialWithin)
	defer cancel()
	w, err := watch.Open(watch.Options{Root: dir, Backend: backend, KeepOwn: true})
	if err != nil {
		return nil, "", err
	}
	defer w.Close()
	e := &eye{w: w, dir: dir}
	g, gctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(gctx)
	g.Go(func() error { return w.Run(running, e.take) })
	g.Go(func() error {
		defer stop()
		for !e.open(gctx) {
			if gctx.Err() != nil {
				return gctx.Err()
			}
		}
		for i, p := range changes() {
			s, err := e.try(gctx, strconv.Itoa(i), p)
			if err != nil {
				return err
			}
			e.sights = append(e.sights, s)
		}
		return nil
	})
	err = g.Wait()
	return e.sights, w.Backend(), err
}

// eye is what the watcher said.
type eye struct {
	w      *watch.Watcher
	dir    string
	sights []Sight

	mu   sync.Mutex
	said []watch.Event
}

func (e *eye) take(batch []watch.Event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.said = append(e.said, batch...)
	return nil
}

// open reports whether the watcher's task runs already.
func (e *eye) open(ctx context.Context) bool { return e.w.Drain(ctx) == nil }

// drained is everything that was said since the last time.
func (e *eye) drained(ctx context.Context) ([]watch.Event, error) {
	if err := e.w.Drain(ctx); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	said := e.said
	e.said = nil
	return said, nil
}

// try makes one change in a directory of its own.
func (e *eye) try(ctx context.Context, name string, c change) (Sight, error) {
	s := Sight{What: c.what, covers: c.covers}
	d := filepath.Join(e.dir, name)
	if err := errors.Join(os.Mkdir(d, 0o700), c.prepare(d)); err != nil {
		s.Seen, s.Note = Untried, cause(err)
		return s, nil
	}
	if _, err := e.drained(ctx); err != nil {
		return s, err
	}
	end, err := c.do(d)
	if err != nil {
		s.Seen, s.Note = Untried, cause(err)
		return s, nil
	}
	said, err := e.drained(ctx)
	if err != nil {
		return s, errors.Join(err, end())
	}
	if err := end(); err != nil {
		return s, err
	}
	late, err := e.drained(ctx)
	switch {
	case err != nil:
		return s, err
	case slices.ContainsFunc(append(said, late...), func(ev watch.Event) bool { return ev.Kind == watch.Overflow }):
		s.Seen, s.Note = Untried, "so much happens on this filesystem that changes were lost; try again when it is quiet"
	case told(said, name, c):
		s.Seen = AtOnce
	case told(late, name, c):
		s.Seen = AtClose
	default:
		s.Seen = Never
	}
	return s, nil
}

// cause is an error without the paths and addresses, which were said already.
func cause(err error) string {
	var p *fs.PathError
	var l *os.LinkError
	var n *net.OpError
	switch {
	case errors.As(err, &n):
		return n.Err.Error()
	case errors.As(err, &p):
		return p.Err.Error()
	case errors.As(err, &l):
		return l.Err.Error()
	}
	return err.Error()
}

// told reports whether an event lets the mirror carry the change: the event
// itself, or one that has it look at everything around.
func told(said []watch.Event, dir string, c change) bool {
	want := filepath.Join(dir, c.path)
	for _, ev := range said {
		switch {
		case ev.Kind == c.kind && ev.Path == want:
			return true
		case ev.Kind == watch.Dirty && ev.Tree && (ev.Path == want || strings.HasPrefix(want, ev.Path+"/")):
			return true
		}
	}
	return false
}
