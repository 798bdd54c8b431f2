package witness

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/election"
	"revolve/internal/problem"
)

const (
	// window and share bound the processor's time: at most half of every 20 ms goes into packets, whoever sends
	// them. That is some thousand packets on the smallest machine; two nodes need four.
	window = 20 * time.Millisecond
	share  = window / 2
	// linesPer bounds the log: lines per second, the rest is counted.
	linesPer = 10
	// refusedEvery is how often a line tells of packets that were not answered.
	refusedEvery = time.Minute
	// readBuffer holds what comes in while the share is used up.
	readBuffer = 256 << 10
)

// Options say what a witness listens on.
type Options struct {
	Listen netip.AddrPort // an unspecified address: all of this machine's
	Keys   []Key
	Log    *slog.Logger
	Ready  func(netip.AddrPort) // called when it listens, with its address; may be nil
}

// server is the book's host.
type server struct {
	o      Options
	conn   *net.UDPConn
	book   *Book
	start  time.Time
	since  time.Duration // of the window
	spent  time.Duration
	lines  int
	second time.Duration
	hidden int // lines left out

	strange  [Unproven + 1]uint64 // packets that were not answered, by why, since the last line about them
	strangeT time.Duration
	last     netip.AddrPort
}

// Serve answers questions until ctx ends.
func Serve(ctx context.Context, o Options) error {
	network := "udp4"
	if o.Listen.Addr().Is6() {
		network = "udp" // both families where the address is [::]
	}
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(o.Listen))
	if err != nil {
		kind, hint := problem.Unavailable, "name an address of this machine with --listen"
		if errors.Is(err, unix.EADDRINUSE) {
			kind, hint = problem.Conflict, "another program has the port; stop it, or choose another one with --listen, and in failover.witness.address of the configuration"
		}
		return &problem.Problem{Op: "listen as a witness", Kind: kind, Subject: o.Listen.String(), Err: err, Hint: hint}
	}
	defer conn.Close()
	_ = conn.SetReadBuffer(readBuffer)
	s := &server{o: o, conn: conn, start: time.Now(), strangeT: -refusedEvery}
	s.book = NewBook(0, o.Keys, drawn)
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	o.Log.Info("witness listens; until T_dead has passed it lets nobody lead who does not lead already", "address", at, "keys", len(o.Keys))
	if o.Ready != nil {
		o.Ready(at)
	}
	err = s.punctual(ctx)
	o.Log.Info("witness ends; nodes that hear each other do not need it")
	return err
}

// drawn is a random number for a challenge. The system's source does not fail
// (getrandom(2)); if it did, there would be no witness.
func drawn() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (s *server) now() time.Duration { return time.Since(s.start) }

// The priority of the thread that answers: real-time where that is allowed, as the
// nodes' beat processes have it, else the best ordinary one. An answer that takes
// longer than a heartbeat does not count; on a machine whose processors were wanted
// by thirty programs one of an ordinary thread took 160 ms (measured; 2 cores).
const (
	serverPriority = 10
	serverNice     = -15
)

// hurry raises the calling thread's priority.
func hurry() error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: serverPriority}
	if unix.SchedSetAttr(0, &attr, 0) == nil {
		return nil
	}
	return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), serverNice)
}

// punctual runs the server on a thread of its own, with priority where that is allowed.
// It waits in the kernel: a wait in the runtime ends when an ordinary thread gets a processor.
func (s *server) punctual(ctx context.Context) error {
	socket := int32(-1)
	raw, err := s.conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { socket = int32(fd) }) // it outlives the thread below
	}
	ended, end, err2 := os.Pipe()
	if err = errors.Join(err, err2); err != nil {
		return &problem.Problem{Op: "listen as a witness", Kind: problem.Unavailable, Err: err}
	}
	defer ended.Close()
	defer context.AfterFunc(ctx, func() { end.Close() })()
	defer end.Close()
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its priority with it.
		runtime.LockOSThread()
		if err := hurry(); err != nil {
			s.o.Log.Info("answers with ordinary priority: on a busy machine they may come too late to count", "err", err, "hint", "let systemd give it priority, as examples/witness does")
		}
		done <- s.run(ctx, []unix.PollFd{{Fd: socket, Events: unix.POLLIN}, {Fd: int32(ended.Fd())}})
	}()
	return <-done
}

func (s *server) run(ctx context.Context, fds []unix.PollFd) error {
	var in [Size + 1]byte
	var out [Size]byte
	for {
		_, _ = unix.Poll(fds, -1) // interrupted, the read below waits
		n, from, err := s.conn.ReadFromUDPAddrPort(in[:])
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return &problem.Problem{Op: "read as a witness", Kind: problem.Internal, Err: err}
			}
			s.say(slog.LevelWarn, "a packet could not be read", "err", err) // an earlier answer came back, or memory is short
			s.pause(ctx, window)
			continue
		}
		began := s.now()
		r := s.book.Answer(election.Time(began), in[:n], out[:])
		if r.Packet != nil {
			_, _ = s.conn.WriteToUDPAddrPort(r.Packet, from) // an error is what a lost packet is
		}
		s.tell(r, from)
		s.budget(ctx, began)
	}
}

// budget waits for the next window when this one's share is used up.
func (s *server) budget(ctx context.Context, began time.Duration) {
	now := s.now()
	if now-s.since >= window {
		s.since, s.spent = now, 0
	}
	if s.spent += now - began; s.spent > share {
		s.pause(ctx, s.since+window-now)
	}
}

func (s *server) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// tell puts what is worth it into the log.
func (s *server) tell(r Reply, from netip.AddrPort) {
	who := func(more ...any) []any {
		return append([]any{"cluster", r.Cluster.String(), "node", r.Node.String(), "from", from.Addr().Unmap()}, more...)
	}
	switch r.What {
	case Junk, Stranger, Misused, Full, Unproven:
		s.stranger(r, from)
	case Taken:
		s.say(slog.LevelInfo, "lets lead", who("before", orNobody(r.Holder))...)
	case Given:
		s.say(slog.LevelInfo, "gave the lease back", who()...)
	case Kept:
		s.say(slog.LevelInfo, "refused: another node leads", who("leads", r.Holder.String())...)
	case Early:
		s.say(slog.LevelInfo, "refused: this witness has just started, and does not know whom it let lead before", who()...)
	}
}

func orNobody(n Name) string {
	if n == (Name{}) {
		return "nobody"
	}
	return n.String()
}

// stranger counts what was not answered, and says so once a minute.
func (s *server) stranger(r Reply, from netip.AddrPort) {
	s.strange[r.What]++
	s.last = from
	if r.What == Unproven && s.strange[Unproven] < provesPerSecond { // each start of a node or of this witness has one
		return
	}
	now := s.now()
	if now-s.strangeT < refusedEvery {
		return
	}
	s.strangeT = now
	hint := "strangers, or scans; nothing to do"
	switch r.What {
	case Stranger:
		hint = "if this is a node of yours, its key file is not this witness's: copy it there"
	case Full:
		hint = fmt.Sprintf("more than %d clusters, or more than %d nodes of one, in two minutes: give each household its own witness", maxClusters, election.MaxNodes)
	case Unproven:
		hint = "somebody sends recorded questions; they change nothing"
	}
	s.say(slog.LevelWarn, "packets not answered", "malformed", s.strange[Junk], "wrong_key", s.strange[Stranger], "misused", s.strange[Misused],
		"no_room", s.strange[Full], "recorded", s.strange[Unproven], "last_from", s.last, "hint", hint)
	clear(s.strange[:])
}

func (s *server) say(level slog.Level, text string, args ...any) {
	now := s.now()
	if now-s.second >= time.Second {
		if s.hidden > 0 {
			s.o.Log.Warn("lines left out", "count", s.hidden)
		}
		s.second, s.lines, s.hidden = now, 0, 0
	}
	if s.lines++; s.lines > linesPer {
		s.hidden++
		return
	}
	s.o.Log.Log(context.Background(), level, text, args...)
}
