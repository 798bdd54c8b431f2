package stories

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// overflowing is twice what a bounded queue of the kernel's holds, as its defaults are.
const overflowing = 2 * 16384

// The kernel's queue overflows while the agent of the only candidate is frozen:
// what was written meanwhile is found by a comparison, and what was deleted is
// not deleted elsewhere without a word (P6).
func TestOverflow(t *testing.T) {
	testbed.OnStage(t, testbed.AsNobody, func(stage *testbed.Stage) {
		for _, limit := range []string{"/proc/sys/fs/fanotify/max_queued_events", "/proc/sys/fs/inotify/max_queued_events"} {
			b, err := os.ReadFile(limit)
			n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil || n > overflowing {
				t.Skipf("SKIPPED PART: an overflow of the kernel's queue: %s is %d, %v", limit, n, err)
			}
		}
		l := newLab(t, stage, plan{node: func(name string) string {
			return map[string]string{"b": ", candidate: false", "c": ", candidate: false"}[name]
		}})
		m := l.form()
		before(t, m.home())
		m.sync()
		must(t, m.agent.Signal(unix.SIGSTOP))
		l.eventually("the agent to stand still", lookEvery, func() error {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.agent.PID()))
			if err == nil && !strings.Contains(string(b), ") T ") {
				err = errors.New("it runs")
			}
			return err
		})
		for i := range overflowing {
			must(t, os.WriteFile(m.home("dir", fmt.Sprint("n", i)), []byte(strconv.Itoa(i)), 0o644))
		}
		must(t, os.Remove(m.home("deleted"))) // there is no room for this any more
		must(t, os.Rename(m.home("renamed"), m.home("renamed-now")))
		put(t, m.home("changed"), "after the overflow")
		must(t, m.agent.Signal(unix.SIGCONT))
		put(t, m.home("later"), "and it goes on")
		// Without real-time priority a busy machine may cost the master its role for a moment: then the barrier is asked for again.
		l.within(floodFor, "the barrier", askEvery, func() error {
			if _, complaint, status := l.revolve("sync", "--wait", "--timeout", "15s", "--state", m.state()); status != 0 {
				return errors.New(complaint)
			}
			return nil
		})
		for _, n := range l.others(m) {
			l.within(floodFor, "everything on "+n.name, askEvery, func() error {
				out, err := exec.Command("rsync", "-an", "--omit-dir-times", "--itemize-changes", "--exclude=/"+hidden, m.home()+"/", n.home()+"/").CombinedOutput()
				if err != nil || len(out) > 0 {
					return fmt.Errorf("rsync finds %.300s (%v)", out, err)
				}
				return nil
			})
			if _, err := os.Lstat(n.home("deleted")); err != nil {
				t.Errorf("%s: a deletion that nobody saw was carried out: %v", n.name, err)
			}
		}
	})
}
