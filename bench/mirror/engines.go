package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// ours is the engine that the others are compared with.
const ours = "revolve"

// engine is a program that keeps the standbys' directories like the master's.
type engine interface {
	name() string
	version() string
	// prepare makes ready what runs before the clock: configuration, and daemons that only wait.
	prepare(ctx context.Context, l *lab) error
	// start begins to replicate what is in the master's directory and what comes.
	start(ctx context.Context, l *lab) error
	// ready returns once everything is equal and changes are watched.
	ready(ctx context.Context, l *lab) error
	// stopStandby and startStandby take a node's part down, in order, and up again.
	stopStandby(ctx context.Context, n *node) error
	startStandby(ctx context.Context, n *node) error
}

// durable is an engine that can say when everything written so far is on the standbys' disks.
type durable interface {
	sync(ctx context.Context, l *lab) error
}

func engines() []engine {
	return []engine{&revolve{}, &lsyncd{delay: 0}, &lsyncd{delay: 1}, &naive{}, &onceRsync{}}
}

func signalOf(s os.Signal) syscall.Signal { return s.(syscall.Signal) }

// revolve is the program of this repository.
type revolve struct {
	agents map[string]*testbed.Proc
}

func (r *revolve) name() string { return ours }

func (r *revolve) version() string { return firstLine(os.Getenv(envBin), "version") }

func firstLine(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return strings.Join(strings.Fields(line), " ")
}

func (r *revolve) config(l *lab) string { return filepath.Join(l.stage.Dir, "revolve.yaml") }

func state(n *node) string { return filepath.Join(n.Root(), "state") }

func (r *revolve) prepare(ctx context.Context, l *lab) error {
	r.agents = map[string]*testbed.Proc{}
	var text strings.Builder
	text.WriteString("cluster: bench\nnodes:\n")
	for i, n := range l.nodes {
		fmt.Fprintf(&text, "  %s: { links: { lan: %s }, priority: %d }\n", n.ID, n.addr, 100-i)
	}
	fmt.Fprintf(&text, "vips:\n  - { address: 10.77.0.200/24, link: lan }\nfailover: { profile: patient }\nvolumes:\n  home: { path: %s }\n", l.master().self("home"))
	if err := os.WriteFile(r.config(l), []byte(text.String()), 0o644); err != nil {
		return err
	}
	first := state(l.master())
	if err := r.command(ctx, l, "init", "--config", r.config(l), "--node", "a", "--state", first); err != nil {
		return err
	}
	for _, n := range l.standbys() {
		if err := r.command(ctx, l, "identity", "issue", string(n.ID), "--out", state(n), "--state", first); err != nil {
			return err
		}
	}
	// The master leads before the clock starts, as the peers' daemons wait before theirs.
	if err := r.startStandby(ctx, l.master()); err != nil {
		return err
	}
	return until(ctx, time.Minute, 20*time.Millisecond, func() error {
		s, err := control.Dial(first).Status(ctx)
		if err == nil && (len(s.Volumes) != 1 || s.Volumes[0].State != "leading") {
			err = errors.New("node a does not lead")
		}
		return err
	})
}

func (r *revolve) command(ctx context.Context, l *lab, args ...string) error {
	out, err := l.stage.Command(ctx, append([]string{os.Getenv(envBin)}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("revolve %v: %w: %s", args, err, out)
	}
	return nil
}

func (r *revolve) start(ctx context.Context, l *lab) error {
	for _, n := range l.standbys() {
		if err := r.startStandby(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (r *revolve) ready(ctx context.Context, l *lab) error {
	return until(ctx, 3*time.Minute, 20*time.Millisecond, func() error {
		s, err := control.Dial(state(l.master())).Status(ctx)
		if err != nil {
			return err
		}
		for _, v := range s.Volumes {
			for _, sb := range v.Standbys {
				if sb.State != "in-sync" || sb.Owed > 0 || sb.Pending > 0 || sb.Position != v.Position {
					return fmt.Errorf("%s is %s, pending %d, owed %d", sb.Node, sb.State, sb.Pending, sb.Owed)
				}
			}
			if len(v.Standbys) != len(l.standbys()) {
				return fmt.Errorf("%d standbys", len(v.Standbys))
			}
		}
		return nil
	})
}

func (r *revolve) startStandby(_ context.Context, n *node) (err error) {
	r.agents[string(n.ID)], err = n.start("revolve", os.Getenv(envBin), "agent", "--config", r.config(n.lab), "--node", string(n.ID), "--state", n.self("state"))
	return err
}

func (r *revolve) stopStandby(ctx context.Context, n *node) error {
	return end(ctx, r.agents[string(n.ID)], unix.SIGTERM)
}

// crash kills a node's programs without a word.
func (r *revolve) crash(ctx context.Context, n *node) error {
	return end(ctx, r.agents[string(n.ID)], unix.SIGKILL)
}

// term is that of the reign now, 0 if nobody answers.
func (r *revolve) term(l *lab) uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := control.Dial(state(l.master())).Status(ctx)
	if err != nil {
		return 0
	}
	return uint64(s.Term)
}

func (r *revolve) sync(ctx context.Context, l *lab) error {
	_, err := control.Dial(state(l.master())).Sync(ctx)
	return err
}

// rsyncd is what the peers share: an rsync daemon on each standby.
type rsyncd struct {
	daemons map[string]*testbed.Proc
}

const rsyncPort = 8730

func (d *rsyncd) prepare(ctx context.Context, l *lab) error {
	d.daemons = map[string]*testbed.Proc{}
	for _, n := range l.standbys() {
		conf := fmt.Sprintf("port = %d\nuse chroot = no\nuid = root\ngid = root\nlog file = /dev/null\n[tree]\npath = %s\nread only = no\n", rsyncPort, n.self("home"))
		if err := os.WriteFile(filepath.Join(n.Root(), "rsyncd.conf"), []byte(conf), 0o644); err != nil {
			return err
		}
		if err := d.startStandby(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// startStandby returns when the daemon listens: an rsync that is refused ends, and nobody tries again.
func (d *rsyncd) startStandby(ctx context.Context, n *node) error {
	p, err := n.start("rsyncd", "rsync", "--daemon", "--no-detach", "--config="+n.self("rsyncd.conf"))
	if err != nil {
		return err
	}
	d.daemons[string(n.ID)] = p
	return until(ctx, 20*time.Second, 5*time.Millisecond, func() error {
		if !listens(p.PID(), rsyncPort) {
			return fmt.Errorf("the rsync daemon of %s does not listen", n.ID)
		}
		return nil
	})
}

func (d *rsyncd) stopStandby(ctx context.Context, n *node) error {
	return end(ctx, d.daemons[string(n.ID)], unix.SIGTERM)
}

func target(n *node) string { return "rsync://" + n.addr + ":" + strconv.Itoa(rsyncPort) + "/tree/" }

// equal waits until the standbys' directories look like the master's, by name, size and time.
func equal(ctx context.Context, l *lab) error {
	return until(ctx, 2*time.Minute, 200*time.Millisecond, func() error {
		for _, n := range l.standbys() {
			if err := compare(ctx, l.master().home(), n.home(), false); err != nil {
				return err
			}
		}
		return nil
	})
}

// lsyncd runs rsync for what it was told about, after a delay in seconds.
type lsyncd struct {
	rsyncd
	delay int
}

func (e *lsyncd) name() string { return fmt.Sprintf("lsyncd-d%d", e.delay) }

func (e *lsyncd) version() string {
	return "lsyncd " + regexp.MustCompile(`[0-9][0-9.]+`).FindString(firstLine("lsyncd", "--version")) + " + " + rsyncVersion()
}

func rsyncVersion() string {
	return "rsync " + regexp.MustCompile(`[0-9][0-9.]+`).FindString(firstLine("rsync", "--version"))
}

func (e *lsyncd) start(_ context.Context, l *lab) error {
	m := l.master()
	var text strings.Builder
	text.WriteString("settings { nodaemon = true, insist = true }\n")
	for _, n := range l.standbys() {
		fmt.Fprintf(&text, "sync { default.rsync, source = %q, target = %q, delay = %d, rsync = { archive = true, compress = false } }\n",
			m.self("home"), target(n), e.delay)
	}
	if err := os.WriteFile(filepath.Join(m.Root(), "lsyncd.lua"), []byte(text.String()), 0o644); err != nil {
		return err
	}
	_, err := m.start("lsyncd", "lsyncd", m.self("lsyncd.lua"))
	return err
}

func (e *lsyncd) ready(ctx context.Context, l *lab) error { return probe(ctx, l) }

// probe waits until a file written on the master has come: then the engine
// watches. Afterwards all is equal and quiet.
func probe(ctx context.Context, l *lab) error {
	name := l.master().home("probe")
	err := until(ctx, 2*time.Minute, 300*time.Millisecond, func() error {
		if err := os.WriteFile(name, []byte(time.Now().String()), 0o644); err != nil {
			return err
		}
		return until(ctx, 3*time.Second, 100*time.Millisecond, func() error {
			for _, n := range l.standbys() {
				if err := compare(ctx, l.master().home(), n.home(), false); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err == nil {
		err = pause(ctx, time.Second)
	}
	return err
}

// naive is the loop that everybody writes: whatever changed, the whole tree
// goes through rsync once 50 ms were quiet.
type naive struct{ rsyncd }

func (e *naive) name() string    { return "naive" }
func (e *naive) version() string { return "inotifywait + " + rsyncVersion() }

func (e *naive) start(_ context.Context, l *lab) error {
	if _, err := exec.LookPath("inotifywait"); err != nil { // the script would wait for it in silence
		return fmt.Errorf("%w (as root: apt-get install inotify-tools)", err)
	}
	m := l.master()
	push, pids := "", ""
	for i, n := range l.standbys() {
		push += fmt.Sprintf("rsync -a --delete %s/ %s & p%d=$!; ", m.self("home"), target(n), i)
		pids += fmt.Sprintf(" $p%d", i)
	}
	script := fmt.Sprintf(`push() { %s wait%s; }
exec 3< <(exec inotifywait -m -q -r -e close_write,create,delete,move,attrib --format x %s)
push
while read -r -u 3 _; do
	n=0
	while [ $n -lt 2000 ] && read -r -t 0.05 -u 3 _; do n=$((n+1)); done
	push
done
`, push, pids, m.self("home"))
	_, err := m.start("naive", "bash", "-c", script)
	return err
}

func (e *naive) ready(ctx context.Context, l *lab) error { return probe(ctx, l) }

// onceRsync pushes to both standbys when told; it watches nothing.
type onceRsync struct{ rsyncd }

func (e *onceRsync) name() string    { return "rsync" }
func (e *onceRsync) version() string { return rsyncVersion() + " daemon" }

func (e *onceRsync) start(_ context.Context, l *lab) error {
	m := l.master()
	script := ""
	for _, n := range l.standbys() {
		script += fmt.Sprintf("rsync -a --delete %s/ %s & ", m.self("home"), target(n))
	}
	// Stays, so that what its children cost can be read from it.
	_, err := m.start("rsync", "bash", "-c", script+"wait; exec sleep 1000")
	return err
}

func (e *onceRsync) ready(ctx context.Context, l *lab) error { return equal(ctx, l) }

// startStandby also pushes again: a person would.
func (e *onceRsync) startStandby(ctx context.Context, n *node) error {
	if e.daemons[string(n.ID)] == nil {
		return e.rsyncd.startStandby(ctx, n)
	}
	if err := e.rsyncd.startStandby(ctx, n); err != nil {
		return err
	}
	_, err := n.lab.master().start("rsync", "bash", "-c",
		fmt.Sprintf("until rsync -a --delete %s/ %s; do sleep 0.05; done; exec sleep 1000", n.lab.master().self("home"), target(n)))
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
