package stories

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"revolve/internal/testbed"
)

const (
	// floodFiles are created, rewritten, renamed and half of them deleted: 350,000 changes.
	floodFiles = 100_000
	floodDirs  = 200
	// floodMemory bounds what the master's agent may need for it, and floodGrowth by how much more in the
	// second half than in the first: memory is flat if the number of changes does not tell in it.
	floodMemory = 320 << 20
	floodGrowth = 64 << 20
	// floodJournal bounds the journal on any disk: 8 segments of 8 MiB, and one that is begun before the oldest goes.
	floodJournal = 9*(8<<20) + 1<<20
	floodFor     = 110 * time.Second
)

// A flood of changes, with a standby that is away, one that is frozen (its
// kernel accepts, and nobody answers) and one that is well: the master's
// memory and journals stay within their bounds, the one that is well has
// everything while the others are still as they are, and they get it afterwards.
func TestFlood(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{
			names: []string{"a", "b", "c", "d"},
			disk:  func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: 2 << 30} },
			node:  func(name string) string { return map[string]string{"a": ", priority: 100"}[name] },
		})
		m := l.form()
		standbys := l.others(m)
		well, away, frozen := standbys[0], standbys[1], standbys[2]
		away.stop()
		frozen.hold()
		rss := m.watchMemory()
		began := time.Now()
		flood(t, m.home())
		wrote := time.Since(began)
		l.within(floodFor, "the standby that is well", askEvery, func() error { return rsyncSame(m.home(), well.home()) })
		equal := time.Since(began)
		peaks := rss()
		t.Logf("written in %v, equal after %v; the master needed %d MiB at most, by tenths: %v",
			wrote.Round(time.Millisecond), equal.Round(time.Millisecond), most(peaks)>>20, tenths(peaks))
		if got := most(peaks); got > floodMemory {
			t.Errorf("the master needed %d MiB", got>>20)
		}
		if a, b := most(peaks[:len(peaks)/2]), most(peaks[len(peaks)/2:]); b > a+floodGrowth {
			t.Errorf("the master needed %d MiB in the second half after %d MiB in the first", b>>20, a>>20)
		}
		for _, n := range []*node{m, well} {
			if size := treeBytes(t, filepath.Join(n.state(), "journal")); size > floodJournal {
				t.Errorf("the journal of %s takes %d bytes", n.name, size)
			} else {
				t.Logf("the journal of %s takes %d KiB", n.name, size>>10)
			}
		}
		away.start()
		frozen.resume()
		l.within(floodFor, "all that were away or frozen", askEvery, func() error {
			return errors.Join(rsyncSame(m.home(), away.home()), rsyncSame(m.home(), frozen.home()))
		})
		l.settled()
		m.sync()
	})
}

// flood writes as fast as it can.
func flood(t *testing.T, dir string) {
	t.Helper()
	name := func(i int) string {
		return filepath.Join(dir, fmt.Sprintf("d%03d", i%floodDirs), "file-"+strconv.Itoa(i))
	}
	for i := range floodDirs {
		must(t, os.MkdirAll(filepath.Dir(name(i)), 0o755))
	}
	for i := range floodFiles {
		must(t, os.WriteFile(name(i), []byte(strconv.Itoa(i)), 0o644))
	}
	for i := range floodFiles {
		must(t, os.WriteFile(name(i), []byte("again "+strconv.Itoa(i)), 0o644))
	}
	for i := range floodFiles {
		must(t, os.Rename(name(i), name(i)+"-renamed"))
	}
	for i := range floodFiles / 2 {
		must(t, os.Remove(name(i)+"-renamed"))
	}
}

// rsyncSame has rsync judge whether two volumes are the same, times and all.
func rsyncSame(a, b string) error {
	out, err := exec.Command("rsync", "-aAXn", "--delete", "--itemize-changes", "--exclude=/"+hidden, a+"/", b+"/").CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err == nil && text == "" {
		return nil
	}
	return fmt.Errorf("rsync finds %d differences: %.300s (%v)", 1+strings.Count(text, "\n"), text, err)
}

// watchMemory samples what the node's agent needs until the result is asked for.
func (n *node) watchMemory() (stop func() []int64) {
	pid, done := n.agent.PID(), make(chan struct{})
	var samples []int64
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if rss, err := residentOf(pid); err == nil {
				samples = append(samples, rss)
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() []int64 {
		close(done)
		wait.Wait()
		return samples
	}
}

func most(list []int64) (n int64) {
	for _, v := range list {
		n = max(n, v)
	}
	return n
}

// tenths are the peaks of ten equal parts, in MiB.
func tenths(list []int64) (out []int64) {
	for i := range 10 {
		out = append(out, most(list[i*len(list)/10:(i+1)*len(list)/10])>>20)
	}
	return out
}

// treeBytes is how much the files below dir hold.
func treeBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return nil
	}))
	return n
}
