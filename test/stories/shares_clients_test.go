package stories

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// A client may wait long after a move: a tunnel makes a new handshake 15 s after its first
// packet without an answer (WireGuard's paper, section 6.5), and libnfs asks again after 60 s.
const clientsWait = 90 * time.Second

// try starts a client that tries again and again.
func (s *shared) try(name, command, dir string) {
	s.t.Helper()
	a := &asker{name: name, file: filepath.Join(s.dir, "tries-"+name)}
	_, err := s.client.Start(testbed.Command{Argv: []string{"/bin/sh", "-c", fmt.Sprintf("cd "+s.dir+"; "+tries, command)}, Log: a.file})
	must(s.t, err)
	s.askers, s.took[name] = append(s.askers, a), dir
	s.answered(a, 0)
}

// answered waits for an answer to a question that was asked after that time.
func (s *shared) answered(a *asker, after int64) {
	s.t.Helper()
	s.within(clientsWait, "an answer for the client of "+a.name, askEvery, func() error {
		if all := a.read(s.t); !slices.ContainsFunc(all, func(x answer) bool { return x.at > after && !x.none() }) {
			return fmt.Errorf("none to %d questions", len(all))
		}
		return nil
	})
}

// open is a client that keeps a file open. Its own words are the lines of its log, each after its time:
// "open", "wrote N" (N lines are in the file, says the server), "read N" (bytes), "whole" (all was read), "error WHY".
type open struct {
	name, log, path string // path of the file that it writes, below the volume; "" for one that reads
	step            string // the word of each step: "wrote", "read", or "open" where nothing is said in between
	from            int    // lines of the log that an earlier chapter has counted
	lost            int    // lines that were told to be written and were lost in earlier chapters
}

// keepOpen starts such a client and waits until it has the file open.
func (s *shared) keepOpen(name, path string, argv ...string) {
	s.t.Helper()
	o := &open{name: name, log: filepath.Join(s.dir, "open-"+strings.ReplaceAll(name, " ", "-")), path: path, step: "wrote"}
	switch {
	case path != "":
	case slices.Contains(argv, "read"):
		o.step = "read"
	default:
		o.step = "open"
	}
	script, err := filepath.Abs("testdata/" + argv[1])
	must(s.t, err)
	argv[1] = script
	_, err = s.client.Start(testbed.Command{Argv: append([]string{"/bin/sh", "-c", `cd "$0" && exec "$@"`, s.dir}, argv...), Log: o.log})
	must(s.t, err)
	s.opens = append(s.opens, o)
	s.works(o, 0)
}

// read are the lines of its log so far; other programs' complaints are none.
func (o *open) read() (lines []answer) {
	b, _ := os.ReadFile(o.log)
	all := strings.SplitAfter(string(b), "\n")
	for _, line := range all[:len(all)-1] {
		at, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseInt(at, 10, 64); err == nil {
			lines = append(lines, answer{n, text})
		}
	}
	return lines
}

// works waits until it was told after that time that something is written, or has a file open to read.
func (s *shared) works(o *open, after int64) {
	s.t.Helper()
	s.within(clientsWait, "the client of "+o.name+" that keeps a file open", askEvery, func() error {
		lines := o.read()
		if !slices.ContainsFunc(lines, func(x answer) bool { return x.at > after && strings.HasPrefix(x.text, o.step) }) {
			if b, err := os.ReadFile(o.log); len(lines) == 0 {
				return fmt.Errorf("%v: %s", err, b)
			}
			return fmt.Errorf("it says %q", lines[len(lines)-1].text)
		}
		return nil
	})
}

// seen is what the client with the open file saw of a move, and how many of the lines that it was told are written are lost.
func (s *shared) seen(o *open, chapter string, m *node) (lost int) {
	s.t.Helper()
	lines := o.read()
	var errs []string
	var longest, last int64
	told := 0
	for i, x := range lines {
		word, rest, _ := strings.Cut(x.text, " ")
		if word == "error" && i >= o.from && !slices.Contains(errs, rest) {
			errs = append(errs, rest)
		}
		if word == o.step {
			if told, _ = strconv.Atoi(rest); i >= o.from && last != 0 {
				longest = max(longest, x.at-last)
			}
			last = x.at
		}
	}
	o.from = len(lines)
	if o.path != "" {
		lost = missingLines(filepath.Join(m.volume("shares"), o.path), told) - o.lost
		o.lost += lost
		if lost < 0 { // what was lost is there again: the count before was of another node
			for _, n := range s.nodes {
				s.t.Logf("%s: %s lacks %d of %d lines of %s", chapter, n.name, missingLines(filepath.Join(n.volume("shares"), o.path), told), told, o.path)
			}
		}
	}
	s.rows.opens = append(s.rows.opens, openRow{client: o.name, chapter: chapter, errs: errs, longest: time.Duration(longest), steps: o.step != "open", writes: o.path != "", lost: lost})
	s.t.Logf("%s: the client of %s with an open file was told %q, %s nothing for %v, and of the lines it was told are written %d are lost", chapter, o.name, errs, o.step,
		time.Duration(longest).Round(time.Millisecond), lost)
	return lost
}

// missingLines counts which of the first n lines of a file are not there.
func missingLines(path string, n int) (missing int) {
	b, _ := os.ReadFile(path)
	for i := range n {
		if want := fmt.Sprintf("%08d\n", i+1); len(b) < (i+1)*9 || string(b[i*9:(i+1)*9]) != want {
			missing++
		}
	}
	return missing
}

func (s *shared) clients(m *node) {
	s.t.Helper()
	s.try("Samba", fmt.Sprintf(`timeout 2 smbclient -s smb.conf -A who //10.77.0.200/%s -c 'put file n'$i`, sharer), "homes/"+sharer)
	s.keepOpen("Samba", "homes/"+sharer+"/open", "/usr/bin/python3", "smb_open.py", "smb.conf", "who", "10.77.0.200", sharer, "open")
	s.keepOpen("Samba that only reads", "", "/usr/bin/python3", "smb_open.py", "smb.conf", "who", "10.77.0.200", sharer, "quiet", "read")
	if !s.full {
		return
	}
	s.try("NFS", fmt.Sprintf(`timeout 2 nfs-cp file "nfs://10.77.0.200/family/n$i?version=4&uid=%d&gid=%d"`, adaUID, family), "family")
	s.keepOpen("NFS", "", "/bin/bash", "nfs_read.sh", fmt.Sprintf("nfs://10.77.0.200/family/big?version=4&uid=%d&gid=%d", adaUID, family), "big")
	mount := fmt.Sprintf("exec sshfs -f -o reconnect,ServerAliveInterval=1,ServerAliveCountMax=2,ConnectTimeout=2,IdentityFile=%[1]s/id,UserKnownHostsFile=%[1]s/known_hosts root@10.77.0.200:%[2]s/shares/homes %[1]s/mnt", s.dir, s.bed.Self())
	_, err := s.client.Start(testbed.Command{Argv: []string{"/bin/sh", "-c", mount}, Log: s.dir + "/sshfs.log"})
	must(s.t, err)
	s.try("sshfs", `mountpoint -q mnt && cp file mnt/n$i`, "homes")
	s.keepOpen("sshfs", "homes/open-ssh", "/usr/bin/python3", "file_open.py", "mnt/open-ssh")
	_, err = s.client.Start(testbed.Command{Argv: []string{s.dir + "/tunnel.sh", "wgclient", s.dir + "/wg.conf", "10.9.0.2/24"}, Log: s.dir + "/wg.log"})
	must(s.t, err)
	s.try("WireGuard", "ping -c 1 -W 1 10.9.0.1", "")
}

// switches moves the address as planned: no file that a client closed is lost.
func (s *shared) switches(m *node) *node {
	s.t.Helper()
	check := s.locked(m)
	s.forget()
	s.switchTo(s.others(m)[0].name, m)
	next := s.newMaster(m)
	check()
	s.count("planned switch", next, nil)
	return s.together(true) // one client writes all the time
}

// sharing is NT_STATUS_SHARING_VIOLATION, as a client of Samba is told it.
const sharing = "0xc0000043"

// awayFor is how long the address stays elsewhere: a daemon that nobody tells does not know by then
// that its clients are gone (7 s with examples/samba), and its kernel asks them only in a while.
const awayFor = 4 * time.Second

// returns moves the address, and back when the clients have worked on the other node for a moment: none
// of them meets there what it had open before.
func (s *shared) returns(m *node) {
	s.t.Helper()
	const chapter = "planned switch, and back after 4 s"
	s.forget()
	next := s.others(m)[0]
	s.switchTo(next.name, m)
	s.newMaster(m)
	moved := time.Now().UnixNano()
	for _, o := range s.opens {
		s.works(o, moved)
	}
	time.Sleep(awayFor)
	s.switchTo(m.name, next)
	s.newMaster(next)
	s.count(chapter, m, nil)
	for _, row := range s.rows.opens {
		if row.chapter == chapter && slices.ContainsFunc(row.errs, func(why string) bool { return strings.HasPrefix(why, sharing) }) {
			s.t.Errorf("the client of %s met its own former open: %q", row.client, row.errs)
		}
	}
	s.together(true) // one client writes all the time
}

// locked has a client open a file for itself alone, and then stand still. While the address stays nobody
// else may open it; when it has moved everybody may, although that client has not let go.
func (s *shared) locked(m *node) (afterwards func()) {
	s.t.Helper()
	name := fmt.Sprintf("locked-%d", s.rows.locks)
	log := filepath.Join(s.dir, name)
	p := s.holder(name, log)
	path := filepath.Join(m.volume("shares"), "homes", sharer, name)
	s.eventually("a client that has a file for itself", askEvery, func() error {
		if st, err := os.Stat(path); err != nil || st.Size() == 0 {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	must(s.t, p.Signal(unix.SIGSTOP))
	if err := s.smbGet(name); err == nil || !strings.Contains(err.Error(), "NT_STATUS_SHARING_VIOLATION") {
		s.t.Errorf("another client opens a file that one has for itself: %v", err)
	}
	m.sync()
	return func() {
		s.eventually("another client to have the file", askEvery, func() error { return s.smbGet(name) })
		must(s.t, p.Signal(unix.SIGKILL))
		s.rows.locks++
	}
}

// holder starts a client that has a file of the share open for itself alone.
func (s *shared) holder(name, log string) *testbed.Proc {
	s.t.Helper()
	script, err := filepath.Abs("testdata/smb_open.py")
	must(s.t, err)
	p, err := s.client.Start(testbed.Command{Argv: []string{"/usr/bin/python3", script, s.dir + "/smb.conf", s.dir + "/who", "10.77.0.200", sharer, name}, Log: log})
	must(s.t, err)
	return p
}

// loses cuts the master's power: what it had not passed on is kept when it returns.
func (s *shared) loses(m *node) *node {
	s.t.Helper()
	s.forget()
	lossy := m.off()
	next := s.newMaster(m)
	missing := s.count("power cut", next, m)
	m.boot()
	next = s.together(true) // one client writes all the time
	if lossy {              // its disk lost what was not synced, and nobody else had it (promises.md); the run of make test has a disk that keeps it
		return next
	}
	s.keptAside("power cut", m, missing)
	return next
}

// keptAside: what a client was told is written, and the new master has not, is kept by the former one.
func (s *shared) keptAside(chapter string, m *node, missing []string) {
	s.t.Helper()
	kept := map[string]bool{}
	for _, d := range m.divergent() {
		kept[d.Path] = true
	}
	for _, path := range missing {
		if !kept[path] {
			s.t.Errorf("%s: %s is nowhere: a client was told that it is written, and %s does not keep it aside", chapter, path, m.name)
		}
	}
}

// forget counts nothing of what was before now.
func (s *shared) forget() {
	s.t.Helper()
	for _, a := range s.askers {
		a.lost(s.t, "")
	}
	for _, o := range s.opens {
		o.from = len(o.read())
	}
}

// asked is who has the addresses now: on a busy machine they may have moved on since m had them, and what clients
// were told then is there.
func (s *shared) asked(chapter string, m *node) (now *node) {
	s.t.Helper()
	s.eventually("one node to have the addresses", lookEvery, func() error {
		who := s.holders()
		if len(who) != 1 {
			return fmt.Errorf("they are on %v", who)
		}
		now = s.nodes[who[0]]
		return nil
	})
	if now != m {
		s.t.Logf("%s: the addresses went on from %s to %s", chapter, m.name, now.name)
	}
	return now
}

// count says what the clients lost: tries, time, and files that a server took and that the
// new master does not have whole. Only if the former one's power was cut may there be such files.
func (s *shared) count(chapter string, m, cut *node) (lost []string) {
	s.t.Helper()
	moved := time.Now().UnixNano()
	for _, o := range s.opens {
		s.works(o, moved)
	}
	m = s.asked(chapter, m)
	for _, a := range s.askers {
		s.answered(a, moved)
		row := gapRow{loss: a.lost(s.t, chapter), files: s.took[a.name] != ""}
		s.t.Log(row.loss)
		if row.files {
			missing := s.missing(a, m)
			row.missing, lost = len(missing), append(lost, missing...)
			if len(missing) > 0 && cut == nil {
				s.t.Errorf("%s: the client of %s lost files that it was told are written: %v", chapter, a.name, missing)
			}
		}
		s.rows.gaps = append(s.rows.gaps, row)
	}
	for _, o := range s.opens {
		lines := s.seen(o, chapter, m)
		if lines == 0 {
			continue
		}
		lost = append(lost, o.path)
		if cut == nil {
			s.t.Errorf("%s: the client of %s lost %d lines of an open file that it was told are written", chapter, o.name, lines)
		}
	}
	return lost
}

// missing are the paths of files that a server took and that the new master does not have as the client wrote them, without those of former chapters.
func (s *shared) missing(a *asker, m *node) (paths []string) {
	s.t.Helper()
	want, err := os.ReadFile(s.dir + "/file")
	must(s.t, err)
	for _, x := range a.read(s.t) {
		path := filepath.Join(s.took[a.name], "n"+x.text)
		if x.none() || s.gone[path] {
			continue
		}
		got, err := os.ReadFile(filepath.Join(m.volume("shares"), path))
		if err != nil || !bytes.Equal(got, want) {
			s.t.Logf("%s of the client of %s has %d of %d bytes (%v)", path, a.name, len(got), len(want), err)
			s.gone[path] = true
			paths = append(paths, path)
		}
	}
	return paths
}

// ends stops all clients: then every node has the same, and home directories are what they were.
func (s *shared) ends(m *node) {
	s.t.Helper()
	pids, err := s.client.Processes()
	must(s.t, err)
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	s.settled()
	m.sync()
	for _, n := range s.others(m) {
		s.eventually("the same on "+n.name, askEvery, func() error { return differ(m.volume("shares"), n.volume("shares")) })
	}
	s.homesAreWhole()
	if name := os.Getenv(envServices); s.full && name != "" {
		must(s.t, os.WriteFile(name, []byte(s.rows.table()), 0o644))
	}
	s.t.Log("\n" + s.rows.table())
}
