package apply

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/wire"
)

// fly stages operations as the next of the stream and publishes them ahead.
func (r *rig) fly(ops ...wire.Op) (bool, error) {
	for _, o := range ops {
		r.seq++
		o.Seq = r.seq
		if err := r.Stage(o); err != nil {
			return false, err
		}
	}
	return r.Fly(1)
}

func (r *rig) mustFly(ops ...wire.Op) {
	r.t.Helper()
	if flew, err := r.fly(ops...); err != nil || !flew {
		r.t.Fatal(flew, err)
	}
}

func TestNewNamesAreSeenBeforeTheJournalKnowsThem(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.mustFly(dirOp("d"), fileOp("d/one", "1"))
	r.mustFly(fileOp("d/two", "2"))
	r.wants("d/one", "1")
	r.wants("d/two", "2")
	if p := r.o.Journal.Position(); p.Seq != 0 {
		t.Fatalf("the journal stands at %v before anything is durable", p)
	}
	if err := r.Settle(); err != nil {
		t.Fatal(err)
	}
	if p, n := r.o.Journal.Position(), r.TakeLanded(); p.Seq != 3 || n != 2 {
		t.Fatalf("after landing: position %v, %d batches; want 3 changes in 2", p, n)
	}
	if n := r.o.Journal.OwedLen(); n != 0 {
		t.Fatalf("%d paths are owed after landing", n)
	}
}

// What was visible and not durable when the node died is asked for again, from
// whoever leads then: its bytes may be missing.
func TestWhatFlewIsOwedAfterACrash(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.mustFly(fileOp("landed", "1"))
	if err := r.Settle(); err != nil {
		t.Fatal(err)
	}
	r.mustFly(fileOp("flying", "2"))
	r.reopen()
	owed := r.o.Journal.Owed()
	if _, ok := owed.Get("flying"); !ok || owed.Len() != 1 {
		t.Fatalf("owed after the crash: %v; want what flew", owed.List())
	}
	r.reopen() // the debt itself is durable
	if n := r.o.Journal.OwedLen(); n != 1 {
		t.Fatalf("%d paths are owed after the second start", n)
	}
	r.reload()
	r.seq = 1
	r.do(fileOp("flying", "2"))
	r.reopen()
	if owed := r.o.Journal.Owed(); owed.Len() != 0 {
		t.Fatalf("paid and still owed: %v", owed.List())
	}
}

func TestOrderKeepsBatchesOnTheGround(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.mustFly(fileOp("a", "1"))
	for _, ops := range [][]wire.Op{{renameOp("a", "b")}, {removeOp("b")}, {fileOp("x", "1"), fileOp("x", "2")}} {
		flew, err := r.fly(ops...)
		if err != nil || flew {
			t.Fatalf("%v: flew %v, %v", ops, flew, err)
		}
		if err := r.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	r.wants("x", "2")
	r.gone("a")
	r.gone("b")
	if p, n := r.o.Journal.Position(), r.TakeLanded(); p.Seq != r.seq || n != 1 {
		t.Errorf("position %v of %d, %d batches landed", p, r.seq, n)
	}
}

// TestP8PowerLossWhileFilesFly cuts the power while files are published ahead.
// One that replaced another must be whole; one that the journal knows must be
// there; and what is there and not whole must be owed, or be found by its time as
// not written by this node's journal (the scan after an unclean stop).
func TestP8PowerLossWhileFilesFly(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			privateMounts(t)
			d := newLoopDisk(t, fs)
			for trial := range 6 {
				flightTrial(t, d, trial)
			}
		})
	}
}

func flightTrial(t *testing.T, d *loopDisk, trial int) {
	vol, state := filepath.Join(d.at, fmt.Sprint("vol", trial)), filepath.Join(d.at, fmt.Sprint("state", trial))
	for _, dir := range []string{vol, state} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := newRigAt(t, vol, state)
	r.do(fileOp("same", string(version(0))))
	unix.Sync()
	done := make(chan error, 1)
	power, after := d.power(), time.Duration(rand.IntN(60))*time.Millisecond
	go func() {
		time.Sleep(after)
		done <- cut(power)
	}()
	tried := 1
	for ; ; tried++ {
		if _, err := r.fly(fileOp(fmt.Sprint("new", tried), string(version(tried))), fileOp("same", string(version(tried)))); err != nil {
			break
		}
		if tried%5 == 0 && r.Settle() != nil {
			break
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.Abort()
	r.halt()
	d.again()
	r.open()
	if n := wholeVersion(filepath.Join(vol, "same")); n < 0 {
		t.Errorf("trial %d: the replaced file is no version after the power cut", trial)
	}
	promised, owed := int(r.o.Journal.Position().Seq-1)/2, r.o.Journal.Owed()
	for i := 1; i <= tried; i++ {
		name := fmt.Sprint("new", i)
		_, asked := owed.Get(name)
		info, err := os.Lstat(filepath.Join(vol, name))
		asked = asked || err == nil && ctime(info).After(r.found.Known)
		switch n := wholeVersion(filepath.Join(vol, name)); {
		case i <= promised && n != i:
			t.Errorf("trial %d: %s was promised and is version %d", trial, name, n)
		case err == nil && n != i && !asked:
			t.Errorf("trial %d: %s is there, not whole, and not owed", trial, name)
		}
	}
	t.Logf("trial %d: %d promised, %d tried, %d owed", trial, promised, tried, owed.Len())
	r.halt()
}

func ctime(info os.FileInfo) time.Time {
	st := info.Sys().(*syscall.Stat_t)
	return time.Unix(st.Ctim.Unix())
}

// wholeVersion is the version in a file, -1 if it is none.
func wholeVersion(name string) int {
	b, err := os.ReadFile(name)
	var n int
	if _, serr := fmt.Sscanf(string(b[:min(8, len(b))]), "%d", &n); err != nil || serr != nil || string(b) != string(version(n)) {
		return -1
	}
	return n
}
