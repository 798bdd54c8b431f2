package apply

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

const (
	// hugeNames is the number of names in one directory; its comparison is 40 lists.
	hugeNames = 40_000
	// hugeWork is how many listings' worth of processor time the comparison may take: in steps that grow with
	// the directory for each list, it was 90 for 100,000 names.
	hugeWork = 15
)

// TestHugeDirectory: comparing one directory of very many names looks at each a
// few times, not at all of them for each list.
func TestHugeDirectory(t *testing.T) {
	r := newRig(t, inMemory(t))
	name := func(i int) string { return fmt.Sprintf("n%06d", i) }
	for i := range hugeNames {
		f, err := os.OpenFile(r.abs(name(i)), os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := os.Remove(r.abs(name(4_242))); err != nil { // one is missing
		t.Fatal(err)
	}
	r.write(name(37_777)+"-extra", "x")
	one := processorTime(t)
	all, err := r.o.Root.List("")
	if err != nil {
		t.Fatal(err)
	}
	one = processorTime(t) - one
	c := r.Compare(1)
	var wants [][]byte
	work := processorTime(t)
	for at := 0; at < hugeNames; at += wire.ListMax {
		l := wire.List{Job: 1, Extras: wire.ExtrasTrash, Meta: tree.Meta{Kind: tree.Dir, Mode: 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}}
		if at > 0 {
			l.From = name(at - 1)
		}
		if at+wire.ListMax < hugeNames {
			l.To = name(at + wire.ListMax - 1)
		}
		for i := at; i < at+wire.ListMax; i++ {
			l.Entries = append(l.Entries, tree.Entry{Name: name(i), Meta: all[0].Meta})
			l.Entries[len(l.Entries)-1].Meta.MTime = metaOf(all, name(i)).MTime
		}
		more, err := c.List(l)
		if err != nil {
			t.Fatal(err)
		}
		wants = append(wants, more...)
	}
	if _, err := c.End(); err != nil {
		t.Fatal(err)
	}
	if len(wants) != 1 || string(wants[0]) != name(4_242) {
		t.Errorf("%d files are wanted, such as %q", len(wants), wants[:min(3, len(wants))])
	}
	r.gone(name(37_777) + "-extra")
	if work = processorTime(t) - work; work > hugeWork*one {
		t.Errorf("the comparison took the work of %d listings", work/one)
	} else {
		t.Logf("a listing took %v of processor time, the comparison %v", one, work)
	}
}

func metaOf(all []tree.Entry, name string) tree.Meta {
	lo, hi := 0, len(all)
	for lo < hi {
		if mid := (lo + hi) / 2; all[mid].Name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(all) && all[lo].Name == name {
		return all[lo].Meta
	}
	return tree.Meta{}
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
