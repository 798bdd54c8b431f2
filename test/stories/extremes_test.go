package stories

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

const (
	manyNames  = 60_000 // in one directory, unless envNames says otherwise
	deepLevels = 2_000  // in one path
	// extremeMemory bounds what an agent may need while all of it is compared.
	extremeMemory = 256 << 20
)

// envNames is how many names the directory has; 200,000 take minutes on a small machine.
const envNames = "REVOLVE_STORIES_NAMES"

// A directory of very many names, a tree as deep as a path can say and one that
// is deeper, and a file that grows for ever: they cost no node its place, and
// whoever comes later gets them, too.
func TestExtremes(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{disk: func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: 1 << 30} },
			node: func(name string) string { return map[string]string{"a": ", priority: 100"}[name] }})
		m := l.form()
		late := l.others(m)[1]
		late.stop()
		began, many := time.Now(), manyNames
		if text := os.Getenv(envNames); text != "" {
			var err error
			many, err = strconv.Atoi(text)
			must(t, err)
		}
		stop := m.grows("log")
		defer stop()
		must(t, os.MkdirAll(m.home("many"), 0o755))
		for i := range many {
			must(t, os.WriteFile(m.home("many", fmt.Sprint("name-", i)), nil, 0o644))
		}
		must(t, below(m.home(), deepLevels, "at the end"))
		must(t, below(m.home(), 2*deepLevels, "on this node only"))
		put(t, m.home("beside"), "what comes after")
		must(t, os.RemoveAll(late.state())) // it has to compare everything
		l.mustRevolve("identity", "issue", late.name, "--out", late.state(), "--state", l.nodes["a"].state())
		t.Logf("written after %v", time.Since(began).Round(time.Second))
		late.start()
		rss, other := m.watchMemory(), late.watchMemory()
		l.within(floodFor, "the late standby", askEvery, func() error {
			if n, err := names(late.home("many")); err != nil || n != many {
				return fmt.Errorf("%d names, %v", n, err)
			}
			return have(late.home("beside"), "what comes after")
		})
		t.Logf("there after %v", time.Since(began).Round(time.Second))
		stop()
		l.settled()
		m.sync()
		t.Logf("settled after %v", time.Since(began).Round(time.Second))
		for _, n := range l.others(m) {
			must(t, deepHas(n.home(), deepLevels, "at the end"))
			if err := deepHas(n.home(), 2*deepLevels, ""); err == nil {
				t.Errorf("%s has a path that is too long", n.name)
			}
			if a, b := fileSize(t, m.home("log")), fileSize(t, n.home("log")); a != b {
				t.Errorf("the growing file has %d bytes on %s and %d on %s", b, n.name, a, m.name)
			}
		}
		if err := os.RemoveAll(m.home("d")); err != nil {
			t.Fatal(err)
		}
		m.sync()
		for _, n := range l.others(m) {
			if err := deepHas(n.home(), deepLevels, "at the end"); err == nil {
				t.Errorf("%s still has the deep tree", n.name)
			}
		}
		for n, list := range map[*node][]int64{m: rss(), late: other()} {
			if got := most(list); got > extremeMemory {
				t.Errorf("%s needed %d MiB", n.name, got>>20)
			} else {
				t.Logf("%s needed %d MiB at most", n.name, got>>20)
			}
		}
		told := 0
		for _, n := range l.nodes { // whoever was master meanwhile
			once := strings.Count(n.lastLog(), "too long to be mirrored")
			told += once
			if once > 1 {
				t.Errorf("%s tells of the path that is too long %d times", n.name, once)
			}
		}
		if told == 0 {
			t.Error("nobody tells of the path that is too long")
		}
	})
}

// grows writes to a file without a pause and without closing it until the result is called.
func (n *node) grows(rel string) (stop func()) {
	f, err := os.OpenFile(n.home(rel), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(n.lab.t, err)
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		defer f.Close()
		for line := 0; ; line++ {
			select {
			case <-done:
				return
			default:
			}
			if line%100 == 0 {
				unix.Nanosleep(&unix.Timespec{Nsec: 10e6}, nil) // a file system fills up otherwise
			}
			if _, err := fmt.Fprintf(f, "line %d of a log that never ends\n", line); err != nil {
				return
			}
		}
	})
	var once sync.Once
	return func() { once.Do(func() { close(done); wait.Wait() }) }
}

// below makes a file that many levels down, step by step: no system call takes so long a path.
func below(dir string, levels int, content string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for i := 0; i < levels && err == nil; i++ {
		if err = unix.Mkdirat(fd, "d", 0o755); err == unix.EEXIST {
			err = nil
		}
		if err == nil {
			var next int
			next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			unix.Close(fd)
			fd = next
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	f, err := unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	_, err = unix.Write(f, []byte(content))
	return err
}

// deepHas looks for that file.
func deepHas(dir string, levels int, content string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for i := 0; i < levels && err == nil; i++ {
		var next int
		next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		fd = next
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return have(fmt.Sprintf("/proc/self/fd/%d/f", fd), content)
}

func names(dir string) (int, error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	list, err := f.Readdirnames(-1)
	return len(list), err
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}
