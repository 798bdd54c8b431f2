package apply

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSyncFullPowerLoss cuts the power while new files come and others are
// replaced, with sync: full. Whatever has a name then is whole, without anybody
// asking for it again, and nothing is owed; what was acknowledged is there.
// (With sync: group a new file may be short: TestP8PowerLossWhileFilesFly.)
func TestSyncFullPowerLoss(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			privateMounts(t)
			d := newLoopDisk(t, fs)
			for trial := range 6 {
				fullTrial(t, d, trial)
			}
		})
	}
}

func fullTrial(t *testing.T, d *loopDisk, trial int) {
	vol, state := filepath.Join(d.at, fmt.Sprint("vol", trial)), filepath.Join(d.at, fmt.Sprint("state", trial))
	for _, dir := range []string{vol, state} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := newRigAt(t, vol, state)
	r.o.SyncFull = true
	r.do(fileOp("same", string(version(0))))
	unix.Sync()
	done := make(chan error, 1)
	power, after := d.power(), time.Duration(rand.IntN(60))*time.Millisecond
	go func() {
		time.Sleep(after)
		done <- cut(power)
	}()
	tried, acked := 1, 0
	for ; ; tried++ {
		flew, err := r.fly(fileOp(fmt.Sprint("new", tried), string(version(tried))), fileOp("same", string(version(tried))))
		if flew {
			t.Error("something flew")
		}
		if err != nil || r.Commit() != nil {
			break
		}
		acked = tried
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.Abort()
	r.halt()
	d.again()
	r.open()
	if n := wholeVersion(filepath.Join(vol, "same")); n < acked || n > tried {
		t.Errorf("trial %d: the replaced file is version %d of %d, %d were acknowledged", trial, n, tried, acked)
	}
	if n := r.o.Journal.OwedLen(); n != 0 {
		t.Errorf("trial %d: %d paths are owed", trial, n)
	}
	for i := 1; i <= tried; i++ {
		name := filepath.Join(vol, fmt.Sprint("new", i))
		_, err := os.Lstat(name)
		switch n := wholeVersion(name); {
		case i <= acked && n != i:
			t.Errorf("trial %d: new%d was acknowledged and is version %d", trial, i, n)
		case err == nil && n != i:
			t.Errorf("trial %d: new%d is there and not whole", trial, i)
		}
	}
	t.Logf("trial %d: %d acknowledged, %d tried", trial, acked, tried)
	r.halt()
}

// BenchmarkSync is the price of the two kinds of sync: one small file in each
// batch, as fast as they are taken. REVOLVE_BENCH_DIR is a directory on the
// filesystem to measure; without it a temporary one. Of group every settleFiles
// files share a sync, which is 200 files a second and a sync every 20 ms.
func BenchmarkSync(b *testing.B) {
	for _, full := range []bool{true, false} {
		b.Run(map[bool]string{true: "full", false: "group"}[full], func(b *testing.B) {
			base, err := os.MkdirTemp(os.Getenv("REVOLVE_BENCH_DIR"), "sync")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(base)
			benchSync(b, base, full)
		})
	}
}

// settleFiles is so many files to a sync of group.
const settleFiles = 4

func benchSync(b *testing.B, base string, full bool) {
	data := strings.Repeat("x", 2048)
	vol, state := filepath.Join(base, "vol"), filepath.Join(base, "state")
	if err := os.Mkdir(vol, 0o755); err != nil {
		b.Fatal(err)
	}
	r := newRigAt(b, vol, state)
	defer r.halt()
	r.o.SyncFull = full
	var seen time.Duration
	for n := range b.N {
		began := time.Now()
		flew, err := r.fly(fileOp(fmt.Sprint("f", n), data))
		if err == nil && !flew {
			err = r.Commit()
		}
		seen += time.Since(began)
		if err == nil && flew && n%settleFiles == settleFiles-1 {
			err = r.Settle()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(seen.Microseconds())/float64(b.N), "us-until-seen")
}
