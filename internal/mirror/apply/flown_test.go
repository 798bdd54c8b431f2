package apply

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// What flew, was not durable when the agent died, and came again is on the disk when it is acknowledged (P8).
func TestKilledInFlight(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		for _, origin := range []uint64{0, 9, 100} {
			t.Run(fs, func(t *testing.T) {
				privateMounts(t)
				d := newLoopDisk(t, fs)
				vol, state := filepath.Join(d.at, "vol"), filepath.Join(d.at, "state")
				must(t, os.Mkdir(vol, 0o755))
				must(t, os.Mkdir(state, 0o755))
				r := newRigAt(t, vol, state)
				unix.Sync()
				op := from(origin, fileOp("k", string(version(1))))
				op.Seq = 1
				must(t, r.Stage(op))
				ok, err := r.Fly(1)
				if !ok || err != nil {
					t.Fatal(ok, err)
				}
				must(t, r.o.Journal.Sync())
				r.flights.open.closeFiles() // as the kernel does
				r.letGo()
				r.reopen() // the agent was killed; the machine goes on
				r.From("a")
				if origin == 100 { // it has a second name by now
					g := from(0, groupOp(wire.GroupData, string(version(1)), "k", "n"))
					g.Seq = 1
					op = g
				}
				must(t, r.Stage(op)) // the source sends it again
				must(t, r.Commit())
				if r.o.Journal.OwedLen() != 0 || r.o.Journal.Position().Seq != 1 {
					t.Fatal("not acknowledged")
				}
				must(t, cut(d.power()))
				r.Abort()
				r.halt()
				d.again()
				r.open()
				b, err := os.ReadFile(filepath.Join(vol, "k"))
				if err != nil || string(b) != string(version(1)) {
					t.Errorf("origin %d: acknowledged, and after the power cut: %d bytes (%v)", origin, len(b), err)
				}
				r.halt()
			})
		}
	}
}

// The same for what is no file.
func TestKilledInFlightOthers(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		for _, kind := range []wire.OpKind{wire.OpSymlink, wire.OpDir} {
			t.Run(fs, func(t *testing.T) {
				privateMounts(t)
				d := newLoopDisk(t, fs)
				vol, state := filepath.Join(d.at, "vol"), t.TempDir()
				must(t, os.Mkdir(vol, 0o755))
				r := newRigAt(t, vol, state)
				unix.Sync()
				op := dirOp("k")
				if kind == wire.OpSymlink {
					op = wire.Op{Kind: wire.OpSymlink, Path: "k", Meta: tree.Meta{Kind: tree.Symlink, Mode: 0o777, Target: "to", MTime: 1e18}}
				}
				op.Seq = 1
				must(t, r.Stage(op))
				ok, err := r.Fly(1)
				if !ok || err != nil {
					t.Fatal(ok, err)
				}
				must(t, r.o.Journal.Sync())
				r.flights.open.closeFiles()
				r.letGo()
				r.reopen()
				r.From("a")
				must(t, r.Stage(op))
				must(t, r.Commit())
				if r.o.Journal.OwedLen() != 0 || r.o.Journal.Position().Seq != 1 {
					t.Fatal("not acknowledged")
				}
				must(t, cut(d.power()))
				r.Abort()
				r.halt()
				d.again()
				r.open()
				if _, err := os.Lstat(filepath.Join(vol, "k")); err != nil {
					t.Errorf("%c: acknowledged, and after the power cut: %v; owed %d at %v", op.Meta.Kind, err, r.o.Journal.OwedLen(), r.o.Journal.Position())
				}
				r.halt()
			})
		}
	}
}
