package libvirt

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	lib "github.com/digitalocean/go-libvirt"

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

// A machine whose state cannot be told is neither off nor left out; one that went away is.
func TestStates(t *testing.T) {
	domains := []lib.Domain{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	answer := func(err error) func(lib.Domain, uint32) (int32, int32, error) {
		return func(d lib.Domain, _ uint32) (int32, int32, error) {
			if d.Name == "b" {
				return 0, 0, err
			}
			return int32(lib.DomainRunning), 0, nil
		}
	}
	if list, err := states(domains, answer(lib.Error{Code: uint32(lib.ErrNoDomain)})); err != nil || len(list) != 2 {
		t.Errorf("one that went away: %v, %v", list, err)
	}
	if list, err := states(domains, answer(errors.New("a timeout"))); err == nil || len(list) > 0 {
		t.Errorf("one that cannot be told: %v, %v", list, err)
	}
}

// No daemon: the next step is told.
func TestNoDaemon(t *testing.T) {
	_, err := At(filepath.Join(t.TempDir(), "none")).Machines(t.Context())
	if problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) == "" || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
