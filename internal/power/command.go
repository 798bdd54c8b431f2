package power

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// This file is commands of the configuration. What they leave running goes on.

const (
	// commandWithin bounds a command that powers a machine on, and a conversation with a management controller.
	commandWithin = time.Minute
	// failsWithin is how long a command that powers this machine off may take to say that it cannot.
	failsWithin = 10 * time.Second
	// saidMost is how much of what a command says is told.
	saidMost = 300
)

// run has the shell run a command. What it says is told if it fails. What it left running in the background is not waited for.
func run(ctx context.Context, command string) error {
	var said bytes.Buffer
	c := exec.CommandContext(ctx, "sh", "-c", command)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.Stdout, c.Stderr = &limited{&said}, &limited{&said}
	c.WaitDelay = time.Second
	err := c.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && c.ProcessState.Success() {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end within %s", commandWithin)
	}
	return withWords(err, said.Bytes())
}

// limited keeps the beginning of what is written.
type limited struct{ b *bytes.Buffer }

// Write never fails.
func (l *limited) Write(p []byte) (int, error) {
	if room := 2*saidMost - l.b.Len(); room > 0 {
		l.b.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

func withWords(err error, said []byte) error {
	text := strings.TrimSpace(strings.ToValidUTF8(string(said), "?"))
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.ToValidUTF8(text[:min(len(text), saidMost)], ""))
}

// begun runs its first argument in a session of its own, which nobody waits for, and says on descriptor 3 how it ended.
const begun = `(sh -c "$1" </dev/null >&4 2>&1 3>&-; echo $? >&3) &`

// Begin runs a command that powers this machine off, which may end this program, too. It waits a while for whether the
// command fails; one that takes longer goes on, and counts as well begun.
func Begin(ctx context.Context, command string) error {
	words, err := os.CreateTemp("", "revolve-off-")
	if err != nil {
		return err
	}
	defer words.Close()
	if err := os.Remove(words.Name()); err != nil {
		return err
	}
	status, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer status.Close()
	c := exec.Command("sh", "-c", begun, "revolve", command)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.ExtraFiles = []*os.File{end, words}
	err = c.Run()
	if err := errors.Join(err, end.Close()); err != nil {
		return err
	}
	late := time.Now().Add(failsWithin)
	if d, ok := ctx.Deadline(); ok && d.Before(late) {
		late = d
	}
	if err := status.SetReadDeadline(late); err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(status, 8))
	switch code := strings.TrimSpace(string(text)); {
	case errors.Is(err, os.ErrDeadlineExceeded) && code == "", code == "0":
		return nil
	case err != nil && code == "":
		return err
	case code == "":
		return errors.New("it was killed")
	default:
		said := make([]byte, 2*saidMost)
		n, _ := words.ReadAt(said, 0)
		return withWords(fmt.Errorf("exit status %s", code), said[:n])
	}
}
