package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/peer"
	"revolve/internal/testbed"
	"revolve/internal/vm/points"
)

func TestMain(m *testing.M) {
	switch {
	case testbed.Reexecuted():
		os.Exit(testbed.Child())
	case os.Getenv(envRole) != "":
		os.Exit(role())
	}
	os.Exit(m.Run())
}

// onDisks runs body with a directory on each of the filesystems, in memory.
func onDisks(t *testing.T, size int64, body func(t *testing.T, dirs map[string]string), kinds ...string) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		bed, err := testbed.NewBed(stage)
		must(t, err)
		defer bed.Close()
		dirs := map[string]string{}
		for _, fs := range kinds {
			n, err := bed.AddNode(testbed.NodeSpec{ID: cluster.NodeID(fs), Disk: testbed.Disk{FS: fs[:len(fs)-1], Size: size}})
			must(t, err)
			if n.FS() != fs[:len(fs)-1] {
				t.Skip("SKIPPED PART: points of VMs on " + fs + ": no root, or no mkfs")
			}
			dirs[fs] = n.Root()
		}
		t.Run("there", func(t *testing.T) { body(t, dirs) })
	})
}

// long says that a test has nothing for the race detector that others have not.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED PART: points of VMs in trouble (-short)")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("REVOLVE_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("REVOLVE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 6))
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// pair is two nodes of a cluster: identities, and the second listens.
type pair struct {
	a, b  *peer.Identity
	paths []peer.Path
}

func identities(t *testing.T) (state map[cluster.NodeID]string) {
	t.Helper()
	dir := t.TempDir()
	state = map[cluster.NodeID]string{"a": filepath.Join(dir, "a"), "b": filepath.Join(dir, "b")}
	must(t, peer.Init(state["a"], "homelab", "a"))
	must(t, peer.Issue(state["a"], "b", 0, peer.DefaultLife, state["b"]))
	return state
}

// newPair lets b receive into a store until the test ends.
func newPair(t *testing.T, store *points.Store) *pair {
	t.Helper()
	state := identities(t)
	p := &pair{}
	var err error
	p.a, err = peer.LoadIdentity(state["a"])
	must(t, err)
	p.b, err = peer.LoadIdentity(state["b"])
	must(t, err)
	l, err := peer.Listen(t.Context(), p.b, func(cluster.NodeID) bool { return true }, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, quiet())
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, func(ctx context.Context, c *peer.Conn) {
			_ = Receive(ctx, c, Receiving{Store: store, Node: "b", Log: quiet()}) // the sender hears why
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	p.paths = []peer.Path{{Link: "lan", Local: l.Addrs()[0].Addr(), Remote: l.Addrs()[0]}}
	return p
}

func (p *pair) dial(t *testing.T) *peer.Conn {
	t.Helper()
	c, err := peer.Dial(t.Context(), p.a, "b", p.paths, Service)
	must(t, err)
	return c
}

// machine is a VM's images, and what they were at each point.
type machine struct {
	dir   string
	store *points.Store
	rng   *rand.Rand
	last  *points.Point
	sums  map[points.ID]map[string][32]byte
}

func newMachine(t *testing.T, dir string, rng *rand.Rand, sizes ...int64) *machine {
	t.Helper()
	m := &machine{dir: dir, rng: rng, store: open(t, filepath.Join(dir, "vms")), sums: map[points.ID]map[string][32]byte{}}
	for i, size := range sizes {
		must(t, os.WriteFile(m.image(i), random(rng, int(size)), 0o600))
	}
	return m
}

func open(t *testing.T, dir string) *points.Store {
	t.Helper()
	s, err := points.Open(dir)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func (m *machine) image(i int) string { return filepath.Join(m.dir, "disk"+strconv.Itoa(i)+".raw") }

const vmName = "web server/1"

// take makes the next point of all images.
func (m *machine) take(t *testing.T) *points.Source {
	t.Helper()
	next := points.First(vmName, time.Now())
	if m.last != nil {
		next = m.last.Next(time.Now())
	}
	src, err := takeIn(m.store, m.dir, next)
	must(t, err)
	m.last = &src.Point
	sums := map[string][32]byte{}
	for _, f := range src.Files {
		sums[f.Name] = sum(t, f.F)
	}
	m.sums[src.ID] = sums
	return src
}

// takeIn makes a point of the images in a directory.
func takeIn(store *points.Store, dir string, next points.Point) (*points.Source, error) {
	next.Level = points.Suspend
	images := []points.Image{{Name: "domain.xml", Bytes: []byte("<domain/>")}}
	names, _ := filepath.Glob(filepath.Join(dir, "*.raw"))
	for _, n := range names {
		images = append(images, points.Image{Name: filepath.Base(n), Path: n})
	}
	release, err := store.Lock(next.VM)
	if err != nil {
		return nil, err
	}
	defer release()
	src, err := store.Take(next, "a", images)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(src.Clone(), src.Settle()); err != nil {
		src.Close()
		return nil, err
	}
	return src, nil
}

// whole compares every point of a store with what was taken.
func (m *machine) whole(t *testing.T, s *points.Store) (ids []points.ID) {
	t.Helper()
	list, err := s.List(vmName)
	must(t, err)
	for _, r := range list {
		ids = append(ids, r.ID)
		for i, f := range r.Files {
			if r.Here.Files[i].Table != "" {
				continue // only its hashes are kept
			}
			held, err := os.Open(filepath.Join(s.Path(vmName, r.ID), f.Name))
			must(t, err)
			if got := sum(t, held); got != m.sums[r.ID][f.Name] {
				t.Errorf("%s of point %s is not what was taken: %+v", f.Name, r.ID, r.Here)
			}
			held.Close()
		}
	}
	return ids
}

func sum(t *testing.T, f *os.File) (h [32]byte) {
	t.Helper()
	info, err := f.Stat()
	must(t, err)
	b := make([]byte, info.Size())
	if len(b) > 0 {
		_, err = f.ReadAt(b, 0)
		must(t, err)
	}
	return blake3.Sum256(b)
}

func random(rng *rand.Rand, n int) []byte {
	var seed [32]byte
	for i := range 4 {
		binary.LittleEndian.PutUint64(seed[8*i:], rng.Uint64())
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // it never fails; byte by byte the race detector would look at each
	return b
}

// change writes to an image as a guest does.
func (m *machine) change(t *testing.T, i, writes int) {
	t.Helper()
	f, err := os.OpenFile(m.image(i), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	size := info.Size()
	for range writes {
		at := m.rng.Int64N(size) &^ 4095
		switch m.rng.IntN(10) {
		case 0:
			must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, 8192))
		case 1:
			_, err = f.WriteAt(make([]byte, 4096), at)
		default:
			_, err = f.WriteAt(random(m.rng, 4096), at)
		}
		must(t, err)
	}
	if m.rng.IntN(4) == 0 {
		must(t, f.Truncate(size+int64(m.rng.IntN(100_000))-30_000))
	}
}

func sumOf(t *testing.T, b []byte) [32]byte {
	t.Helper()
	return blake3.Sum256(b)
}
