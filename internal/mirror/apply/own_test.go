package apply

import (
	"testing"
	"time"

	"revolve/internal/mirror/tree"
)

func TestWhose(t *testing.T) {
	base := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) int64 { return base.UnixNano() + int64(s*1e9) }
	file := func(inode uint64, mtime, ctime float64) tree.Meta {
		return tree.Meta{Kind: tree.File, Inode: inode, Size: 5, MTime: at(mtime), CTime: at(ctime)}
	}
	var o own
	o.begin(at(100))
	o.note(file(1, 1, 101))
	larger := file(1, 1, 102)
	larger.Size++
	for _, tc := range []struct {
		name string
		m    tree.Meta
		now  float64
		want whose
	}{
		{"as it was applied", file(1, 1, 101), 102, ours},
		{"as it was applied, with another name since", file(1, 1, 200), 201, ours},
		{"written since", larger, 102, others},
		{"written since, long ago", file(1, 102, 102), 9000, others},
		{"never seen, and it changed just now", file(2, 102, 102), 103, others},
		{"never seen, and it was given an old time", file(2, 1, 102), 103, others},
		{"never seen, and it changed before the stream began", file(2, 99, 99), 102, unknown},
		{"never seen, and the watcher has told of it long since", file(2, 102, 102), 200, unknown},
	} {
		if got := o.of(tc.m, time.Unix(0, at(tc.now))); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// TestWhoseAfterAReign: a program may have rewritten in place what was applied here, under a reign of this
// node's. The watcher has told of that, and a survivor's newer version is not to be put aside for it.
func TestWhoseAfterAReign(t *testing.T) {
	file := func(size, ctime int64) tree.Meta {
		return tree.Meta{Kind: tree.File, Inode: 1, Size: size, CTime: ctime}
	}
	var o own
	o.begin(100)
	o.note(file(5, 101))
	now := time.Unix(0, 400)
	o.begin(150) // the stream broke and came again; nobody led here meanwhile
	if got := o.of(file(6, 140), now); got != others {
		t.Errorf("rewritten before the stream came again: %d", got)
	}
	o.reigned()
	o.begin(300)
	if got := o.of(file(6, 200), now); got != unknown {
		t.Errorf("rewritten before the stream began: %d", got)
	}
	if got := o.of(file(6, 301), now); got != others {
		t.Errorf("rewritten since: %d", got)
	}
}

// TestWhoseIsBounded: what was forgotten counts as nobody's, and only that.
func TestWhoseIsBounded(t *testing.T) {
	var o own
	noted := func(i int) tree.Meta {
		return tree.Meta{Kind: tree.File, Inode: uint64(i), Size: 5, CTime: int64(i)}
	}
	o.begin(1)
	const n = 3*ownMost + 10
	for i := 2; i < n; i++ {
		o.note(noted(i))
		if len(o.young)+len(o.old) > 2*ownMost {
			t.Fatalf("%d records", len(o.young)+len(o.old))
		}
	}
	now := time.Unix(0, n)
	for i := 2; i < n; i++ {
		if got := o.of(noted(i), now); got == others || got == unknown && i > n-ownMost {
			t.Fatalf("%d of %d: %d", i, n, got)
		}
	}
	stranger := noted(n)
	if got := o.of(stranger, now); got != others {
		t.Errorf("another's: %d", got)
	}
}
