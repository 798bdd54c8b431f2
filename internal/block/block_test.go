package block

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

func TestMain(m *testing.M) {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	os.Exit(m.Run())
}

func TestCompare(t *testing.T) {
	const k = 4096
	a := extent{at: 0, place: 100 * k, length: 8 * k}
	for name, c := range map[string]struct {
		old, new []extent
		size     int64
		want     []Range
	}{
		"same":                {[]extent{a}, []extent{a}, 8 * k, nil},
		"same, split":         {[]extent{a}, []extent{{0, 100 * k, 3 * k, 0}, {3 * k, 103 * k, 5 * k, 0}}, 8 * k, nil},
		"middle elsewhere":    {[]extent{a}, []extent{{0, 100 * k, 3 * k, 0}, {3 * k, 500 * k, k, 0}, {4 * k, 104 * k, 4 * k, 0}}, 8 * k, []Range{{3 * k, k, false}}},
		"moved by one":        {[]extent{a}, []extent{{0, 101 * k, 8 * k, 0}}, 8 * k, []Range{{0, 8 * k, false}}},
		"longer":              {[]extent{a}, []extent{a, {8 * k, 200 * k, 2 * k, 0}}, 9*k + 5, []Range{{8 * k, k + 5, false}}},
		"shorter":             {[]extent{a}, []extent{a}, 2 * k, nil},
		"punched":             {[]extent{a}, []extent{{0, 100 * k, k, 0}, {2 * k, 102 * k, 6 * k, 0}}, 8 * k, []Range{{k, k, true}}},
		"hole filled":         {nil, []extent{a}, 8 * k, []Range{{0, 8 * k, false}}},
		"holes":               {nil, nil, 8 * k, nil},
		"unwritten, written":  {[]extent{{0, 100 * k, 8 * k, flagZero}}, []extent{a}, 8 * k, []Range{{0, 8 * k, false}}},
		"nobody knows":        {[]extent{{0, 100 * k, 8 * k, 0x4}}, []extent{{0, 100 * k, 8 * k, 0x4}}, 8 * k, []Range{{0, 8 * k, false}}},
		"all gone":            {[]extent{a}, nil, 8 * k, []Range{{0, 8 * k, true}}},
		"nothing of a size 0": {[]extent{a}, []extent{a}, 0, nil},
	} {
		if got := compare(c.old, c.new, c.size); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestChangedOnXFS writes, cuts, lengthens and punches at random, and makes the
// new content out of the old and what Changed tells.
func TestChangedOnXFS(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		bed, err := testbed.NewBed(stage)
		must(t, err)
		defer bed.Close()
		n, err := bed.AddNode(testbed.NodeSpec{ID: "a", Disk: testbed.Disk{FS: "xfs", Size: 512 << 20}})
		must(t, err)
		if n.FS() != "xfs" {
			t.Skip("SKIPPED PART: blocks shared on XFS: no root, or no mkfs.xfs")
		}
		rng := rand.New(rand.NewPCG(7, 7))
		f, err := os.Create(filepath.Join(n.Root(), "file"))
		must(t, err)
		defer f.Close()
		b := make([]byte, 4<<20)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		_, err = f.Write(b)
		must(t, err)
		was := clone(t, f)
		small := 0
		for range 40 {
			old := content(t, was)
			for range 1 + rng.IntN(20) {
				change(t, f, rng)
			}
			now := clone(t, f)
			want := content(t, now)
			changed, err := Changed(was, now, int64(len(want)))
			must(t, err)
			got, sum := patch(old, want, changed)
			if !bytes.Equal(got, want) {
				t.Fatalf("what did not change by %v differs", changed)
			}
			if sum < int64(len(want))/2 {
				small++
			}
			was = now
		}
		if small == 0 {
			t.Error("every comparison told most of the file")
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func clone(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.Open(filepath.Dir(f.Name()), unix.O_TMPFILE|unix.O_RDWR, 0o600)
	must(t, err)
	c := os.NewFile(uintptr(fd), f.Name())
	t.Cleanup(func() { c.Close() })
	must(t, Clone(c, f))
	return c
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	info, err := f.Stat()
	must(t, err)
	b := make([]byte, info.Size())
	if len(b) > 0 {
		_, err = f.ReadAt(b, 0)
		must(t, err)
	}
	return b
}

func change(t *testing.T, f *os.File, rng *rand.Rand) {
	t.Helper()
	info, err := f.Stat()
	must(t, err)
	size := max(info.Size(), 1)
	switch rng.IntN(8) {
	case 0:
		must(t, f.Truncate(rng.Int64N(8<<20)))
	case 1:
		must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, rng.Int64N(size), 1+rng.Int64N(200_000)))
	case 2:
		must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, rng.Int64N(size), 1+rng.Int64N(100_000)))
	default:
		b := make([]byte, 1+rng.IntN(20_000))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		_, err := f.WriteAt(b, rng.Int64N(size))
		must(t, err)
	}
}

// patch is old with the changed ranges as they are in now.
func patch(old, now []byte, changed []Range) (got []byte, sum int64) {
	got = make([]byte, len(now))
	copy(got, old)
	for _, r := range changed {
		sum += r.Length
		if r.Hole {
			clear(got[r.At : r.At+r.Length])
		} else {
			copy(got[r.At:r.At+r.Length], now[r.At:])
		}
	}
	return got, sum
}
