package agent

import (
	"context"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"revolve/internal/sdnotify"
)

// TestStuckLoopIsNotAlive: systemd hears a sign of life only while both main loops
// go round: the one that says the word, and the one that takes the reports in.
func TestStuckLoopIsNotAlive(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "40000")
	a := &Agent{o: Options{Notify: sdnotify.FromEnvironment()}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	var wordHangs, reportHangs atomic.Bool
	go func() {
		for ctx.Err() == nil {
			if !wordHangs.Load() {
				a.words.Add(1)
			}
			if !reportHangs.Load() {
				a.reports.Add(1)
			}
			time.Sleep(time.Millisecond)
		}
		ended <- nil
	}()
	go func() { ended <- a.liveness(ctx) }()
	defer func() { cancel(); <-ended; <-ended }()
	next := func(within time.Duration) string {
		b := make([]byte, 64)
		if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(b)
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	if got := next(10 * time.Second); got != "READY=1" {
		t.Fatalf("first comes %q", got)
	}
	for what, hangs := range map[string]*atomic.Bool{"the word": &wordHangs, "the reports": &reportHangs} {
		if got := next(10 * time.Second); got != "WATCHDOG=1" {
			t.Fatalf("while everything goes round comes %q", got)
		}
		hangs.Store(true)
		for range 1000 { // what was on its way, until there is silence
			if next(200*time.Millisecond) == "" {
				break
			}
		}
		if got := next(300 * time.Millisecond); got != "" {
			t.Errorf("while %s hangs comes %q", what, got)
		}
		hangs.Store(false)
	}
}
