package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/peer"
	"revolve/internal/testbed"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// lab is two disks and the connection between them.
type lab struct {
	row
	a, b  string // where the disks are
	image string
	here  *points.Store
	there *points.Store
	ident [2]*peer.Identity
	last  *points.Point
	rng   *rand.Rand
	port  string // of the rsync daemon
	proc  *exec.Cmd
}

const image = "vda.raw"

func newLab(ctx context.Context, stage *testbed.Stage, bed *testbed.Bed, r row) (*lab, error) {
	l := &lab{row: r, rng: rand.New(rand.NewPCG(uint64(r.size), 41)), port: "8730"}
	for i, id := range []cluster.NodeID{"a", "b"} {
		n, err := bed.AddNode(testbed.NodeSpec{ID: id, Disk: testbed.Disk{FS: r.fs, Size: 2*r.size + 4<<30}})
		if err != nil {
			return nil, err
		}
		if n.FS() != r.fs {
			return nil, fmt.Errorf("no %s here: %v", r.fs, bed.Fidelity())
		}
		if err := direct(n.Root()); err != nil {
			return nil, err
		}
		*[]*string{&l.a, &l.b}[i] = n.Root()
	}
	l.image = filepath.Join(l.a, image)
	var err error
	if l.here, err = points.Open(filepath.Join(l.a, "vms")); err != nil {
		return nil, err
	}
	if l.there, err = points.Open(filepath.Join(l.b, "vms")); err != nil {
		return nil, err
	}
	state := filepath.Join(stage.Dir, "identity")
	if err := errors.Join(os.RemoveAll(state), peer.Init(state+"/a", "bench", "a"), peer.Issue(state+"/a", "b", 0, peer.DefaultLife, state+"/b")); err != nil {
		return nil, err
	}
	for i, n := range []string{"/a", "/b"} {
		if l.ident[i], err = peer.LoadIdentity(state + n); err != nil {
			return nil, err
		}
	}
	return l, l.daemon(ctx, stage)
}

// direct has a loop device read and write its file without the page cache below it: else what is "read from the disk" comes from memory.
func direct(dir string) error {
	f, err := loopOf(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_DIRECT_IO, 1)
}

func loopOf(dir string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, err
	}
	return os.OpenFile(fmt.Sprintf("/dev/loop%d", unix.Minor(st.Dev)), os.O_RDWR, 0)
}

// traffic is how many bytes a disk has read and written.
func traffic(dir string) (read, written int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/7:%d/stat", unix.Minor(st.Dev)))
	if err != nil {
		return 0, 0, err
	}
	f := strings.Fields(string(b)) // Documentation/block/stat.rst: sectors of 512 bytes
	var r, w int64
	if _, err := fmt.Sscan(f[2], &r); err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(f[6], &w)
	return r * 512, w * 512, err
}

// daemon starts rsync's own way to be asked over a network.
func (l *lab) daemon(ctx context.Context, stage *testbed.Stage) error {
	conf := filepath.Join(stage.Dir, "rsyncd.conf")
	text := fmt.Sprintf("port = %s\naddress = 127.0.0.1\nuse chroot = no\nuid = root\ngid = root\n[b]\npath = %s\nread only = no\n", l.port, l.b)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	l.proc = exec.CommandContext(ctx, "rsync", "--daemon", "--no-detach", "--config", conf)
	return l.proc.Start()
}

func (l *lab) close() {
	if l.proc != nil {
		_ = l.proc.Process.Kill()
		_ = l.proc.Wait()
	}
	for _, s := range []*points.Store{l.here, l.there} {
		if s != nil {
			s.Close()
		}
	}
}

// create writes the image, and the same for rsync at the other side.
func (l *lab) create() error {
	f, err := os.Create(l.image)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 4<<20)
	for at := int64(0); at < l.size; at += int64(len(b)) {
		l.fill(b)
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (l *lab) fill(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], l.rng.Uint64())
	}
}

// change writes the scattered blocks.
func (l *lab) change() error {
	f, err := os.OpenFile(l.image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 4096)
	for range l.changes {
		l.fill(b)
		if _, err := f.WriteAt(b, l.rng.Int64N(l.size)&^4095); err != nil {
			return err
		}
	}
	return f.Sync()
}

// cold has nothing of the disks in memory.
func (l *lab) cold() error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return nil
}

// ours takes a point, sends it over the product's own connection, and returns when it is published there.
func (l *lab) ours(ctx context.Context, budget transfer.Budget) (points.Record, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	listener, err := peer.Listen(ctx, l.ident[1], func(cluster.NodeID) bool { return true }, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, quiet)
	if err != nil {
		return points.Record{}, err
	}
	done := make(chan error, 1)
	go func() {
		done <- listener.Serve(ctx, func(ctx context.Context, c *peer.Conn) {
			_ = transfer.Receive(ctx, c, transfer.Receiving{Store: l.there, Node: "b", Log: quiet}) // the sender hears why
		})
	}()
	r, err := l.send(ctx, listener.Addrs()[0], budget)
	cancel()
	return r, errors.Join(err, <-done)
}

func (l *lab) send(ctx context.Context, addr netip.AddrPort, budget transfer.Budget) (points.Record, error) {
	next := points.First("vm", time.Now())
	if l.last != nil {
		next = l.last.Next(time.Now())
	}
	next.Level = points.Shutdown
	release, err := l.here.Lock("vm")
	if err != nil {
		return points.Record{}, err
	}
	defer release()
	src, err := l.here.Take(next, "a", []points.Image{{Name: image, Path: l.image}})
	if err != nil {
		return points.Record{}, err
	}
	defer src.Close()
	if err := errors.Join(src.Clone(), src.Settle()); err != nil {
		return points.Record{}, err
	}
	c, err := peer.Dial(ctx, l.ident[0], "b", []peer.Path{{Link: "lan", Local: addr.Addr(), Remote: addr}}, transfer.Service)
	if err != nil {
		return points.Record{}, err
	}
	r, err := transfer.Send(ctx, c, transfer.Sending{Store: l.here, Source: src, Proof: budget})
	l.last = &src.Point
	return r, err
}

// rsync brings a file to the copy of that name, by differences.
func (l *lab) rsync(ctx context.Context, from, to string, flags ...string) (sent int64, err error) {
	args := append([]string{"--no-whole-file", "--fsync", "--stats", "-t"}, flags...)
	out, err := exec.CommandContext(ctx, "rsync", append(args, from, "rsync://127.0.0.1:"+l.port+"/b/"+to)...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("rsync: %w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "Total bytes sent: "); ok {
			_, err = fmt.Sscan(strings.ReplaceAll(strings.TrimSpace(rest), ",", ""), &sent)
		}
	}
	return sent, err
}

// equal compares two files by their bytes.
func equal(a, b string) error {
	f, err := os.Open(a)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return err
	}
	defer g.Close()
	x, y := make([]byte, 4<<20), make([]byte, 4<<20)
	for {
		n, err := io.ReadFull(f, x)
		m, _ := io.ReadFull(g, y)
		if n != m || string(x[:n]) != string(y[:m]) {
			return fmt.Errorf("%s and %s differ", a, b)
		}
		if err != nil {
			return nil
		}
	}
}
