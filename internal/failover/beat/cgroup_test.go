package beat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
)

// The loop's lateness where memory is short and where processors are: real beat
// processes in control groups of the test's own (cgroups(7), version 2 or 1).

const (
	groupArg = "REVOLVE_TEST_BEAT_GROUP" // files to which the process writes its id before it does anything else
	plainArg = "REVOLVE_TEST_BEAT_PLAIN" // it gives CAP_SYS_NICE up, so that real-time priority is refused
	hogArg   = "REVOLVE_TEST_BEAT_HOG"   // it is no beat process: "cpu" burns one processor, a file's name fills memory with its pages
)

// joinGroups is the start of a process of these tests.
func joinGroups() error {
	for _, f := range filepath.SplitList(os.Getenv(groupArg)) {
		if err := os.WriteFile(f, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return err
		}
	}
	if os.Getenv(plainArg) == "" {
		return nil
	}
	runtime.LockOSThread() // capabilities are a thread's; Main goes on on this one
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return err
	}
	caps[0].Effective &^= 1 << unix.CAP_SYS_NICE
	caps[0].Permitted &^= 1 << unix.CAP_SYS_NICE
	return unix.Capset(&head, &caps[0])
}

// hog uses what it is told to, until it is killed or its test is gone.
func hog(what string) error {
	test := os.Getppid()
	for what == "cpu" && os.Getppid() == test {
	}
	block := make([]byte, 1<<20)
	for os.Getppid() == test {
		f, err := os.Create(what)
		if err != nil {
			return err
		}
		for range 128 {
			if _, err := f.Write(block); err != nil {
				return errors.Join(err, f.Close())
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// group is a control group of the test's own.
type group struct {
	t    *testing.T
	v2   bool
	dirs map[string]string // by controller
}

func newGroup(t *testing.T, controllers ...string) *group {
	t.Helper()
	g := &group{t: t, dirs: map[string]string{}}
	name := fmt.Sprintf("revolve-test-%d", os.Getpid())
	const root = "/sys/fs/cgroup"
	_, missing := os.Stat(root + "/cgroup.controllers")
	var err error
	if g.v2 = missing == nil; g.v2 {
		for _, c := range controllers {
			err = errors.Join(err, os.WriteFile(root+"/cgroup.subtree_control", []byte("+"+c), 0))
		}
	}
	own, _ := os.ReadFile("/proc/self/cgroup")
	for _, c := range controllers {
		at := filepath.Join(root, name)
		if !g.v2 {
			at = filepath.Join(root, c, ownGroup(string(own), c), name)
		}
		if err == nil && g.dirs[c] == "" {
			if err = os.Mkdir(at, 0o755); errors.Is(err, fs.ErrExist) && g.v2 {
				err = nil // made for the controller before
			}
		}
		g.dirs[c] = at
	}
	t.Cleanup(g.remove)
	if err != nil {
		t.Skipf("SKIPPED PART: lateness in control groups: %v (needs root, and the controllers %v)", err, controllers)
	}
	return g
}

// ownGroup is this process's group of a version 1 controller.
func ownGroup(list, controller string) string {
	for _, line := range strings.Split(list, "\n") {
		if f := strings.SplitN(line, ":", 3); len(f) == 3 && f[1] == controller {
			return f[2]
		}
	}
	return "/"
}

// remove waits until everything in the group has ended: the kernel refuses before.
func (g *group) remove() {
	for _, d := range g.dirs {
		err := os.Remove(d)
		for late := time.Now().Add(10 * time.Second); err != nil && !errors.Is(err, fs.ErrNotExist) && time.Now().Before(late); err = os.Remove(d) {
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			g.t.Errorf("a control group stays behind: %v", err)
		}
	}
}

func (g *group) set(controller, file, value string) error {
	return os.WriteFile(filepath.Join(g.dirs[controller], file), []byte(value), 0)
}

// processors is how much of one processor all ordinary processes of the group get together, in percent.
func (g *group) processors(percent int) {
	g.t.Helper()
	var err error
	if g.v2 {
		err = g.set("cpu", "cpu.max", fmt.Sprintf("%d 100000", percent*1000))
	} else {
		err = errors.Join(g.set("cpu", "cpu.cfs_period_us", "100000"), g.set("cpu", "cpu.cfs_quota_us", fmt.Sprint(percent*1000)))
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// realTime lets real-time processes in, where groups are asked about that (CONFIG_RT_GROUP_SCHED).
func (g *group) realTime() {
	g.t.Helper()
	if err := g.set("cpu", "cpu.rt_runtime_us", "200000"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.t.Skipf("SKIPPED PART: a starved group with real-time priority: %v", err)
	}
}

// memory makes the kernel take pages back from the group beyond so many bytes; squeezed counts how often it did.
func (g *group) memory(bytes int) {
	g.t.Helper()
	file := map[bool]string{true: "memory.high", false: "memory.limit_in_bytes"}[g.v2]
	if err := g.set("memory", file, fmt.Sprint(bytes)); err != nil {
		g.t.Fatal(err)
	}
}

func (g *group) squeezed() (n int) {
	file := map[bool]string{true: "memory.events", false: "memory.failcnt"}[g.v2]
	b, err := os.ReadFile(filepath.Join(g.dirs["memory"], file))
	if err != nil {
		g.t.Fatal(err)
	}
	text := string(b)
	if _, after, ok := strings.Cut(text, "\nhigh "); ok {
		text, _, _ = strings.Cut(after, "\n")
	}
	n, _ = strconv.Atoi(strings.TrimSpace(text))
	return n
}

// join is the environment of a process that starts in the group.
func (g *group) join() string {
	var files []string
	for _, d := range g.dirs {
		files = append(files, filepath.Join(d, "cgroup.procs"))
	}
	return strings.Join(files, string(os.PathListSeparator))
}

// hog starts a process in the group that uses what; it is killed at the end.
func (g *group) hog(what string) {
	g.t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), groupArg+"="+g.join(), hogArg+"="+what)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
}

// startIn starts node i in the group.
func (l *lab) startIn(g *group, i int, plain bool) {
	l.t.Setenv(groupArg, g.join())
	if plain {
		l.t.Setenv(plainArg, "1")
	}
	l.start(i)
	os.Unsetenv(groupArg)
	os.Unsetenv(plainArg)
}

// majorFaults counts the pages that node i's process had to wait for a disk for.
func (l *lab) majorFaults(i int) int {
	l.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.beats[i].Pid()))
	l.must(err)
	_, rest, _ := strings.Cut(string(b), ") ")
	n, err := strconv.Atoi(strings.Fields(rest)[9]) // majflt, field 12 (proc_pid_stat(5))
	l.must(err)
	return n
}

// newGroupLab is three nodes of which the first is in the group, and leads.
func newGroupLab(t *testing.T, g *group, plain bool) *lab {
	l := newLab(t, 3, "lan", "side")
	l.startIn(g, 0, plain)
	l.within(20*time.Second, "the node in the group leads", func() bool { return l.only(0) })
	l.start(1)
	l.start(2)
	return l
}

func shortOfNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: lateness in control groups (-short)")
	}
}

// TestMemoryPressure: a master in a group from which the kernel takes pages back
// all the time waits for none of its own, and goes on leading.
func TestMemoryPressure(t *testing.T) {
	shortOfNothing(t)
	g := newGroup(t, "memory")
	l := newGroupLab(t, g, false)
	if r := l.report(0); !r.RealTime || len(r.Refused) > 0 {
		t.Skipf("SKIPPED PART: memory pressure: %v", r.Refused)
	}
	l.agreed()
	g.memory(48 << 20)
	file := filepath.Join(t.TempDir(), "pages")
	before, waited := g.squeezed(), l.majorFaults(0)
	for n := 1; ; n++ {
		moved, busy := l.moves(func(int) {
			if n == 1 {
				g.hog(file)
			}
			most := g.squeezed() + 300
			l.within(60*time.Second, "pages are taken back", func() bool { return g.squeezed() >= most })
		})
		if !moved {
			break
		}
		if !busy || n == attempts {
			t.Fatalf("the addresses moved (the machine was busy: %v)", busy)
		}
	}
	if n := l.majorFaults(0) - waited; n > 0 {
		t.Errorf("the process waited for %d pages of its own: they are not locked", n)
	}
	r := l.report(0)
	t.Logf("the kernel took pages back %d times; the loop was late by %v at most, p99 %v", g.squeezed()-before, r.LateMax, r.LateP99)
}

// TestStarved: a master among programs that share one hundredth of a processor. With
// real-time priority it does not notice; without, it is late, knows it, and gives
// the addresses up to one that is not.
func TestStarved(t *testing.T) {
	shortOfNothing(t)
	t.Run("real-time", func(t *testing.T) {
		g := newGroup(t, "cpu")
		g.realTime()
		l := newGroupLab(t, g, false)
		if r := l.report(0); !r.RealTime {
			t.Skipf("SKIPPED PART: a starved group with real-time priority: %v", r.Refused)
		}
		l.agreed()
		for n := 1; ; n++ {
			moved, busy := l.moves(func(int) {
				if n == 1 {
					g.processors(1)
					g.hog("cpu")
					g.hog("cpu")
				}
				sent := l.report(0).Counters.Sent + 400
				l.within(60*time.Second, "its heartbeats go out", func() bool { return l.report(0).Counters.Sent >= sent })
			})
			if !moved {
				break
			}
			if !busy || n == attempts {
				t.Fatalf("the addresses moved (the machine was busy: %v)", busy)
			}
		}
		r := l.report(0)
		t.Logf("the loop was late by %v at most, p99 %v", r.LateMax, r.LateP99)
	})
	t.Run("ordinary", func(t *testing.T) {
		g := newGroup(t, "cpu")
		l := newGroupLab(t, g, true)
		if r := l.report(0); r.RealTime {
			t.Fatal("real-time priority without the right to it")
		}
		l.agreed()
		lines := l.notes(0)
		g.processors(1)
		g.hog("cpu")
		g.hog("cpu")
		l.within(60*time.Second, "another one has the addresses alone", func() bool { return l.only(1) || l.only(2) })
		g.processors(200)
		l.within(60*time.Second, "it follows", func() bool {
			r := l.report(0)
			return r.Role == cluster.Standby && r.Master != "" && r.Master != "a"
		})
		r := l.report(0)
		t.Logf("the loop was late by %v at most, p99 %v", r.LateMax, r.LateP99)
		if !l.saidSince(0, lines, "own loop was late") {
			t.Error("it did not notice")
		}
	})
}
