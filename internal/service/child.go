package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// stopGrace is how long a child that was told to end (SIGTERM) may take before it is killed.
	stopGrace = 5 * time.Second
	// groupPoll is how often a group that ends is looked at.
	groupPoll = 20 * time.Millisecond
	// killWait bounds the wait for what was killed: in an uninterruptible sleep it may stay.
	killWait = time.Second
	// markVariable names the child in its environment, for whoever finds it again.
	markVariable = "REVOLVE_SERVICE"
)

// errEnded is the end of a child that was told to end.
var errEnded = errors.New("ended with the agent")

// child is a command that we run ourselves.
//
// It is not tied to the agent's life by a signal (prctl(2), PR_SET_PDEATHSIG):
// daemons that give up root lose that setting, and it would reach only the first
// process. Instead it is remembered on disk and marked in its environment, and
// an agent that starts ends what a former one left running.
type child struct {
	name, command, dir string
	log                *slog.Logger
}

// memory is what is remembered of a child: a process group, and when its first
// process was started, so that another process of that number is not taken for it.
type memory struct {
	Group int    `json:"group"`
	Start uint64 `json:"start"` // in clock ticks since boot (proc_pid_stat(5), field 22)
	Boot  string `json:"boot"`
}

func (c *child) file() string { return filepath.Join(c.dir, c.name+".json") }
func (c *child) mark() string { return markVariable + "=" + filepath.Join(c.dir, c.name) }

// run runs the command until it ends or ctx does, and leaves nothing of it
// behind. started is called when it runs.
func (c *child) run(ctx context.Context, env []string, started func()) error {
	lines := newLines(c.log)
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", c.command)
	cmd.Env = append(append(os.Environ(), env...), c.mark())
	cmd.Stdout, cmd.Stderr = lines, lines
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	grace := stopGrace
	var told time.Time
	cmd.Cancel = func() error {
		told = time.Now()
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	cmd.WaitDelay = grace
	if err := cmd.Start(); err != nil {
		return reasonf("it cannot be started: %w", err)
	}
	if err := c.remember(cmd.Process.Pid); err != nil {
		c.log.Warn("the child cannot be remembered; after a crash of the agent it is found by its environment only", "err", err)
	}
	started()
	err := cmd.Wait()
	lines.flush()
	if !told.IsZero() {
		grace -= time.Since(told)
	}
	c.endGroup(cmd.Process.Pid, grace)
	if err := os.Remove(c.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("the memory of the child cannot be removed", "err", err)
	}
	if ctx.Err() != nil {
		return errEnded
	}
	last := ""
	if len(lines.last) > 0 {
		last = ": " + strings.Join(lines.last, " | ")
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return reasonf("it ended by itself (a service stays in the foreground)%s", last)
	}
	return reasonf("it ended: %w%s", err, last)
}

// endGroup ends what is left of a process group: in order, then not.
func (c *child) endGroup(group int, grace time.Duration) {
	if syscall.Kill(-group, syscall.SIGTERM) != nil {
		return // nothing is left
	}
	if !gone(group, grace) {
		c.log.Warn("service did not end on SIGTERM and is killed")
		_ = syscall.Kill(-group, syscall.SIGKILL) // it may have ended just now
		gone(group, killWait)
	}
}

// gone waits until no process of the group runs any more; those that ended and wait to be reaped by init do not count.
func gone(group int, within time.Duration) bool {
	for late := time.Now().Add(within); ; time.Sleep(groupPoll) {
		if syscall.Kill(-group, 0) != nil {
			return true
		}
		if running, err := processes(func(p process) bool { return p.group == group }); err == nil && len(running) == 0 {
			return true
		}
		if time.Now().After(late) {
			return false
		}
	}
}

func (c *child) remember(pid int) error {
	p, err := look(pid)
	if err != nil {
		return err
	}
	b, err := json.Marshal(memory{Group: pid, Start: p.start, Boot: bootID()})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(c.file(), b, 0o600) // not synced: after a loss of power there is no such process either
}

// endOld ends what a former agent left running, and says how many processes that were.
func (c *child) endOld() (int, error) {
	var m memory
	b, err := os.ReadFile(c.file())
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m.Boot != bootID() {
		m = memory{} // torn or of another life: the mark in the environment remains
	}
	if leader, err := look(m.Group); m.Group > 0 && err == nil && leader.start != m.Start {
		m = memory{} // the number is another's now
	}
	mark := []byte(c.mark())
	old, err := processes(func(p process) bool {
		return p.pid != os.Getpid() && (m.Group > 0 && p.group == m.Group && p.start >= m.Start || p.marked(mark))
	})
	if err != nil {
		return 0, err
	}
	ended := map[int]bool{}
	for _, p := range old {
		if !ended[p.group] && p.group != syscall.Getpgrp() {
			ended[p.group] = true
			c.endGroup(p.group, stopGrace)
		}
	}
	if err := os.Remove(c.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return len(old), err
	}
	return len(old), nil
}

// process is one that runs (proc_pid_stat(5)).
type process struct {
	pid, group int
	start      uint64
}

// processes are those for which want is true, zombies aside.
func processes(want func(process) bool) (out []process, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := look(pid); err == nil && want(p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func look(pid int) (process, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	return parseStat(pid, string(b))
}

// parseStat reads what follows the name, which may itself contain anything.
func parseStat(pid int, stat string) (process, error) {
	const state, group, start = 0, 2, 19 // fields behind the name
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) <= start || f[state] == "Z" || f[state] == "X" {
		return process{}, fs.ErrNotExist
	}
	g, err := strconv.Atoi(f[group])
	if err != nil {
		return process{}, err
	}
	at, err := strconv.ParseUint(f[start], 10, 64)
	return process{pid, g, at}, err
}

// marked reports whether the process was started with mark in its environment.
func (p process) marked(mark []byte) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
	if err != nil {
		return false // it has gone, or is not ours to look at
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if bytes.Equal(v, mark) {
			return true
		}
	}
	return false
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

const (
	// maxLine is how much of a line goes into the log.
	maxLine = 1 << 10
	// linesAtOnce and linesPer bound a talkative service: so many lines at once, then so many per second.
	linesAtOnce = 100
	linesPer    = 10
	// lastLines of its output are told when it ends: the very last one seldom has the reason.
	lastLines = 3
)

// lines puts a child's output into the log, line by line, and not more than the log can bear.
type lines struct {
	log *slog.Logger

	mu      sync.Mutex
	part    []byte
	last    []string // lines, for the reason of an end
	tokens  float64
	at      time.Time
	dropped int
}

func newLines(log *slog.Logger) *lines { return &lines{log: log, tokens: linesAtOnce, at: time.Now()} }

// Write never fails.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		if room := maxLine - len(l.part); room > 0 {
			l.part = append(l.part, line[:min(room, len(line))]...)
		}
		if rest = after; ended {
			l.put(time.Now())
		}
	}
	return len(p), nil
}

// flush puts out what has no end of line.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(time.Now())
}

func (l *lines) put(now time.Time) {
	text := strings.ToValidUTF8(strings.TrimSpace(string(l.part)), "?")
	l.part = l.part[:0]
	if text == "" {
		return
	}
	l.last = append(l.last, text)
	l.last = l.last[max(0, len(l.last)-lastLines):]
	l.tokens = min(linesAtOnce, l.tokens+linesPer*now.Sub(l.at).Seconds())
	l.at = now
	if l.tokens < 1 {
		l.dropped++
		return
	}
	l.tokens--
	if l.dropped > 0 {
		l.log.Info("lines of the service's output were left out", "count", l.dropped)
		l.dropped = 0
	}
	l.log.Info("service says", "line", text)
}
