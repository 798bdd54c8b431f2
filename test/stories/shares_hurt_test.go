package stories

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hurt kills what the master runs and fills its disk, while all services run and
// clients work: nothing that a client was told is written is lost.
func (s *shared) hurt(m *node) *node {
	s.t.Helper()
	m = s.daemonsKilled(m)
	if s.full {
		m = s.agentKilled(m)
	}
	return s.diskFull(m)
}

// daemons are the servers of the story, as their processes are called.
func daemons() []string {
	return []string{"smbd", "smbd-notifyd", "smbd-cleanupd", "ganesha.nfsd", "sshd", "wireguard-go"}
}

// kills ends every server of the node with SIGKILL, all at once, and says how many processes.
func (n *node) kills() (killed int) {
	n.lab.t.Helper()
	all, err := n.Processes()
	must(n.lab.t, err)
	for _, pid := range all {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && slices.Contains(daemons(), strings.TrimSpace(string(b))) {
			if err := unix.Kill(pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) { // a child may have ended meanwhile
				must(n.lab.t, err)
				killed++
			}
		}
	}
	return killed
}

// daemonsKilled: Samba is required, so the address leaves; all come back on the node without it.
func (s *shared) daemonsKilled(m *node) *node {
	s.t.Helper()
	s.forget()
	if n := m.kills(); n < 2 {
		s.t.Fatalf("%s ran %d processes of servers", m.name, n)
	}
	next := s.newMaster(m)
	s.count("kill -9 of all servers", next, nil)
	s.well()
	return s.together(true) // one client writes all the time
}

// agentKilled: the servers go on without an address, another node leads, and what it had not got is kept aside.
func (s *shared) agentKilled(m *node) *node {
	s.t.Helper()
	s.forget()
	must(s.t, m.agent.Signal(unix.SIGKILL))
	m.waitEnd()
	next := s.newMaster(m)
	missing := s.count("kill -9 of the agent", next, m)
	m.start()
	next = s.together(true) // one client writes all the time
	s.keptAside("kill -9 of the agent", m, missing)
	s.well()
	return next
}

// How long the disk stays full: longer than from one check of a service to the next.
const (
	fullInFull = 3 * time.Second
	fullFor    = time.Second
)

// diskFull: nothing more fits on the master's only disk, where Samba's passwords and state and the journal are, too.
// Readers are served, writers are told, what was taken is everywhere, and it goes on by itself when there is room.
func (s *shared) diskFull(m *node) *node {
	s.t.Helper()
	s.forget()
	began := time.Now().UnixNano()
	filler := m.fillDisk()
	reader := s.opens[slices.IndexFunc(s.opens, func(o *open) bool { return o.step == "read" })]
	long := fullFor
	if s.full {
		long = fullInFull
	}
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(askEvery) {
		if who := s.holders(); len(who) > 1 {
			s.t.Fatalf("the addresses are on %v", who)
		}
	}
	s.works(reader, time.Now().UnixNano())
	refused := 0
	s.eventually("somebody to be told that the disk is full", askEvery, func() error {
		if refused = s.refusedSince(began); refused == 0 && slices.Equal(s.holders(), []string{m.name}) {
			return errors.New("nobody was")
		}
		return nil
	})
	s.t.Logf("with a full disk on %s the addresses are on %v, and %d tries to write were refused", m.name, s.holders(), refused)
	must(s.t, os.Remove(filler))
	s.well()
	now := s.together(true) // one client writes all the time
	s.count(fmt.Sprintf("the master's disk full for %.0f s", long.Seconds()), now, nil)
	return now
}

// refusedSince are the tries to write that no server took since that time.
func (s *shared) refusedSince(at int64) (n int) {
	s.t.Helper()
	for _, a := range s.askers {
		for _, x := range a.read(s.t) {
			if x.at > at && x.none() && s.took[a.name] != "" {
				n++
			}
		}
	}
	return n
}

// fillDisk takes all the room that is left, outside of the volumes, and says with what.
func (n *node) fillDisk() (file string) {
	t := n.lab.t
	t.Helper()
	file = filepath.Join(n.Root(), "filler")
	f, err := os.Create(file)
	must(t, err)
	defer f.Close()
	end := int64(0)
	for piece := int64(64 << 20); piece >= 4096; {
		err := unix.Fallocate(int(f.Fd()), 0, end, piece)
		switch {
		case err == nil:
			end += piece
		case errors.Is(err, unix.ENOSPC):
			piece /= 2
		default:
			t.Fatalf("fill the disk: %v", err)
		}
	}
	return file
}
