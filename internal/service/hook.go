package service

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"revolve/internal/cluster"
)

const (
	// hookQuiet is how long nothing must have changed before the command runs: an editor's save is several changes.
	hookQuiet = 200 * time.Millisecond
	// hookMost is how long changes that do not end may put it off.
	hookMost = 2 * time.Second
	// hookLimit bounds one run: a reload that takes a minute hangs.
	hookLimit = time.Minute
	// hookPaths bounds the paths told by name; the command is told that there were more.
	hookPaths = 10_000
)

// HookOptions say what to run, and what it is told.
type HookOptions struct {
	Volume  cluster.VolumeID
	Command string          // for sh -c
	Env     func() []string // what it finds in its environment besides the agent's own; asked before every run
	Log     *slog.Logger
}

// Hook runs a volume's command after changes.
type Hook struct {
	o    HookOptions
	wake chan struct{} // holds one token when something may be due

	mu      sync.Mutex
	batch   batch
	failure string
}

// NewHook prepares a hook; Run works.
func NewHook(o HookOptions) *Hook { return &Hook{o: o, wake: make(chan struct{}, 1)} }

// Changed notes paths that changed. It never blocks.
func (h *Hook) Changed(paths ...string) {
	h.mu.Lock()
	h.batch.add(time.Now(), paths)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Failure is why the last run failed, "" if it did not.
func (h *Hook) Failure() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failure
}

// Run runs the command whenever it is due, until ctx ends.
func (h *Hook) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		}
		for {
			h.mu.Lock()
			wait, any := h.batch.due(time.Now())
			h.mu.Unlock()
			if !any {
				break
			}
			if wait > 0 {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(wait):
				}
				continue
			}
			h.mu.Lock()
			paths, more := h.batch.take()
			h.mu.Unlock()
			h.once(ctx, paths, more)
		}
	}
}

// once runs the command and remembers how it ended.
func (h *Hook) once(ctx context.Context, paths []string, more bool) {
	began := time.Now()
	out, err := h.exec(ctx, paths, more)
	if ctx.Err() != nil {
		return
	}
	text := ""
	if err != nil {
		text = fmt.Sprintf("on_change %q: %v", h.o.Command, err)
		if out = strings.TrimSpace(out); out != "" {
			text += ": " + out
		}
		h.o.Log.Warn("the command of a volume failed; it runs again at the next change", "volume", h.o.Volume, "command", h.o.Command, "err", err, "output", out)
	} else {
		h.o.Log.Debug("ran the command of a volume", "volume", h.o.Volume, "paths", len(paths), "took", time.Since(began).Round(time.Millisecond))
	}
	h.mu.Lock()
	h.failure = text
	h.mu.Unlock()
}

func (h *Hook) exec(ctx context.Context, paths []string, more bool) (output string, err error) {
	env := h.o.Env()
	if more {
		env = append(env, "REVOLVE_MORE=1")
	}
	return shell(ctx, hookLimit, h.o.Command, env, joined(paths))
}

// joined is the list as the command reads it: each name and a zero byte.
func joined(paths []string) string {
	if len(paths) == 0 {
		return ""
	}
	return strings.Join(paths, "\x00") + "\x00"
}

// batch gathers changes until they are quiet. It is pure: time comes in as a value.
type batch struct {
	paths       []string
	seen        map[string]bool
	more        bool
	first, last time.Time
}

func (b *batch) add(now time.Time, paths []string) {
	if len(paths) == 0 {
		return
	}
	if b.first.IsZero() {
		b.first, b.seen = now, map[string]bool{}
	}
	b.last = now
	for _, p := range paths {
		switch {
		case b.seen[p]:
		case len(b.paths) >= hookPaths:
			b.more = true
		default:
			b.seen[p] = true
			b.paths = append(b.paths, p)
		}
	}
}

// due says how long to wait, 0 if it is time; any is false if nothing changed.
func (b *batch) due(now time.Time) (wait time.Duration, any bool) {
	if b.first.IsZero() {
		return 0, false
	}
	at := b.last.Add(hookQuiet)
	if most := b.first.Add(hookMost); most.Before(at) {
		at = most
	}
	return max(0, at.Sub(now)), true
}

func (b *batch) take() (paths []string, more bool) {
	paths, more = b.paths, b.more
	*b = batch{}
	return paths, more
}
