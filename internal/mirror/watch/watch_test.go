package watch

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// recorder runs a watcher and keeps what it emits.
type recorder struct {
	t      *testing.T
	w      *Watcher
	cancel context.CancelFunc
	done   chan error

	mu     sync.Mutex
	events []Event
}

// watching opens a watcher without running it.
func watching(t *testing.T, o Options) *recorder {
	t.Helper()
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{t: t, w: w}
	t.Cleanup(r.close)
	return r
}

func (r *recorder) close() {
	r.stop()
	if err := r.w.Close(); err != nil {
		r.t.Error(err)
	}
}

func (r *recorder) start(also func(Event)) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan error, 1)
	go func() {
		r.done <- r.w.Run(ctx, func(batch []Event) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, batch...)
			for _, e := range batch {
				if also != nil {
					also(e)
				}
			}
			return nil
		})
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		r.w.mu.Lock()
		state := r.w.state
		r.w.mu.Unlock()
		if state != idle {
			return r
		}
		if time.Now().After(deadline) {
			r.t.Fatal("Run never began")
		}
	}
}

func (r *recorder) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		r.t.Error("Run does not end")
	}
	r.cancel = nil
}

// drained returns everything emitted since the last call, after a Drain.
func (r *recorder) drained() []Event {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.w.Drain(ctx); err != nil {
		r.t.Fatalf("Drain: %v", err)
	}
	return r.take()
}

func (r *recorder) take() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.events
	r.events = nil
	return out
}

// until polls for an event that satisfies want.
func (r *recorder) until(what string, want func(Event) bool) {
	r.t.Helper()
	var seen []Event
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, e := range r.take() {
			if want(e) {
				return
			}
			seen = append(seen, e)
		}
	}
	r.t.Fatalf("no event %s; got %v", what, seen)
}

func lines(events []Event) string {
	var s []string
	for _, e := range events {
		s = append(s, e.String())
	}
	return strings.Join(s, "; ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// backends are those that work in dir; saying why one does not.
func backends(t *testing.T, dir string) []Backend {
	w, err := Open(Options{Root: dir, Backend: Fanotify})
	if err != nil {
		t.Logf("SKIPPED PART: fanotify in %s: %v", dir, err)
		return []Backend{Inotify}
	}
	must(t, w.Close())
	return []Backend{Fanotify, Inotify}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "x")
	for _, c := range []struct {
		root string
		kind problem.Kind
	}{
		{filepath.Join(dir, "missing"), problem.NotFound},
		{file, problem.Invalid},
		{"relative", problem.Invalid},
	} {
		if _, err := Open(Options{Root: c.root}); err == nil || problem.KindOf(err) != c.kind || problem.HintOf(err) == "" {
			t.Errorf("Open(%s): %v (kind %s), want kind %s and a hint", c.root, err, problem.KindOf(err), c.kind)
		}
	}
}

func TestDrainNeedsRun(t *testing.T) {
	r := watching(t, Options{Root: t.TempDir()})
	if err := r.w.Drain(t.Context()); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("before Run: %v", err)
	}
	r.start(nil)
	r.drained()
	r.stop()
	if err := r.w.Drain(t.Context()); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("after Run: %v", err)
	}
}

// TestDrainSeesLastClose writes and drains again and again: each close(2) that
// returned before Drain must have been emitted when Drain returns.
func TestDrainSeesLastClose(t *testing.T) {
	dir := t.TempDir()
	for _, b := range backends(t, dir) {
		t.Run(string(b), func(t *testing.T) {
			r := watching(t, Options{Root: dir, Backend: b, KeepOwn: true}).start(nil)
			for i := range 300 {
				name := "f" + itoa(i%7)
				write(t, filepath.Join(dir, name), itoa(i))
				got := r.drained()
				if len(got) == 0 || got[len(got)-1].Path != name {
					t.Fatalf("round %d: no event for %s: %s", i, name, lines(got))
				}
			}
		})
	}
}

// TestDrainOfALongQueue: everything that was queued is told before Drain returns, also when that is
// more than one reading takes (fanotify's FIONREAD counts less than a reading does).
func TestDrainOfALongQueue(t *testing.T) {
	const files = 12_000
	for _, b := range backends(t, t.TempDir()) {
		t.Run(string(b), func(t *testing.T) {
			vol := newVolume(t, t.TempDir(), "vol")
			r := watching(t, Options{Root: vol, Backend: b, KeepOwn: true})
			for i := range files {
				must(t, os.WriteFile(filepath.Join(vol, strconv.Itoa(i)), nil, 0o600))
			}
			told := map[string]bool{}
			overflow := false
			for _, e := range r.start(nil).drained() {
				told[e.Path] = true
				overflow = overflow || e.Kind == Overflow
			}
			if len(told) < files && !overflow {
				t.Errorf("%d of %d files were told before the drain was over", len(told), files)
			}
		})
	}
}

// TestDrainOfWhatWasReadAhead: notifications that were taken from the queue before the drain, and not told yet (fan.moving), are
// none of those that it waits for besides.
func TestDrainOfWhatWasReadAhead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: marks on the host's filesystem need root")
	}
	vol := newVolume(t, t.TempDir(), "vol")
	r := watching(t, Options{Root: vol, Backend: Fanotify, KeepOwn: true})
	f := r.w.source.(*fan)
	for i := range 9 {
		write(t, filepath.Join(vol, "ahead"+itoa(i)), "x")
	}
	if f.moving(); len(f.ahead) == 0 {
		t.Fatal("nothing was read ahead")
	}
	write(t, filepath.Join(vol, "queued"), "x")
	done := make(chan error, 1)
	r.w.drains = append(r.w.drains, done) // before Run looks for the first time
	r.w.poke.Store(true)
	early := false
	r.start(func(e Event) { early = early || len(done) > 0 })
	r.until("of the last file", func(e Event) bool { return e.Path == "queued" })
	must(t, <-done)
	r.stop()
	if early {
		t.Error("the drain was over before everything was told")
	}
}

func TestDrainFlushesSettling(t *testing.T) {
	dir := t.TempDir()
	for _, b := range backends(t, dir) {
		t.Run(string(b), func(t *testing.T) {
			r := watching(t, Options{Root: dir, Backend: b, KeepOwn: true, Settle: time.Hour}).start(nil)
			f, err := os.Create(filepath.Join(dir, "open-"+string(b)))
			must(t, err)
			defer func() { _ = f.Close() }()
			if _, err := f.WriteString("x"); err != nil {
				t.Fatal(err)
			}
			if got := lines(r.drained()); got != "dirty open-"+string(b) {
				t.Errorf("got %s", got)
			}
		})
	}
}

// TestUnclosedFileIsReported needs no Drain: quiet is enough.
func TestUnclosedFileIsReported(t *testing.T) {
	dir := t.TempDir()
	for _, b := range backends(t, dir) {
		t.Run(string(b), func(t *testing.T) {
			r := watching(t, Options{Root: dir, Backend: b, KeepOwn: true, Settle: time.Millisecond}).start(nil)
			f, err := os.Create(filepath.Join(dir, "open-"+string(b)))
			must(t, err)
			defer func() { _ = f.Close() }()
			r.until("of the open file", func(e Event) bool { return e.Kind == Dirty && e.Path == "open-"+string(b) })
		})
	}
}

func TestEmitErrorEndsRun(t *testing.T) {
	dir := t.TempDir()
	w, err := Open(Options{Root: dir, KeepOwn: true})
	must(t, err)
	defer func() { _ = w.Close() }()
	write(t, filepath.Join(dir, "f"), "x")
	if err := w.Run(t.Context(), func([]Event) error { return os.ErrDeadlineExceeded }); err != os.ErrDeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestRootLost(t *testing.T) {
	for _, how := range []string{"moved", "deleted", "parent moved"} {
		for _, b := range backends(t, t.TempDir()) {
			t.Run(how+" "+string(b), func(t *testing.T) {
				parent := filepath.Join(t.TempDir(), "parent")
				dir := filepath.Join(parent, "vol")
				must(t, os.MkdirAll(dir, 0o755))
				r := watching(t, Options{Root: dir, Backend: b}).start(nil)
				must(t, r.w.CheckRoot())
				switch how {
				case "moved":
					must(t, os.Rename(dir, dir+"2"))
				case "deleted":
					must(t, os.Remove(dir))
				case "parent moved":
					must(t, os.Rename(parent, parent+"2"))
				}
				r.until("root-lost", func(e Event) bool { return e.Kind == RootLost })
				if err := r.w.CheckRoot(); problem.KindOf(err) != problem.Conflict {
					t.Errorf("CheckRoot: %v", err)
				}
			})
		}
	}
}

// TestOwnAreDropped changes the volume from this process and from another one.
func TestOwnAreDropped(t *testing.T) {
	dir := t.TempDir()
	if backends(t, dir)[0] != Fanotify {
		t.Skip("SKIPPED PART: own changes can only be told with fanotify")
	}
	r := watching(t, Options{Root: dir})
	// Before the queue is read, so that events are merged and left in doubt.
	renames("p", "q", "p", "q")(t, made(t, dir, "p"))
	must(t, os.Mkdir(filepath.Join(dir, "p"), 0o755))
	exchange(t, filepath.Join(dir, "p"), filepath.Join(dir, "q"))
	r.start(nil)
	write(t, filepath.Join(dir, "own"), "x")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")))
	if got := r.drained(); len(got) != 0 {
		t.Errorf("own changes reported: %s", lines(got))
	}
	if r.w.OwnUnknown() || r.w.Stats().Own == 0 {
		t.Errorf("own changes not counted: %+v", r.w.Stats())
	}
	shell(t, dir, "echo x > e/theirs; echo x > p/theirs")
	if got := lines(r.drained()); got != "dirty e/theirs; dirty p/theirs" {
		t.Errorf("their change: %s", got)
	}
}

// made makes a directory with a file in dir and answers dir.
func made(t *testing.T, dir, name string) string {
	t.Helper()
	must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	write(t, filepath.Join(dir, name, "f"), "x")
	return dir
}

// TestForeignAreDropped makes many changes elsewhere on the same filesystem.
func TestForeignAreDropped(t *testing.T) {
	base := t.TempDir()
	vol, other := filepath.Join(base, "vol"), filepath.Join(base, "other")
	must(t, os.Mkdir(vol, 0o755))
	must(t, os.MkdirAll(filepath.Join(other, "deep/er"), 0o755))
	if backends(t, vol)[0] != Fanotify {
		t.Skip("SKIPPED PART: inotify never sees foreign changes")
	}
	r := watching(t, Options{Root: vol, KeepOwn: true}).start(nil)
	for i := range 200 {
		write(t, filepath.Join(other, "deep/er", "f"+itoa(i%3)), "x")
		must(t, os.Rename(filepath.Join(other, "deep/er", "f"+itoa(i%3)), filepath.Join(other, "g")))
	}
	if got := r.drained(); len(got) != 0 {
		t.Errorf("foreign changes reported: %s", lines(got))
	}
	// The temporary directories of other tests make misses too, but not one per change.
	st := r.w.Stats()
	if st.Foreign < 100 || st.Misses > st.Foreign/2 {
		t.Errorf("%d foreign dropped with %d look-ups", st.Foreign, st.Misses)
	}
}

// TestForeignTooDeep: directories whose path is too long to be one may be anywhere on
// the filesystem. What happens in them elsewhere is dropped like all that is foreign.
func TestForeignTooDeep(t *testing.T) {
	base := t.TempDir()
	vol, other := filepath.Join(base, "vol"), filepath.Join(base, "other")
	must(t, os.Mkdir(vol, 0o755))
	must(t, os.Mkdir(other, 0o755))
	if backends(t, vol)[0] != Fanotify {
		t.Skip("SKIPPED PART: inotify never sees foreign changes")
	}
	r := watching(t, Options{Root: vol, KeepOwn: true}).start(nil)
	fd, err := unix.Open(other, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	must(t, err)
	name := strings.Repeat("n", 255)
	for range 20 { // 5,100 bytes
		must(t, unix.Mkdirat(fd, name, 0o755))
		down, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = down
	}
	must(t, unix.Mknodat(fd, "f", unix.S_IFREG|0o600, 0))
	must(t, unix.Close(fd))
	write(t, filepath.Join(vol, "f"), "x")
	if got := lines(r.drained()); got != "dirty f" {
		t.Errorf("told of %s, want nothing but the volume's own file", got)
	}
	if n := r.w.Stats().Overflows; n != 0 {
		t.Errorf("%d times everything was told to be looked at", n)
	}
}

func TestOverflowIsToldAndHealed(t *testing.T) {
	dir := t.TempDir()
	limit := readInt(t, "/proc/sys/fs/inotify/max_queued_events")
	if limit > 100_000 {
		t.Skipf("SKIPPED PART: queue of %d too long to fill", limit)
	}
	r := watching(t, Options{Root: dir, Backend: Inotify})
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "")
	for i := range limit {
		must(t, os.Chmod(a, os.FileMode(0o600+i%2*0o40)))
		must(t, unix.Chmod(dir, uint32(0o700+i%2*0o50)))
	}
	must(t, os.MkdirAll(filepath.Join(b, "c"), 0o755)) // lost: its watch must come with the rebuild
	r.start(nil)
	r.until("overflow", func(e Event) bool { return e.Kind == Overflow })
	r.drained()
	write(t, filepath.Join(b, "c", "d"), "x")
	if got := lines(r.drained()); got != "dirty b/c/d" {
		t.Errorf("after the overflow: %s", got)
	}
	if r.w.Stats().Overflows != 1 {
		t.Errorf("%d overflows counted", r.w.Stats().Overflows)
	}
}
