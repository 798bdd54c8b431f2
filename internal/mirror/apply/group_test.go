package apply

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// groupOp is a file with several names; without content it only says that they belong together.
func groupOp(how wire.How, content string, names ...string) wire.Op {
	op := fileOp(names[0], content)
	op.Kind, op.How, op.Names, op.Meta.Group = wire.OpGroup, how, names[1:], 77
	if how != wire.GroupData {
		op.Data = nil
	}
	if how == wire.GroupOffer {
		op.ID = 5
	}
	return op
}

func (r *rig) inode(rel string) uint64 {
	r.t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(r.abs(rel), &st); err != nil {
		r.t.Fatal(err)
	}
	return st.Ino
}

func (r *rig) one(names ...string) {
	r.t.Helper()
	for _, name := range names[1:] {
		if r.inode(name) != r.inode(names[0]) {
			r.t.Errorf("%s and %s are two files", names[0], name)
		}
	}
}

// TestGroup: a write through one name is a write through all, and changes nothing else.
func TestGroup(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(dirOp("d"), groupOp(wire.GroupData, "one", "a", "d/b", "c"))
	r.one("a", "d/b", "c")
	first := r.inode("a")
	r.do(groupOp(wire.GroupData, "one", "d/b", "c", "a", "e")) // a further name
	r.one("a", "d/b", "c", "e")
	if r.inode("a") != first {
		t.Error("a further name replaced the file")
	}
	r.do(groupOp(wire.GroupData, "two", "c", "a", "d/b", "e"))
	r.one("a", "d/b", "c", "e")
	r.wants("a", "two")
	r.do(removeOp("c"), renameOp("a", "x"))
	r.one("x", "d/b", "e")
	r.do(renameOp("x", "e")) // seen too late: they are one here, and rename(2) would do nothing
	r.gone("x")
	r.one("e", "d/b")
	r.do(fileOp("e", "leaves"))
	r.wants("d/b", "two")
	if left, err := r.aside(); err != nil || len(left) > 0 {
		t.Errorf("left in the staging area: %v (%v)", left, err)
	}
}

// TestGroupOfSpecials: links and FIFOs have several names, too.
func TestGroupOfSpecials(t *testing.T) {
	r := newRig(t, t.TempDir())
	for i, m := range []tree.Meta{{Kind: tree.Symlink, Target: "nowhere"}, {Kind: tree.FIFO, Mode: 0o600}} {
		m.UID, m.GID, m.MTime = uint32(os.Getuid()), uint32(os.Getgid()), 1e18
		a, b := fmt.Sprint("a", i), fmt.Sprint("b", i)
		r.do(wire.Op{Kind: wire.OpGroup, How: wire.GroupData, Path: a, Names: []string{b}, Meta: m})
		r.one(a, b)
	}
}

// TestGroupWithoutContent: what is here is linked if it is what the source says; otherwise all names are owed and asked for.
func TestGroupWithoutContent(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("a", "same"), fileOp("b", "another, and longer"))
	r.do(groupOp(wire.GroupNames, "same", "b", "a"))
	r.one("a", "b")
	r.wants("b", "same")
	r.do(groupOp(wire.GroupNames, "nobody has it", "b", "a"))
	if trees, _, _ := r.TakeMissed(); len(trees) != 1 || string(trees[0]) != "b" || r.o.Journal.OwedLen() != 2 {
		t.Errorf("asks for %q and owes %d, want b, and both", trees, r.o.Journal.OwedLen())
	}
	r.do(groupOp(wire.GroupData, "nobody has it", "b", "a"), wire.Op{Kind: wire.OpPaid, Path: "b"})
	r.wants("a", "nobody has it")
	if n := r.o.Journal.OwedLen(); n != 0 {
		t.Errorf("%d paths stay owed", n)
	}
}

// TestLargeGroup: the names wait for the transfer, follow renames, and come with it; a cancelled one is asked for.
func TestLargeGroup(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(fileOp("c", "old"), groupOp(wire.GroupOffer, "large", "a", "b", "c"))
	r.wants("c", "old")
	r.do(renameOp("b", "x"), removeOp("a"))
	if trees, _, _ := r.TakeMissed(); len(trees) != 2 {
		t.Errorf("asks for %q, want the two names that waited for a transfer that is no more", trees)
	}
	offer := groupOp(wire.GroupOffer, "large", "x", "c")
	offer.ID = 6
	r.do(offer)
	done := fileOp("x", "large")
	if err := r.Data(6, done.Data); err != nil {
		t.Fatal(err)
	}
	if err := r.Seal(6, done.Meta); err != nil {
		t.Fatal(err)
	}
	r.StageReady()
	r.do(removeOp("x")) // staged behind the transfer, and published behind it
	r.gone("x")
	r.wants("c", "large")
	if n := r.o.Journal.OwedLen(); n != 0 {
		t.Errorf("%d paths stay owed", n)
	}
}

// TestLargeGroupIsAmended: another mode is no reason to send a large file again.
func TestLargeGroupIsAmended(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(groupOp(wire.GroupData, "large", "a", "b"))
	offer := groupOp(wire.GroupOffer, "large", "b", "a", "c")
	offer.Meta.Mode = 0o600
	before := r.inode("a")
	r.do(offer)
	r.one("a", "b", "c")
	if m, err := r.o.Root.Lstat("c"); err != nil || m.Mode != 0o600 || m.Inode != before {
		t.Errorf("c is %+v (%v)", m, err)
	}
	if _, ids, _ := r.TakeMissed(); len(ids) > 0 || r.o.Journal.OwedLen() > 0 {
		t.Errorf("wants %v, owes %d", ids, r.o.Journal.OwedLen())
	}
}

// TestRemovedBeforeItCame: a file that is removed while it is on its way does not appear.
func TestRemovedBeforeItCame(t *testing.T) {
	r := newRig(t, t.TempDir())
	file := fileOp("a", "large")
	r.do(wire.Op{Kind: wire.OpDefer, Path: "a", ID: 9, Meta: file.Meta})
	if err := r.Data(9, file.Data); err != nil {
		t.Fatal(err)
	}
	if err := r.Seal(9, file.Meta); err != nil {
		t.Fatal(err)
	}
	r.do(removeOp("a"))
	r.StageReady()
	r.do()
	r.gone("a")
}

// TestGroupCrash stops after every link(2) and rename(2) of a group in turn: each name is
// the old file or the new one, the position has not moved, and the same again completes it.
func TestGroupCrash(t *testing.T) {
	for stop := 1; ; stop++ {
		r := newRig(t, t.TempDir())
		names := []string{"a", "b", "c", "d"}
		r.do(groupOp(wire.GroupData, "old", names...))
		before, left, crashed := r.o.Journal.Position(), stop, false
		r.o.Published = func(string) { // after each name
			if left--; left == 0 {
				crashed = true
				runtime.Goexit()
			}
		}
		again := groupOp(wire.GroupData, "new", "b", "a", "c", "d")
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.do(again)
		}()
		<-done
		if !crashed {
			return // it had fewer steps
		}
		fresh := 0
		for _, name := range names {
			b, err := os.ReadFile(r.abs(name))
			if err != nil || string(b) != "old" && string(b) != "new" {
				t.Fatalf("after %d names %s holds %q (%v)", stop, name, b, err)
			}
			if string(b) == "new" {
				fresh++
			}
		}
		if fresh == 0 && stop > 1 {
			t.Errorf("after %d names none is new", stop)
		}
		r.reopen()
		if at := r.o.Journal.Position(); at != before {
			t.Fatalf("a group that is half done moved the position to %v", at)
		}
		r.seq--
		r.do(again)
		r.one(names...)
		r.wants("d", "new")
	}
}

// TestLinkRefused: where names cannot be one file, each is a copy, and counted.
func TestLinkRefused(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir)
	r.do(fileOp("a", "content"))
	// An inode has at most 65,000 names on ext4, and an immutable one gets no further name (ioctl_iflags(2)).
	if err := setImmutable(r.abs("a"), true); err != nil {
		t.Skipf("SKIPPED PART: no inode here that refuses a link: %v", err)
	}
	defer func() { _ = setImmutable(r.abs("a"), false) }()
	r.do(groupOp(wire.GroupNames, "content", "a", "b"))
	r.wants("b", "content")
	if n := r.Stats().LinksRefused; n != 1 {
		t.Errorf("%d refused links are counted, want 1", n)
	}
}

func setImmutable(path string, on bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if on {
		flags = unix.STATX_ATTR_IMMUTABLE // FS_IMMUTABLE_FL has the same value (linux/fs.h)
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

// TestCompareLinks: a comparison links what is two files here, and parts what is one.
func TestCompareLinks(t *testing.T) {
	r := newRig(t, t.TempDir())
	for _, name := range []string{"a", "b", "p"} {
		r.do(fileOp(name, "same"))
	}
	if err := os.Link(r.abs("p"), r.abs("q")); err != nil {
		t.Fatal(err)
	}
	of := func(name string, group uint64) tree.Entry {
		e := r.entry(name, "same")
		e.Meta.Group = group
		return e
	}
	wants := r.compareRoot(wire.ExtrasTrash, of("a", 1), of("b", 1), of("new", 2), of("newer", 2), of("p", 0), of("q", 0))
	if got := fmt.Sprint(wants); got != "[new q]" {
		t.Errorf("asks for %v, want the first of two new names, and one of two that are one file here only", got)
	}
	r.one("a", "b")
}

// TestCompareLinksWhatCame: the further names of an inode whose first one was asked for are linked in the end.
func TestCompareLinksWhatCame(t *testing.T) {
	r := newRig(t, t.TempDir())
	root, err := r.o.Root.Lstat("")
	if err != nil {
		t.Fatal(err)
	}
	c := r.Compare(1)
	var entries []tree.Entry
	for _, name := range []string{"a", "b", "gone", "left"} {
		e := r.entry(name, "content")
		e.Meta.Group = uint64(1 + len(entries)/2)
		entries = append(entries, e)
	}
	if _, err := c.List(wire.List{Job: 1, Extras: wire.ExtrasTrash, Meta: root, Entries: entries}); err != nil {
		t.Fatal(err)
	}
	r.answer(fileOp("a", "content")) // "gone" went at the source before it was read
	if _, err := c.End(); err != nil {
		t.Fatal(err)
	}
	r.one("a", "b")
	r.do(wire.Op{Kind: wire.OpPaid})
	if trees, _, _ := r.TakeMissed(); len(trees) != 1 || string(trees[0]) != "left" || r.o.Journal.OwedLen() != 1 {
		t.Errorf("asks for %q and owes %d, want left", trees, r.o.Journal.OwedLen())
	}
}

// TestSetAsideAllNames: what was written through one name is kept, and comes again, under all.
func TestSetAsideAllNames(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.do(dirOp("d"), groupOp(wire.GroupData, "agreed", "a", "d/b"))
	to := r.o.Journal.Position()
	if err := r.o.Journal.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 2, Owner: "b"}}); err != nil {
		t.Fatal(err)
	}
	r.write("a", "unreceived") // in place
	r.local(journal.Dirty, "a", "")
	tail, err := r.o.Journal.Tail(to, MaxTail)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.SetAside(to, tail, "b", WhyUnreceived); err != nil {
		t.Fatal(err)
	}
	owed := r.o.Journal.Owed()
	for _, name := range []string{"a", "d/b"} {
		if _, ok := owed.Get(name); !ok {
			t.Errorf("%s is not owed: it would keep what the master never received", name)
		}
	}
	kept, err := ListDivergent(r.o.Root)
	if err != nil || len(kept) != 2 {
		t.Errorf("kept %+v (%v), want both names", kept, err)
	}
	r.answer(groupOp(wire.GroupData, "agreed", "a", "d/b"))
	r.one("a", "d/b")
	r.wants("d/b", "agreed")
}

// TestCompareLinksWhatIsOnItsWay: a name that a comparison has linked to the
// first of its inode is not made a file of its own by a transfer that was offered before.
func TestCompareLinksWhatIsOnItsWay(t *testing.T) {
	for _, late := range []bool{false, true} {
		r := newRig(t, t.TempDir())
		if !late {
			r.do(fileOp("a", "large"))
		}
		offer := fileOp("b", "large")
		offer.Kind, offer.Data, offer.ID = wire.OpDefer, nil, 7
		r.do(offer)
		root, err := r.o.Root.Lstat("")
		if err != nil {
			t.Fatal(err)
		}
		var entries []tree.Entry
		for _, name := range []string{"a", "b"} {
			e := r.entry(name, "large")
			e.Meta.Group = 1
			entries = append(entries, e)
		}
		c := r.Compare(1)
		if _, err := c.List(wire.List{Job: 1, Extras: wire.ExtrasTrash, Meta: root, Entries: entries}); err != nil {
			t.Fatal(err)
		}
		if late {
			r.answer(fileOp("a", "large"))
		}
		if _, err := c.End(); err != nil {
			t.Fatal(err)
		}
		if err := r.Data(7, []byte("large")); err != nil {
			t.Fatal(err)
		}
		if err := r.Seal(7, offer.Meta); err != nil {
			t.Fatal(err)
		}
		r.StageReady()
		r.do(wire.Op{Kind: wire.OpPaid})
		r.one("a", "b")
		r.reopen()
		if n := r.o.Journal.OwedLen(); n != 0 {
			t.Errorf("late %v: %d are owed", late, n)
		}
	}
}
