package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// shellOutput is how much of the end of a command's output is kept.
	shellOutput = 2 << 10
	// shellGrace is how long a command that was told to end may take to do so.
	shellGrace = 5 * time.Second
)

// shell runs a command for at most limit, and gives the end of its output.
func shell(ctx context.Context, limit time.Duration, command string, env []string, input string) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(input)
	var tail tail
	cmd.Stdout, cmd.Stderr = &tail, &tail
	// A group of its own: what it started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = shellGrace
	err = cmd.Run()
	if cmd.Process != nil && (err != nil || ctx.Err() != nil) {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever did not listen
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("not done after %v", limit)
	case errors.Is(err, syscall.EPIPE), errors.Is(err, exec.ErrWaitDelay):
		err = nil // it did not read its input, or left something behind that holds its output: both are its own affair
	}
	return tail.String(), err
}

// tail keeps the end of what is written.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - shellOutput; n > 0 {
		t.b = bytes.Clone(t.b[n:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
