package peer

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeadPathsAreNotWaitedFor: which paths are tried, when, and what is left behind.
func TestDeadPathsAreNotWaitedFor(t *testing.T) {
	refused := errors.New("refused")
	hangs := func(ctx context.Context) (net.Conn, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(connectTimeout):
			return nil, errors.New("no answer")
		}
	}
	fails := func(context.Context) (net.Conn, error) { return nil, refused }
	for name, c := range map[string]struct {
		paths []func(context.Context) (net.Conn, error)
		tried []int // all that was begun
		wins  int   // -1: none
		after time.Duration
	}{
		"the first works":        {[]func(context.Context) (net.Conn, error){works(0), works(0)}, []int{0}, 0, 0},
		"the first is slow":      {[]func(context.Context) (net.Conn, error){works(nextPathAfter / 2), works(0)}, []int{0}, 0, nextPathAfter / 2},
		"the first is dead":      {[]func(context.Context) (net.Conn, error){hangs, works(0)}, []int{0, 1}, 1, nextPathAfter},
		"two are dead":           {[]func(context.Context) (net.Conn, error){hangs, hangs, works(0)}, []int{0, 1, 2}, 2, 2 * nextPathAfter},
		"the first refuses":      {[]func(context.Context) (net.Conn, error){fails, works(0)}, []int{0, 1}, 1, 0},
		"the slow one after all": {[]func(context.Context) (net.Conn, error){works(2 * nextPathAfter), hangs}, []int{0, 1}, 0, 2 * nextPathAfter},
		"none works":             {[]func(context.Context) (net.Conn, error){hangs, fails, hangs}, []int{0, 1, 2}, -1, nextPathAfter + connectTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var mu sync.Mutex
				var tried []int
				r := newRace(t.Context(), len(c.paths), func(ctx context.Context, i int) (net.Conn, error) {
					mu.Lock()
					tried = append(tried, i)
					mu.Unlock()
					return c.paths[i](ctx)
				})
				won := -1
				for i, _, err, more := r.next(); more; i, _, err, more = r.next() {
					if err == nil {
						won = i
						break
					}
				}
				if took := time.Since(began); took != c.after {
					t.Errorf("it took %v, not %v", took, c.after)
				}
				r.end()
				if won != c.wins || !slices.Equal(tried, c.tried) {
					t.Errorf("%d won of %v, want %d of %v", won, tried, c.wins, c.tried)
				}
			})
		})
	}
}

// works connects after a while.
func works(after time.Duration) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(after):
		}
		a, b := net.Pipe()
		return a, b.Close()
	}
}

// TestLateWinnersAreClosed: of two paths that answer, only one stays open.
func TestLateWinnersAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, far := net.Pipe()
		r := newRace(t.Context(), 2, func(ctx context.Context, i int) (net.Conn, error) {
			if i == 0 { // it has just connected when it is told that another one was first
				<-ctx.Done()
				return a, nil
			}
			return works(0)(ctx)
		})
		if i, _, err, _ := r.next(); i != 1 || err != nil {
			t.Fatalf("path %d: %v", i, err)
		}
		r.end()
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("what came too late is still open")
		}
	})
}
