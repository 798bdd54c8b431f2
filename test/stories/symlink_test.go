package stories

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

const (
	swapDirs   = 4   // directories that are swapped with links
	swapNames  = 8   // files in each, inside and outside
	swapRounds = 150 // of writing, renaming, removing and making anew
	// canary is what the files outside hold: it must never be read into the volume.
	canary = "canary: nobody has to read this"
)

// swapped are the directories; each has a link to its namesake outside beside it.
func swapped(home string, i int) (dir, link string) {
	return filepath.Join(home, fmt.Sprint("swap-", i)), filepath.Join(home, fmt.Sprint("link-", i))
}

// outside makes the tree that is none of the volume's, and describes it: every
// inode with its times; none but ourselves can set a ctime back.
func (n *node) outside() string { return filepath.Join(n.Root(), "outside") }

func (n *node) layCanary() {
	t := n.lab.t
	t.Helper()
	for i := range swapDirs {
		for k := range swapNames {
			put(t, filepath.Join(n.outside(), fmt.Sprint("swap-", i), fmt.Sprint("f", k)), canary)
		}
		put(t, filepath.Join(n.outside(), fmt.Sprint("swap-", i), "sub", "f"), canary)
	}
}

func (n *node) canaries() map[string]string {
	n.lab.t.Helper()
	all := map[string]string{}
	must(n.lab.t, filepath.WalkDir(n.outside(), func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		text, err := describe(p)
		all[p] = fmt.Sprintf("%s inode %d links %d changed %d", text, st.Ino, st.Nlink, st.Ctim.Nano())
		return err
	}))
	return all
}

// swaps exchanges directories of the node's volume with links that lead outside, and back, without a pause.
func (n *node) swaps() (stop func() int) {
	done, rounds := make(chan struct{}), 0
	var wait sync.WaitGroup
	wait.Go(func() {
		for ; ; rounds++ {
			select {
			case <-done:
				return
			default:
			}
			dir, link := swapped(n.home(), rounds%swapDirs)
			_ = os.Symlink("../outside/"+filepath.Base(dir), link) // absolute ones would lead to another filesystem, which stops more than is to be tested
			_ = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
		}
	})
	return func() int { close(done); wait.Wait(); return rounds }
}

// A local process that swaps directories with links that lead out of the volume,
// on the master and on a standby, all the time, has nothing of the product's
// done outside: nothing written, read, linked, given away or deleted there.
func TestSymlinksSwappedIn(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{node: func(name string) string { return map[string]string{"a": ", priority: 100"}[name] }})
		m := l.form()
		before := map[*node]map[string]string{}
		for _, n := range l.nodes {
			n.layCanary()
			before[n] = n.canaries()
		}
		for i := range swapDirs {
			dir, _ := swapped(m.home(), i)
			for k := range swapNames {
				put(t, filepath.Join(dir, fmt.Sprint("f", k)), "inside")
			}
		}
		m.sync()
		standby := l.others(m)[0]
		stops := []func() int{m.swaps(), standby.swaps()}
		for round := range swapRounds {
			stir(m.home(), round)
			if round%50 == 49 { // the trees are compared, and what was kept is brought back
				must(t, standby.agent.Signal(9))
				standby.waitEnd()
				must(t, os.RemoveAll(filepath.Join(standby.state(), "journal")))
				standby.start()
				l.bringBack(m, standby)
			}
			time.Sleep(2 * time.Millisecond) // a storm that leaves the appliers no time finds less
		}
		for _, stop := range stops {
			t.Logf("%d exchanges", stop())
		}
		l.within(2*patience, "the cluster is itself again", askEvery, func() error {
			s, err := m.status()
			if err == nil && s.Master != m.name {
				err = fmt.Errorf("the master is %s", s.Master)
			}
			return err
		})
		for n, was := range before {
			if now := n.canaries(); !maps.Equal(was, now) {
				for p, text := range was {
					if now[p] != text {
						t.Errorf("%s: %s was\n%s and is\n%s", n.name, p, text, now[p])
					}
				}
				t.Errorf("%s has %d names outside after %d", n.name, len(now), len(was))
			}
			n.noCanaryInside()
		}
	})
}

// noCanaryInside looks through all of the volume, trash and divergent included, without following links.
func (n *node) noCanaryInside() {
	t := n.lab.t
	t.Helper()
	home, err := os.Open(n.home())
	must(t, err)
	defer home.Close()
	must(t, filepath.WalkDir(n.home(), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(n.home(), p)
		must(t, err)
		if b, err := readInside(home, rel); err == nil && strings.Contains(string(b), canary) {
			t.Errorf("%s: %s was read from outside", n.name, p)
		}
		return nil
	}))
}

// readInside reads a file unless there is a link on the way to it: a standby may exchange a directory with its link, as the master
// did, while it is looked at.
func readInside(home *os.File, name string) ([]byte, error) {
	fd, err := unix.Openat2(int(home.Fd()), name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(f)
}

// stir is what programs do in those directories meanwhile; what fails because the
// directory is a link just now is not done. It resolves nothing through a link, as
// the canary is to be touched by nobody.
func stir(home string, round int) {
	for i := range swapDirs {
		dir, _ := swapped(home, i)
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		name := fmt.Sprint("f", round%swapNames)
		switch (round + i) % 5 {
		case 0:
			_ = unix.Unlinkat(fd, name, 0)
		case 1:
			_ = unix.Renameat(fd, name, fd, fmt.Sprint("f", (round+1)%swapNames))
		case 2:
			_ = unix.Mkdirat(fd, "sub", 0o700)
			writeAt(fd, "sub/f", round)
		case 3:
			_ = unix.Fchmodat(fd, name, uint32(0o600+round%64), 0)
			_ = unix.Fchownat(fd, name, 1000+round, 1000, unix.AT_SYMLINK_NOFOLLOW)
		}
		writeAt(fd, name, round)
		unix.Close(fd)
	}
}

func writeAt(fd int, name string, round int) {
	f, err := unix.Openat(fd, name, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return
	}
	_, _ = unix.Write(f, []byte(strings.Repeat(fmt.Sprint("round ", round, "\n"), 100)))
	unix.Close(f)
}

// bringBack has what is kept on the nodes brought back, whatever comes of it.
func (l *lab) bringBack(nodes ...*node) {
	for _, n := range nodes {
		sets, err := os.ReadDir(n.home(hidden, "divergent"))
		if err != nil {
			continue
		}
		for _, s := range sets[:min(2, len(sets))] {
			_, _, _ = l.revolve("divergent", "restore", s.Name(), "--state", n.state())
		}
		_, _, _ = l.revolve("trash", "restore", "swap-0/f0", "--state", n.state())
	}
}
