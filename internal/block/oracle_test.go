package block

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/testbed"
)

// onDisk runs body in a directory on each of the filesystems.
func onDisk(t *testing.T, size int64, body func(t *testing.T, fs, dir string), kinds ...string) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm") // the disks are in memory: these tests wait for their syncs a thousand times
	}
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		bed, err := testbed.NewBed(stage)
		must(t, err)
		defer bed.Close()
		for _, fs := range kinds {
			n, err := bed.AddNode(testbed.NodeSpec{ID: cluster.NodeID(fs), Disk: testbed.Disk{FS: fs, Size: size}})
			must(t, err)
			if n.FS() != fs {
				t.Skip("SKIPPED PART: what changed in images on " + fs + ": no root, or no mkfs." + fs)
			}
			t.Run(fs, func(t *testing.T) { body(t, fs, n.Root()) }) // what it has open is closed before the disks go
		}
	})
}

// seeded is a source of random numbers whose seed is printed; REVOLVE_SEED plays one again.
func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("REVOLVE_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("REVOLVE_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 6))
}

// TestBytes is the oracle: whatever is done to an image, its copy, changed only
// where a tracker says so, is the image. The images are raw ones, one without
// checksums where btrfs has them, and a qcow2 that QEMU's own program writes to.
func TestBytes(t *testing.T) {
	onDisk(t, 512<<20, func(t *testing.T, fs, dir string) {
		rng := seeded(t)
		kinds := []string{"raw", "qcow2"}
		if fs == "btrfs" {
			kinds = append(kinds, "nocow")
		}
		choice, err := Choose(dir)
		must(t, err)
		if want := map[string]Tracker{"xfs": Maps, "btrfs": Maps, "ext4": Hashes}[fs]; choice.Tracker != want {
			t.Fatalf("%s: %v (%s), want %v", fs, choice.Tracker, choice.Why, want)
		}
		for _, kind := range kinds {
			playImage(t, image{kind: kind, fs: fs, path: filepath.Join(dir, kind), rng: rng, maps: choice.Tracker == Maps})
		}
	}, "xfs", "btrfs", "ext4")
}

// image is a file that is written to, and its copies.
type image struct {
	kind, fs, path string
	rng            *rand.Rand
	maps           bool
	f              *os.File
}

const rounds = 6

func playImage(t *testing.T, im image) {
	t.Helper()
	im.create(t)
	defer im.f.Close()
	byMaps, byHashes := scratch(t, im.path+".maps"), scratch(t, im.path+".hashes")
	var was *os.File
	table, small := "", 0
	for round := range rounds {
		im.write(t)
		now, size := im.f, sizeOf(t, im.f)
		if im.maps {
			now = clone(t, im.f)
		}
		want := sum(t, now)
		next := im.path + ".table" + strconv.Itoa(round)
		scanned := follow(t, byHashes, now, size, table, next)
		if got := sum(t, byHashes); got != want {
			t.Fatalf("%s on %s, round %d: the copy by hashes differs (%+v)", im.kind, im.fs, round, scanned)
		}
		table = next
		if im.maps && was != nil {
			changed, err := Changed(was, now, size)
			must(t, err)
			if total := patch(t, byMaps, now, size, changed); total < size/2 {
				small++
			}
			if got := sum(t, byMaps); got != want {
				t.Fatalf("%s on %s, round %d: the copy by extent maps differs: %v", im.kind, im.fs, round, changed)
			}
		} else {
			all, err := Data(now, size)
			must(t, err)
			patch(t, byMaps, now, size, all)
			if got := sum(t, byMaps); got != want {
				t.Fatalf("%s on %s, round %d: the sparse copy differs: %v", im.kind, im.fs, round, all)
			}
		}
		was = now
	}
	if im.maps && small == 0 {
		t.Errorf("%s on %s: every comparison told most of the image", im.kind, im.fs)
	}
}

func (im *image) create(t *testing.T) {
	t.Helper()
	var err error
	if im.kind == "qcow2" {
		if _, err := exec.LookPath("qemu-io"); err != nil {
			t.Log("SKIPPED PART: QEMU's own writes to a qcow2: no qemu-io")
			im.kind = "raw"
		} else if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", im.path, "64M").CombinedOutput(); err != nil {
			t.Fatalf("qemu-img: %v: %s", err, out)
		}
	}
	im.f, err = os.OpenFile(im.path, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	if im.kind == "qcow2" {
		return
	}
	if im.kind == "nocow" {
		must(t, unix.IoctlSetPointerInt(int(im.f.Fd()), unix.FS_IOC_SETFLAGS, flagNoCOW))
	}
	_, err = im.f.Write(random(im.rng, 8<<20))
	must(t, err)
}

// write changes the image as its kind is written to.
func (im *image) write(t *testing.T) {
	t.Helper()
	if im.kind != "qcow2" {
		for range 1 + im.rng.IntN(20) {
			change(t, im.f, im.rng)
		}
		return
	}
	args := []string{"-f", "qcow2", "-d", "unmap"}
	for range 1 + im.rng.IntN(20) {
		at, length := im.rng.Int64N(60<<20)&^511, (1+im.rng.Int64N(200))<<9
		verb := []string{"write -P " + strconv.Itoa(1+im.rng.IntN(255)), "write -z", "discard"}[max(0, im.rng.IntN(8)-5)]
		args = append(args, "-c", verb+" "+strconv.FormatInt(at, 10)+" "+strconv.FormatInt(length, 10))
	}
	if out, err := exec.Command("qemu-io", append(args, im.path)...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io %v: %v: %s", args, err, out)
	}
}

// follow brings a copy up to date by what Scan shows, and writes the next table.
func follow(t *testing.T, copied, f *os.File, size int64, table, next string) Scanned {
	t.Helper()
	var old *Table
	if table != "" {
		var err error
		old, err = OpenTable(table)
		must(t, err)
		defer old.Close()
	}
	out, err := os.Create(next)
	must(t, err)
	defer out.Close()
	must(t, copied.Truncate(size))
	s, err := Scan(context.Background(), f, size, old, out, func(r Range, data []byte) error {
		if r.Hole {
			return Punch(copied, r)
		}
		_, err := copied.WriteAt(data, r.At)
		return err
	})
	must(t, err)
	return s
}

// patch brings a copy up to date by a list of ranges.
func patch(t *testing.T, copied, f *os.File, size int64, ranges []Range) (total int64) {
	t.Helper()
	must(t, copied.Truncate(size))
	for _, r := range ranges {
		total += r.Length
		if r.Hole {
			must(t, Punch(copied, r))
			continue
		}
		b := make([]byte, r.Length)
		_, err := f.ReadAt(b, r.At)
		must(t, err)
		_, err = copied.WriteAt(b, r.At)
		must(t, err)
	}
	return total
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func scratch(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func clone(t *testing.T, f *os.File) *os.File {
	t.Helper()
	c, err := cloneIn(filepath.Dir(f.Name()), f)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func sizeOf(t *testing.T, f *os.File) int64 {
	t.Helper()
	info, err := f.Stat()
	must(t, err)
	return info.Size()
}

// sum is the hash of a file's bytes.
func sum(t *testing.T, f *os.File) [32]byte {
	t.Helper()
	b := make([]byte, sizeOf(t, f))
	if len(b) > 0 {
		_, err := f.ReadAt(b, 0)
		must(t, err)
	}
	return blake3.Sum256(b)
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// change does to a raw image what guests and people do.
func change(t *testing.T, f *os.File, rng *rand.Rand) {
	t.Helper()
	size := max(sizeOf(t, f), 1)
	at := rng.Int64N(size)
	switch rng.IntN(12) {
	case 0:
		must(t, f.Truncate(rng.Int64N(16<<20)))
	case 1, 2:
		must(t, Punch(f, Range{At: at, Length: 1 + rng.Int64N(200_000)}))
	case 3:
		// A file without checksums cannot be zeroed in place where its blocks are shared; others can.
		must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, at, 1+rng.Int64N(100_000)))
	case 4:
		must(t, unix.Fallocate(int(f.Fd()), 0, size, 1+rng.Int64N(300_000))) // grows, and is not written
	case 5: // the same bytes again
		b := make([]byte, min(65536, size-at))
		n, _ := f.ReadAt(b, at)
		_, err := f.WriteAt(b[:n], at)
		must(t, err)
	case 6: // through memory
		writeMapped(t, f, at&^4095, random(rng, 3000))
	case 7: // a piece of itself, shared with the filesystem's help where there is any
		from, to := int64(0), (size+4095)&^4095
		_, err := unix.CopyFileRange(int(f.Fd()), &from, int(f.Fd()), &to, int(min(65536, size)), 0)
		must(t, err)
	default:
		_, err := f.WriteAt(random(rng, 1+rng.IntN(20_000)), at)
		must(t, err)
	}
}

func writeMapped(t *testing.T, f *os.File, at int64, b []byte) {
	t.Helper()
	if at+4096 > sizeOf(t, f) {
		return
	}
	m, err := unix.Mmap(int(f.Fd()), at, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	copy(m, b)
	must(t, unix.Munmap(m))
}

// TestManyExtents compares an image in 100,000 pieces.
func TestManyExtents(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: many extents, and blocks that move (-short)")
	}
	onDisk(t, 2<<30, func(t *testing.T, fs, dir string) {
		pieces := 100_000
		if fs == "btrfs" {
			pieces /= 5 // it takes a minute to make them there
		}
		rng := seeded(t)
		f := scratch(t, filepath.Join(dir, "image"))
		pool := scratch(t, filepath.Join(dir, "pool"))
		_, err := pool.Write(random(rng, 32<<20))
		must(t, err)
		for i := range int64(pieces) {
			must(t, unix.IoctlFileCloneRange(int(f.Fd()), &unix.FileCloneRange{Src_fd: int64(pool.Fd()), Src_offset: uint64(i % 8192 * 4096), Src_length: 4096, Dest_offset: uint64(i * 8192)}))
		}
		was := clone(t, f)
		n, err := Extents(was)
		must(t, err)
		if n < pieces {
			t.Fatalf("%s: %d extents, want %d", fs, n, pieces)
		}
		want := map[int64]bool{}
		for range 500 {
			at := rng.Int64N(int64(pieces)) * 8192
			want[at] = true
			_, err := f.WriteAt(random(rng, 4096), at)
			must(t, err)
		}
		now := clone(t, f)
		changed, err := Changed(was, now, sizeOf(t, now))
		must(t, err)
		for _, r := range changed {
			for at := r.At; at < r.End(); at += 4096 {
				delete(want, at)
			}
		}
		if len(want) > 0 || len(changed) > 500 {
			t.Fatalf("%s: %d changes were not told, %d ranges for 500 writes", fs, len(want), len(changed))
		}
	}, "xfs", "btrfs")
}

// TestMoved compares while btrfs moves everything that it compares.
func TestMoved(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: many extents, and blocks that move (-short)")
	}
	btrfs, err := exec.LookPath("btrfs")
	if err != nil {
		t.Skip("SKIPPED PART: balance and defragmentation while maps are compared: no btrfs")
	}
	onDisk(t, 1<<30, func(t *testing.T, _, dir string) {
		rng := seeded(t)
		f := scratch(t, filepath.Join(dir, "image"))
		_, err := f.Write(random(rng, 16<<20))
		must(t, err)
		was := scratch(t, filepath.Join(dir, "was"))
		must(t, Clone(was, f))
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan int)
		go func() {
			moves := 0
			for ctx.Err() == nil {
				if exec.Command(btrfs, "balance", "start", "--full-balance", dir).Run() == nil {
					moves++
				}
				if exec.Command(btrfs, "filesystem", "defragment", "-f", "-t", "32M", was.Name(), f.Name()).Run() == nil {
					moves++
				}
			}
			done <- moves
		}()
		compared := 0
		for range 40 {
			for range 1 + rng.IntN(30) {
				_, err := f.WriteAt(random(rng, 4096), rng.Int64N(16<<20-4096))
				must(t, err)
			}
			now := clone(t, f)
			changed, err := Changed(was, now, 16<<20)
			if err == ErrUnsupported {
				continue // it said so
			}
			must(t, err)
			compared++
			old, new := content(t, was), content(t, now)
			for _, r := range changed {
				copy(old[r.At:r.End()], new[r.At:r.End()])
			}
			if !bytes.Equal(old, new) {
				t.Error("a change was not told while blocks moved")
			}
			now.Close()
		}
		stop()
		if moves := <-done; moves == 0 || compared == 0 {
			t.Errorf("%d moves, %d comparisons: nothing was tried", moves, compared)
		}
	}, "btrfs")
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	b := make([]byte, sizeOf(t, f))
	_, err := f.ReadAt(b, 0)
	must(t, err)
	return b
}
