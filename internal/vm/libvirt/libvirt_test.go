package libvirt

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/problem"
)

// A daemon that takes the connection and never answers costs one question, and no longer than its caller waits.
func TestSilentDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b := make([]byte, 4096)
		_, _ = c.Read(b) // it has asked
		cancel()
		_, _ = c.Read(b) // until it has gone
		c.Close()
	}()
	done := make(chan error, 1)
	go func() {
		_, err := At(socket).Machines(ctx)
		done <- err
	}()
	select {
	case err := <-done:
		if problem.KindOf(err) != problem.Unavailable {
			t.Errorf("%v (%v)", err, problem.KindOf(err))
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for ever")
	}
}

// No daemon: the next step is told.
func TestNoDaemon(t *testing.T) {
	_, err := At(filepath.Join(t.TempDir(), "none")).Machines(t.Context())
	if problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) == "" || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
