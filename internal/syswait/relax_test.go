package syswait

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWatchThread(t *testing.T) {
	for _, c := range []struct {
		main, want int
		tids       []int
	}{
		{10, 0, []int{10}},
		{10, 11, []int{10, 11, 12}},
		{10, 13, []int{10, 17, 13, 14}},
		{32767, 301, []int{32767, 301, 302}}, // numbers began anew
		{32766, 32767, []int{300, 32766, 32767}},
	} {
		if got := watchThread(c.main, c.tids); got != c.want {
			t.Errorf("of %v the watch thread is %d, want %d", c.tids, got, c.want)
		}
	}
}

// TestRelax counts how often the watch thread goes to sleep in a process that is woken for a moment, again and again.
func TestRelax(t *testing.T) {
	const wakes = 300
	tid := watchThread(unix.Getpid(), threads(t))
	allowed(t, setSlack(tid, usually(t)))
	cost := func() int {
		before := switchesOf(t, strconv.Itoa(tid))
		for range wakes {
			Sleep(2 * time.Millisecond)
			for range 3000 {
				unix.Getppid() // works for longer than the watch thread sleeps
			}
		}
		return switchesOf(t, strconv.Itoa(tid)) - before
	}
	restless := cost()
	if err := Relax(); err != nil {
		t.Fatal(err)
	}
	if calm := cost(); calm > restless*2/3 {
		t.Errorf("the watch thread went to sleep %d times for %d wakes, %d times before", calm, wakes, restless)
	} else {
		t.Logf("%d wakes: %d sleeps of the watch thread, now %d", wakes, restless, calm)
	}
}

// TestRelaxOneOnly: what the watch thread has handed down goes back.
func TestRelaxOneOnly(t *testing.T) {
	usual := usually(t)
	allowed(t, setSlack(otherThread(t), relaxed))
	if err := Relax(); err != nil {
		t.Fatal(err)
	}
	patient := 0
	for _, tid := range threads(t) {
		if have, err := slack(tid); err == nil && have == relaxed {
			patient++
		} else if err == nil && have != usual && have != 0 {
			t.Errorf("thread %d has a slack of %d", tid, have)
		}
	}
	if patient != 1 {
		t.Errorf("%d threads are patient, want the watch thread alone", patient)
	}
}

// allowed skips where the kernel does not let this process change its threads, and only there.
func allowed(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, os.ErrPermission) {
		t.Skip("SKIPPED PART: the patience of threads: the kernel does not let this process change it:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func usually(t *testing.T) int {
	t.Helper()
	usual, err := slack(unix.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return usual
}

func threads(t *testing.T) (tids []int) {
	t.Helper()
	_, tids, err := threadsOf()
	if err != nil {
		t.Fatal(err)
	}
	return tids
}

// otherThread is a thread that is not the main one, until the test ends.
func otherThread(t *testing.T) int {
	tids, end := make(chan int), make(chan struct{})
	t.Cleanup(func() { close(end) })
	for {
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and its slack
			tids <- unix.Gettid()
			<-end
		}()
		if tid := <-tids; tid != unix.Getpid() {
			return tid
		}
	}
}
