package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

func TestBatch(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }
	var b batch
	if _, any := b.due(at(0)); any {
		t.Error("due without a change")
	}
	b.add(at(0), []string{"a"})
	b.add(at(150), []string{"b", "a"})
	if wait, any := b.due(at(150)); !any || wait != hookQuiet {
		t.Errorf("wait %v", wait)
	}
	if wait, _ := b.due(at(350)); wait != 0 {
		t.Errorf("quiet, and wait %v", wait)
	}
	for ms := 150; ms < 5000; ms += 100 { // changes that do not end
		b.add(at(ms), []string{"c"})
	}
	if wait, _ := b.due(at(2000)); wait != 0 {
		t.Errorf("after the longest wait still %v", wait)
	}
	paths, more := b.take()
	if diff := cmp.Diff([]string{"a", "b", "c"}, paths); diff != "" || more {
		t.Error(diff, more)
	}
	if _, any := b.due(at(9000)); any {
		t.Error("due after it was taken")
	}
	for i := range hookPaths + 5 {
		b.add(at(0), []string{fmt.Sprint(i)})
	}
	if paths, more := b.take(); len(paths) != hookPaths || !more {
		t.Errorf("%d paths, more %v", len(paths), more)
	}
}

// hooked runs a hook until the test ends.
func hooked(t *testing.T, command string) *Hook {
	h := NewHook(HookOptions{Volume: "v", Command: command, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Env: func() []string { return []string{"REVOLVE_VOLUME=v", "REVOLVE_ROLE=standby"} }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return h
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// TestHookIsToldWhatChanged: once for what comes together, with names of any bytes.
func TestHookIsToldWhatChanged(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	h := hooked(t, `{ echo "run $REVOLVE_VOLUME $REVOLVE_ROLE"; tr '\000' '\n'; } >> `+out)
	h.Changed("a", "odd \xff name")
	h.Changed("b")
	read := func() string {
		b, _ := os.ReadFile(out)
		return string(b)
	}
	eventually(t, "the run", func() bool { return strings.HasSuffix(read(), "b\n") })
	h.Changed("c")
	eventually(t, "the second run", func() bool { return strings.HasSuffix(read(), "c\n") })
	if diff := cmp.Diff("run v standby\na\nodd \xff name\nb\nrun v standby\nc\n", read()); diff != "" {
		t.Error(diff)
	}
}

func TestHookFails(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "good")
	h := hooked(t, "test -e "+marker+" || { echo no such zone >&2; exit 3; }")
	h.Changed("x")
	eventually(t, "the failure", func() bool { return h.Failure() != "" })
	for _, want := range []string{"exit status 3", "no such zone"} {
		if !strings.Contains(h.Failure(), want) {
			t.Errorf("%q does not say %q", h.Failure(), want)
		}
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.Changed("y")
	eventually(t, "the next run to be fine", func() bool { return h.Failure() == "" })
}

// TestHookEndsWithTheAgent: with all that it started.
func TestHookEndsWithTheAgent(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	h := NewHook(HookOptions{Volume: "v", Command: "sleep 1000 & echo $! > " + pid + ".new; mv " + pid + ".new " + pid + "; wait", Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Env: func() []string { return nil }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = h.Run(ctx) }()
	h.Changed("x")
	child := ""
	eventually(t, "the command to run", func() bool {
		b, err := os.ReadFile(pid)
		child = strings.TrimSpace(string(b))
		return err == nil
	})
	cancel()
	<-done
	eventually(t, "its child to end", func() bool {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

func TestTailIsBounded(t *testing.T) {
	var x tail
	for range 100 {
		fmt.Fprint(&x, strings.Repeat("x", 1000))
	}
	fmt.Fprint(&x, "end")
	if s := x.String(); len(s) != shellOutput || !strings.HasSuffix(s, "end") {
		t.Errorf("%d bytes, ending in %q", len(s), s[len(s)-5:])
	}
}
