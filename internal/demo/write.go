package demo

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// What the writer does: 100 changes a second while its node holds the address,
// on files of 1-4 KiB, of which it keeps a few hundred.
const (
	writeEvery = 10 * time.Millisecond
	writeMin   = 1 << 10
	writeMax   = 4 << 10
	writeKeep  = 200
)

// writerDir is where in the volume the writer works; below it one directory per run.
const writerDir = "writer"

// op is what a change does.
type op string

const (
	opCreate  op = "create"
	opReplace op = "replace" // written aside, then renamed over
	opRewrite op = "rewrite" // truncated and written in place
	opRename  op = "rename"
	opDelete  op = "delete"
	opPaused  op = "paused" // no change: the writer rests now
)

// change is one change of a writer. It is printed twice: as an intent (at is 0),
// and once its system calls have returned.
type change struct {
	at   instant
	node string
	run  int // a new one for every reign of the node
	n    int // counts the changes of a writer process
	op   op
	path string // relative to the volume
	to   string // of a rename
}

// line is the change as the writer prints it; node is known to the reader.
func (c change) line() string {
	return fmt.Sprintf("%d %d %d %s %s %s\n", c.at, c.run, c.n, c.op, c.path, c.to)
}

func parseChange(node, line string) (change, error) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) != 6 {
		return change{}, fmt.Errorf("a change has 6 fields: %q", line)
	}
	at, err1 := strconv.ParseInt(f[0], 10, 64)
	run, err2 := strconv.Atoi(f[1])
	n, err3 := strconv.Atoi(f[2])
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return change{}, fmt.Errorf("%q: %w", line, err)
		}
	}
	return change{at: instant(at), node: node, run: run, n: n, op: op(f[3]), path: f[4], to: f[5]}, nil
}

// stamp says who wrote a file's content; it is the first line of the file.
type stamp struct {
	node string
	run  int
	n    int
}

// content is a stamped body of size bytes with its checksum.
func (s stamp) content(size int) []byte {
	line := fmt.Sprintf("%s %d %d %d\n", s.node, s.run, s.n, size)
	body := []byte(strings.Repeat(line, size/len(line)+1)[:size])
	return append(fmt.Appendf(nil, "revolve-demo %08x ", crc32.ChecksumIEEE(append([]byte(line), body...))), append([]byte(line), body...)...)
}

// readStamp checks a whole file's content and says who wrote it.
func readStamp(b []byte) (stamp, bool) {
	var s stamp
	var sum uint32
	var size int
	head, body, ok := strings.Cut(string(b), "\n")
	if !ok {
		return s, false
	}
	if n, err := fmt.Sscanf(head, "revolve-demo %08x %s %d %d %d", &sum, &s.node, &s.run, &s.n, &size); n != 5 || err != nil {
		return s, false
	}
	line := fmt.Sprintf("%s %d %d %d\n", s.node, s.run, s.n, size)
	return s, len(body) == size && crc32.ChecksumIEEE([]byte(line+body)) == sum
}

// WriteOptions says where and when the writer writes.
type WriteOptions struct {
	Dir   string     // the volume, as the node sees it
	Node  string     // whose name goes into every file
	Run   int        // the first run's number
	While netip.Addr // write only while this address is on this machine
	Seed  uint64
}

// Write changes files while the address is here, and prints each change to out
// once it is done, until ctx ends. SIGUSR1 makes it rest and say so, SIGUSR2 go on.
func Write(ctx context.Context, o WriteOptions, out io.Writer) error {
	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(sigs)
	w := &writer{o: o, out: out, rnd: rand.New(rand.NewPCG(o.Seed, uint64(o.Run))), run: o.Run}
	t := time.NewTicker(writeEvery)
	defer t.Stop()
	paused := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-sigs:
			if paused = s == unix.SIGUSR1; paused {
				if err := w.say(change{op: opPaused}, now()); err != nil {
					return err
				}
			}
		case <-t.C:
			if paused {
				continue
			}
			if !isLocal(o.While) {
				w.here = false
				continue
			}
			if err := w.step(); err != nil {
				return err
			}
		}
	}
}

// isLocal reports whether the address is on an interface: only then can a socket
// be bound to it (EADDRNOTAVAIL otherwise, bind(2)).
func isLocal(a netip.Addr) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: a.As4()}) == nil
}

type writer struct {
	o    WriteOptions
	out  io.Writer
	rnd  *rand.Rand
	run  int
	n    int
	here bool     // in a reign: the run goes on
	live []string // files of this run
}

// step makes one change. An error of the volume (it may be read-only, or full, or
// its power gone) is waited out: the change did not happen.
func (w *writer) step() error {
	if !w.here {
		w.here, w.run, w.live = true, w.run+1, nil
	}
	w.n++
	c := w.choose()
	if err := w.say(c, 0); err != nil {
		return err
	}
	if w.do(c) != nil {
		return nil
	}
	switch c.op {
	case opCreate:
		w.live = append(w.live, c.path)
	case opRename:
		w.replace(c.path, c.to)
	case opDelete:
		w.replace(c.path, "")
	}
	return w.say(c, now())
}

func (w *writer) replace(old, with string) {
	for i, p := range w.live {
		if p == old && with != "" {
			w.live[i] = with
		} else if p == old {
			w.live = append(w.live[:i], w.live[i+1:]...)
			return
		}
	}
}

func (w *writer) choose() change {
	c := change{node: w.o.Node, run: w.run, n: w.n, op: opCreate}
	fresh := filepath.Join(writerDir, fmt.Sprintf("%s-%d", w.o.Node, w.run), fmt.Sprintf("%06d.txt", w.n))
	dice := w.rnd.IntN(100)
	if len(w.live) >= writeKeep {
		dice = 99
	}
	switch {
	case len(w.live) == 0 || dice < 50:
		c.path = fresh
		return c
	case dice < 65:
		c.op = opReplace
	case dice < 80:
		c.op = opRewrite
	case dice < 90:
		c.op, c.to = opRename, fresh
	default:
		c.op = opDelete
	}
	c.path = w.live[w.rnd.IntN(len(w.live))]
	return c
}

func (w *writer) do(c change) error {
	full := filepath.Join(w.o.Dir, c.path)
	data := stamp{node: c.node, run: c.run, n: c.n}.content(writeMin + w.rnd.IntN(writeMax-writeMin))
	switch c.op {
	case opCreate:
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		return os.WriteFile(full, data, 0o644)
	case opRewrite:
		return os.WriteFile(full, data, 0o644)
	case opReplace:
		if err := os.WriteFile(full+".new", data, 0o640); err != nil {
			return err
		}
		return os.Rename(full+".new", full)
	case opRename:
		return os.Rename(full, filepath.Join(w.o.Dir, c.to))
	}
	return os.Remove(full)
}

func (w *writer) say(c change, at instant) error {
	c.at = at
	if c.path == "" {
		c.path = "-"
	}
	if _, err := io.WriteString(w.out, c.line()); err != nil {
		return &problem.Problem{Op: "write the ledger", Kind: problem.Unavailable, Err: err}
	}
	return nil
}
