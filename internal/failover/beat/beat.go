// Package beat is the small real-time process of a node: heartbeats on every
// link, the election, the VIPs. An agent starts it, gives it leave with words
// and learns from its reports.
//
// It never touches a disk, never forks, never waits for the agent: a silent
// agent costs the node its VIPs, not the loop its pace.
//
//	b, err := beat.Start(ctx, []string{"/proc/self/exe", "beat"}, cfg, log)
//	go b.Run(ctx) // in the agent's task group
//	b.Tell(beat.Word{Class: cluster.InSync, Reserved: 16}) // at least every 100 ms
//	for r := range b.Reports() { ... }
package beat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/failover/vip"
	"revolve/internal/problem"
)

const (
	stopWait  = time.Second // an orderly end takes milliseconds; later than this the process is killed
	writeWait = 50 * time.Millisecond
	tailSize  = 4 << 10 // of the child's standard error, for the message of its death
	keptNotes = 64      // notes carried over from reports that nobody took
)

// Beat is a running beat process, seen from the agent.
type Beat struct {
	cfg     Config
	links   []cluster.LinkID // in use; they never change
	log     *slog.Logger
	cmd     *exec.Cmd
	conn    *net.UnixConn
	socket  syscall.RawConn // of conn
	tail    *tail
	saying  sync.Mutex // words and changes of the members, in their order
	names   *layout    // guarded by saying: what the child numbers nodes by
	members chan Config
	reports chan Report
	failed  string // what the child said before it ended; only read after the reader has returned
}

// Start starts argv as the beat process and hands it cfg. The error is of kind
// Invalid if cfg contradicts itself. Run must follow, even with an ended context.
func Start(ctx context.Context, argv []string, cfg Config, log *slog.Logger) (*Beat, error) {
	names, err := newLayout(&cfg)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(argv) == 0 {
		return nil, &problem.Problem{Op: "start beat", Kind: problem.Internal, Err: errors.New("no command")}
	}
	b := &Beat{cfg: cfg, names: names, links: names.links, log: log, tail: &tail{}, members: make(chan Config, 1), reports: make(chan Report, 1)}
	if err := b.spawn(argv); err != nil {
		return nil, &problem.Problem{Op: "start beat", Kind: problem.Unavailable, Subject: argv[0], Err: err}
	}
	msg, err := appendJSON(msgConfig, cfg)
	if err == nil {
		_, err = b.conn.Write(msg)
	}
	clear(msg)
	if err != nil {
		b.conn.Close() // the child sees the end of its agent and ends
		return nil, &problem.Problem{Op: "configure beat", Kind: problem.Unavailable, Err: errors.Join(err, b.cmd.Wait())}
	}
	return b, nil
}

func (b *Beat) spawn(argv []string) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(fds[1]), "beat-child")
	ours := os.NewFile(uintptr(fds[0]), "beat-agent")
	defer theirs.Close()
	defer ours.Close() // FileConn has its own copy
	conn, err := net.FileConn(ours)
	if err != nil {
		return err
	}
	b.conn = conn.(*net.UnixConn)
	if b.socket, err = b.conn.SyscallConn(); err != nil {
		return errors.Join(err, conn.Close())
	}
	b.cmd = exec.Command(argv[0], argv[1:]...)
	b.cmd.ExtraFiles = []*os.File{theirs}
	b.cmd.Stderr = b.tail
	if err := b.cmd.Start(); err != nil {
		return errors.Join(err, conn.Close())
	}
	return nil
}

// Pid is the process's id.
func (b *Beat) Pid() int { return b.cmd.Process.Pid }

// Tell says a word to the process, in the calling thread: nobody else has to
// get a processor for it. It does not wait; a process that does not read does not
// need this word, and the next one comes soon. It must be called at least every
// 100 ms: nobody repeats a word on the agent's behalf, because the word is the
// proof that the agent lives.
func (b *Beat) Tell(w Word) {
	b.saying.Lock()
	defer b.saying.Unlock()
	msg := b.names.appendWord(nil, &w)
	_ = b.socket.Control(func(fd uintptr) {
		_ = unix.Send(int(fd), msg, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) // its end is for Wait to tell
	})
}

// Reconfigure gives the process other members: nodes, their addresses on links
// that are in use already, keys and stamp. Roles and addresses stay as they are.
// The latest one wins; it never blocks. problem.Invalid: it contradicts itself.
// problem.Conflict: it changes what only a restart can change.
func (b *Beat) Reconfigure(cfg Config) error {
	y, err := newLayout(&cfg)
	if err != nil {
		return err
	}
	if why := frozen(&b.cfg, &cfg, b.links, y.links); why != "" {
		return &problem.Problem{Op: "change the members", Kind: problem.Conflict, Subject: cfg.Cluster, Err: errors.New(why),
			Hint: "restart the agents, one after the other"}
	}
	for {
		select {
		case b.members <- cfg:
			return nil
		default:
		}
		select {
		case <-b.members:
		default:
		}
	}
}

// reconfigure hands new members to the child. Words after it are in their order.
func (b *Beat) reconfigure(cfg Config) error {
	y, err := newLayout(&cfg)
	if err != nil {
		return err
	}
	msg, err := appendJSON(msgConfig, cfg)
	if err != nil {
		return err
	}
	defer clear(msg)
	b.saying.Lock()
	defer b.saying.Unlock()
	if err := b.conn.SetWriteDeadline(time.Now().Add(stopWait)); err != nil {
		return err
	}
	if _, err := b.conn.Write(msg); err != nil {
		return err
	}
	b.names = y
	return nil
}

// Reports delivers the latest report; older ones that nobody took are replaced,
// their notes kept for the next one. It is closed when Run returns.
func (b *Beat) Reports() <-chan Report { return b.reports }

// Run returns after ctx ended and the process has released the VIPs and ended
// (nil), or when the process ended by itself (an error of kind Unavailable, or of
// the kind of what kept it from starting). Either way no VIP is left behind.
func (b *Beat) Run(ctx context.Context) error {
	defer close(b.reports)
	var g errgroup.Group
	gone := make(chan struct{})
	g.Go(b.read)
	g.Go(func() error { b.write(ctx, gone); return nil })
	ended := b.cmd.Wait()
	close(gone)
	b.conn.Close()
	readErr := g.Wait()
	removed, scrubErr := 0, error(nil)
	if !b.cfg.External { // another engine's addresses are not ours to remove
		removed, scrubErr = vip.Scrub(b.cfg.vips())
	}
	if removed > 0 {
		b.log.Warn("beat left addresses behind; removed them", "count", removed)
	}
	if scrubErr != nil {
		return scrubErr
	}
	if ctx.Err() != nil && ended == nil {
		return nil
	}
	why := errors.Join(ended, readErr)
	if b.failed != "" {
		why = errors.New(b.failed)
	} else if t := b.tail.String(); t != "" {
		why = fmt.Errorf("%w: %s", errors.Join(why, errors.New("last words")), t)
	} else if why == nil {
		why = errors.New("it ended by itself")
	}
	return &problem.Problem{Op: "keep beat running", Kind: problem.Unavailable, Err: why}
}

// write passes changes of the members on, and ends the process when ctx does.
func (b *Beat) write(ctx context.Context, gone <-chan struct{}) {
	for {
		select {
		case <-gone:
			return
		case <-ctx.Done():
			b.stop(gone)
			return
		case cfg := <-b.members:
			if err := b.reconfigure(cfg); err != nil {
				b.log.Error("beat did not take the new members; it is stopped, and must be started anew", "err", err)
				b.stop(gone)
				return
			}
		}
	}
}

func (b *Beat) stop(gone <-chan struct{}) {
	_ = b.conn.SetWriteDeadline(time.Now().Add(writeWait))
	_, _ = b.conn.Write([]byte{msgStop})
	t := time.NewTimer(stopWait)
	defer t.Stop()
	select {
	case <-gone:
	case <-t.C:
		b.log.Warn("beat did not end in time; killing it")
		_ = b.cmd.Process.Kill()
	}
}

// read takes reports until the child's end is closed.
func (b *Beat) read() error {
	buf := make([]byte, maxMessage)
	for {
		n, err := b.conn.Read(buf)
		if n == 0 || err != nil {
			return nil // the child is gone; Wait says how
		}
		switch buf[0] {
		case msgFailed:
			b.failed = string(buf[1:n])
		case msgReport:
			var r Report
			if err := json.Unmarshal(buf[1:n], &r); err != nil {
				return &problem.Problem{Op: "read report of beat", Kind: problem.Internal, Err: err}
			}
			b.deliver(r)
		}
	}
}

func (b *Beat) deliver(r Report) {
	for {
		select {
		case b.reports <- r:
			return
		default:
		}
		select {
		case old := <-b.reports:
			r.Notes = append(old.Notes, r.Notes...)
			r.Notes = r.Notes[max(0, len(r.Notes)-keptNotes):]
			r.Turns = append(old.Turns, r.Turns...)
			r.Turns = r.Turns[max(0, len(r.Turns)-maxTurns):]
		default:
		}
	}
}

// tail keeps the end of what the child wrote to its standard error.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p[max(0, len(p)-tailSize):])
	t.buf.Next(max(0, t.buf.Len()-tailSize))
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}
