package syswait

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// switches is how often threads of this process went to sleep so far (proc(5), voluntary_ctxt_switches).
func switches(t *testing.T) (sum int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads in /proc/self/task: %v", err)
	}
	for _, task := range tasks {
		sum += switchesOf(t, task.Name())
	}
	return sum
}

// switchesOf is that of one thread; 0 if it ended.
func switchesOf(t *testing.T, tid string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc/self/task", tid, "status"))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(b, []byte("\nvoluntary_ctxt_switches:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, err := strconv.Atoi(string(bytes.TrimSpace(line)))
	if err != nil {
		t.Fatalf("%s: %v", tid, err)
	}
	return n
}

// TestWaitsCostLittle counts how often the process goes to sleep in calls that
// wait: a call through package unix costs some 25 times for each 12 ms.
func TestWaitsCostLittle(t *testing.T) {
	const calls, most = 50, 6
	before := switches(t)
	for range calls {
		wait := unix.NsecToTimespec(int64(12 * time.Millisecond)) // the kernel counts it down
		if n, err := Poll(nil, &wait); n != 0 || err != nil {
			t.Fatalf("poll of nothing: %d, %v", n, err)
		}
	}
	if n := switches(t) - before; n > calls*most {
		t.Errorf("%d calls that wait cost %d context switches, more than %d for each", calls, n, most)
	} else {
		t.Logf("%d calls, %d context switches", calls, n)
	}
}

// TestOthersRun: whoever waits in here leaves the processor to the others.
func TestOthersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	go func() { _, _ = unix.Write(fds[1], []byte{1}) }()
	polls := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
	n, err := Poll(polls, nil)
	if n != 1 || err != nil || polls[0].Revents&unix.POLLIN == 0 {
		t.Fatalf("poll: %d, %v, %#x", n, err, polls[0].Revents)
	}
}

// TestMeetsCollector: stacks grow and move around the calls while the collector runs.
func TestMeetsCollector(t *testing.T) {
	done := make(chan error, 8)
	wait := unix.NsecToTimespec(int64(100 * time.Microsecond))
	for range cap(done) {
		go func() {
			var err error
			for i := range 200 {
				err = errors.Join(err, deep(i%64, &wait))
			}
			done <- err
		}()
	}
	for range cap(done) {
		runtime.GC()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func deep(n int, wait *unix.Timespec) error {
	var frame [512]byte
	frame[n] = byte(n)
	if n > 0 {
		return deep(n-1, wait)
	}
	at := unix.Timespec(*wait)
	for {
		if _, err := Poll(nil, &at); err != unix.EINTR {
			return err
		}
	}
}

func TestSleepSleeps(t *testing.T) {
	const pause = 30 * time.Millisecond
	for began, n := time.Now(), 0; ; n++ { // a signal of the scheduler's may end one early
		if Sleep(pause); time.Since(began) >= pause {
			return
		}
		if n > 100 {
			t.Fatal("sleeps of 30 ms end at once")
		}
	}
}

func TestErrorsAsTheKernelSays(t *testing.T) {
	if err := Fsync(-1); err != unix.EBADF {
		t.Errorf("fsync of nothing: %v", err)
	}
	if err := Syncfs(-1); err != unix.EBADF {
		t.Errorf("syncfs of nothing: %v", err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Sync(f), Fsync(int(f.Fd())), Syncfs(int(f.Fd()))); err != nil {
		t.Error(err)
	}
	if f.Close(); !errors.Is(Sync(f), os.ErrClosed) {
		t.Errorf("sync of a closed file: %v", Sync(f))
	}
	if _, err := Poll(make([]unix.PollFd, 1), &unix.Timespec{Nsec: -1}); err != unix.EINVAL {
		t.Errorf("poll for less than no time: %v", err)
	}
}

// TestNothingIsAllocated: the loop of beat waits in here.
func TestNothingIsAllocated(t *testing.T) {
	fds := make([]unix.PollFd, 0, 1)
	n := testing.AllocsPerRun(100, func() {
		wait := unix.NsecToTimespec(1000)
		_, _ = Poll(fds, &wait)
		Sleep(1)
		_, _ = Told(-1)
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFlushSaysWhatFailed(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := Flush([]int{int(f.Fd())}, []int{int(d.Fd())}); err != nil {
		t.Error(err)
	}
	if _, err := Flush(nil, nil); err != nil {
		t.Errorf("nothing: %v", err)
	}
	const bad = 1 << 20
	if at, err := Flush([]int{int(f.Fd()), bad}, []int{int(d.Fd())}); at != bad || err != unix.EBADF {
		t.Errorf("a file that is none: %d, %v", at, err)
	}
	if at, err := Flush([]int{int(f.Fd())}, []int{bad}); at != bad || err != unix.EBADF {
		t.Errorf("a directory that is none: %d, %v", at, err)
	}
}
