package block

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"revolve/internal/problem"
)

func everything(Range, []byte) error { return nil }

// A table that is not as it was written is not believed.
func TestTableIsSealed(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	f := scratch(t, filepath.Join(t.TempDir(), "image"))
	_, err := f.Write(random(rng, 300_000))
	must(t, err)
	path := filepath.Join(t.TempDir(), "table")
	follow(t, scratch(t, f.Name()+".copy"), f, 300_000, "", path)
	whole, err := os.ReadFile(path)
	must(t, err)
	if old, err := OpenTable(path); err != nil {
		t.Fatal(err)
	} else {
		old.Close()
	}
	for _, n := range []int{0, 9, 17, tableHead, len(whole) / 2, len(whole) - 1} {
		bad := append([]byte(nil), whole...)
		bad[n] ^= 1
		must(t, os.WriteFile(path, bad, 0o600))
		if _, err := OpenTable(path); problem.KindOf(err) != problem.Corrupt {
			t.Errorf("byte %d flipped: %v", n, err)
		}
	}
	for _, n := range []int{0, 10, tableHead, len(whole) - 1} {
		must(t, os.WriteFile(path, whole[:n], 0o600))
		if _, err := OpenTable(path); problem.KindOf(err) != problem.Corrupt {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if _, err := OpenTable(path + ".none"); problem.KindOf(err) != problem.NotFound {
		t.Errorf("no table: %v", err)
	}
}

// What did not change is read once and not shown; holes are not even read.
func TestScanCounts(t *testing.T) {
	const size = 64 << 20
	rng := rand.New(rand.NewPCG(2, 2))
	dir := t.TempDir()
	f, copied := scratch(t, filepath.Join(dir, "image")), scratch(t, filepath.Join(dir, "copy"))
	must(t, f.Truncate(size))
	_, err := f.WriteAt(random(rng, 8<<20), 16<<20)
	must(t, err)
	first := follow(t, copied, f, size, "", filepath.Join(dir, "1"))
	if first.Read != 8<<20 || first.Blocks != size/4096 {
		t.Errorf("the first reading: %+v", first)
	}
	_, err = f.WriteAt([]byte("changed"), 20<<20)
	must(t, err)
	second := follow(t, copied, f, size, filepath.Join(dir, "1"), filepath.Join(dir, "2"))
	if second.Read != 8<<20 || second.Changed != 1 {
		t.Errorf("the second reading: %+v", second)
	}
	if sum(t, f) != sum(t, copied) {
		t.Error("the copy differs")
	}
	stop := errors.New("enough")
	if _, err := Scan(context.Background(), f, size, nil, nil, func(Range, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a scan that was to stop: %v", err)
	}
	ended, end := context.WithCancel(context.Background())
	end()
	if _, err := Scan(ended, f, size, nil, nil, everything); !errors.Is(err, context.Canceled) {
		t.Errorf("a scan whose time is over: %v", err)
	}
}

// A table of blocks of another size is refused, not compared.
func TestBlockSizes(t *testing.T) {
	for size, want := range map[int64]int64{0: 4096, 64 << 30: 4096, 65 << 30: 8192, 1 << 40: 64 << 10, 6 << 40: 64 << 10} {
		if got := BlockSize(size); got != want {
			t.Errorf("%d bytes: blocks of %d, want %d", size, got, want)
		}
	}
	f := scratch(t, filepath.Join(t.TempDir(), "image"))
	if _, err := Scan(context.Background(), f, 0, &Table{block: 8192}, nil, everything); problem.KindOf(err) != problem.Invalid {
		t.Errorf("blocks of another size: %v", err)
	}
}

// A stamp tells a file from what replaced it, and its bytes from others, also
// within the same second and with the same size.
func TestStamps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	write := func(text string) Stamp {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return stampAt(t, path)
	}
	first := write("one")
	if again := stampAt(t, path); again != first {
		t.Errorf("nothing happened: %v, %v", first, again)
	}
	if first.FS == "" || first.Inode == 0 {
		t.Errorf("a stamp that says little: %+v", first)
	}
	waitForTick(t, path, first)
	second := write("two")
	if second == first {
		t.Error("other bytes have the same stamp")
	}
	must(t, os.WriteFile(path+".new", []byte("two"), 0o600))
	must(t, os.Rename(path+".new", path))
	if stampAt(t, path) == second {
		t.Error("another file under the name has the same stamp")
	}
}

// waitForTick waits until the kernel's clock of inodes has moved on (it has ticks of up to 10 ms).
func waitForTick(t *testing.T, path string, was Stamp) {
	t.Helper()
	for other := path + ".tick"; ; {
		must(t, os.WriteFile(other, nil, 0o600))
		if stampAt(t, other).CTime > was.CTime {
			return
		}
	}
}

func stampAt(t *testing.T, path string) Stamp {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	s, err := StampOf(f)
	must(t, err)
	return s
}
