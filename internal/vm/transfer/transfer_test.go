package transfer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"revolve/internal/block"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
)

func (m *machine) send(t *testing.T, p *pair, o Sending) (points.Record, error) {
	t.Helper()
	if o.Source == nil {
		o.Source = m.take(t)
	}
	defer o.Source.Close()
	o.Store, o.Rand = m.store, m.rng
	return Send(t.Context(), p.dial(t), o)
}

// TestRounds copies a machine of two disks again and again between all the kinds
// of filesystems. Every point stays what it was, and any may go.
func TestRounds(t *testing.T) {
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		for _, from := range []string{"xfs", "btrfs", "ext4"} {
			for _, to := range []string{"xfs", "btrfs", "ext4"} {
				if testing.Short() && from != to {
					continue
				}
				t.Run(from+" to "+to, func(t *testing.T) {
					rounds(t, filepath.Join(dirs[from+"1"], to), filepath.Join(dirs[to+"2"], from), from, to)
				})
			}
		}
	}, "xfs1", "btrfs1", "ext41", "xfs2", "btrfs2", "ext42")
}

func rounds(t *testing.T, from, to, fromFS, toFS string) {
	rng := seeded(t)
	must(t, os.MkdirAll(from, 0o700))
	m := newMachine(t, from, rng, 6<<20, 3<<20)
	there := open(t, to)
	p := newPair(t, there)
	for round := range 3 {
		if round > 0 {
			m.change(t, 0, 1+rng.IntN(60))
			m.change(t, 1, rng.IntN(3))
		}
		r, err := m.send(t, p, Sending{})
		must(t, err)
		if len(r.Here.Proof.Found) > 0 {
			t.Errorf("round %d: the proof found %v", round, r.Here.Proof.Found)
		}
		held := r.Here.Files[1]
		want := map[bool]block.Tracker{true: block.Hashes, false: block.Maps}[fromFS == "ext4"]
		if round == 0 {
			want = Everything
		} else if held.Sent > held.Changed*6/5+4096 || held.Changed > 4<<20 || want == block.Maps && held.Read > held.Changed {
			t.Errorf("round %d: %+v", round, held)
		}
		if held.Tracker != want || held.Why == "" {
			t.Errorf("round %d: tracker %s (%s), want %s", round, held.Tracker, held.Why, want)
		}
		ids := m.whole(t, there)
		if most := map[bool]int{true: 1, false: round + 1}[toFS == "ext4"]; len(ids) != most || ids[0] != r.ID {
			t.Errorf("round %d: points %v, want %d with %s first", round, ids, most, r.ID)
		}
	}
	ids := m.whole(t, there)
	rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for i, id := range ids {
		must(t, there.Delete(vmName, id))
		if left := m.whole(t, there); len(left) != len(ids)-i-1 || slices.Contains(left, id) {
			t.Errorf("deleted %s of %v: %v are left", id, ids, left)
		}
	}
	if _, err := m.send(t, p, Sending{}); err != nil || len(m.whole(t, there)) != 1 {
		t.Errorf("a copy after all were deleted: %v", err)
	}
}

// TestBaseLost copies where the tracker's base is not what it was: it is said,
// both sides are read, and only what differs travels.
func TestBaseLost(t *testing.T) {
	long(t)
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		rng := seeded(t)
		m := newMachine(t, dirs["xfs1"], rng, 20<<20)
		there := open(t, filepath.Join(dirs["xfs2"], "vms"))
		p := newPair(t, there)
		first, err := m.send(t, p, Sending{})
		must(t, err)
		lose := map[string]func(base *points.Record){
			"written to": func(base *points.Record) {
				file := filepath.Join(m.store.Path(vmName, base.ID), "disk0.raw")
				f, err := os.OpenFile(file, os.O_RDWR, 0)
				must(t, err)
				_, err = f.WriteAt([]byte("by hand"), 12345)
				must(t, err)
				must(t, f.Close())
			},
			"replaced": func(base *points.Record) {
				file := filepath.Join(m.store.Path(vmName, base.ID), "disk0.raw")
				b, err := os.ReadFile(file)
				must(t, err)
				must(t, os.Remove(file))
				must(t, os.WriteFile(file, b, 0o400))
			},
			"deleted": func(base *points.Record) { must(t, m.store.Delete(vmName, base.ID)) },
		}
		base := &first
		for what, do := range lose {
			do(base)
			m.change(t, 0, 30)
			r, err := m.send(t, p, Sending{})
			must(t, err)
			held := r.Here.Files[1]
			if held.Tracker != Compared || held.Changed > 1<<20 || held.Changed == 0 || held.Why == "" {
				t.Errorf("%s: %+v", what, held)
			}
			if !slices.Contains(m.whole(t, there), r.ID) {
				t.Errorf("%s: not published", what)
			}
			base = &r
		}
		// The receiver's base is not what it was: nothing is made from it.
		file := filepath.Join(there.Path(vmName, base.ID), "disk0.raw")
		must(t, os.Chmod(file, 0o600))
		m.change(t, 0, 5)
		r, err := m.send(t, p, Sending{})
		must(t, err)
		if held := r.Here.Files[1]; held.Tracker != Everything || !strings.Contains(held.Why, "no copy") {
			t.Errorf("after the copy was touched: %+v", held)
		}
		m.whole(t, there)
		// Every block, because it is asked for.
		r, err = m.send(t, p, Sending{Whole: true})
		must(t, err)
		if held := r.Here.Files[1]; held.Tracker != Compared || held.Changed != 0 || !r.Here.Proof.All {
			t.Errorf("every block: %+v, %+v", held, r.Here.Proof)
		}
	}, "xfs1", "xfs2")
}

// TestHistories refuses what does not descend from what is there, unless forced,
// and then keeps both.
func TestHistories(t *testing.T) {
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		rng := seeded(t)
		m := newMachine(t, dirs["xfs1"], rng, 2<<20)
		there := open(t, filepath.Join(dirs["xfs2"], "vms"))
		p := newPair(t, there)
		first, err := m.send(t, p, Sending{})
		must(t, err)
		second, err := m.send(t, p, Sending{})
		must(t, err)
		kind := func(what string, next points.Point, o Sending, want problem.Kind) {
			t.Helper()
			m.last = nil
			src, err := takeIn(m.store, m.dir, next)
			must(t, err)
			o.Source = src
			sums := map[string][32]byte{}
			for _, f := range src.Files {
				sums[f.Name] = sum(t, f.F)
			}
			m.sums[src.ID] = sums
			before := len(m.whole(t, there))
			_, err = m.send(t, p, o)
			if o.Force {
				if err != nil || len(m.whole(t, there)) != before+1 {
					t.Errorf("%s, forced: %v", what, err)
				}
				return
			}
			if problem.KindOf(err) != want || problem.HintOf(err) == "" || len(m.whole(t, there)) != before {
				t.Errorf("%s: %v (%v), want %v", what, err, problem.KindOf(err), want)
			}
		}
		older := first.Point
		kind("a sibling of the newest", older.Next(second.Taken), Sending{}, problem.Conflict)
		kind("a sibling of the newest", older.Next(second.Taken), Sending{Force: true}, 0)
		kind("another machine", points.First(vmName, second.Taken), Sending{}, problem.Conflict)
		promoted := second.Point.Next(second.Taken)
		promoted.Generation++
		kind("a promotion", promoted, Sending{Force: true}, 0)
		kind("the one before the promotion", second.Point.Next(second.Taken), Sending{}, problem.StaleTerm)
		promoted.Generation++ // started here since, and no point was taken of it yet
		must(t, there.SetChain(vmName, points.Chain{Last: promoted, Home: "b"}))
		m.last = nil
		kind("the one before a start there", func() points.Point { p := promoted; p.Generation--; return p.Next(second.Taken) }(), Sending{}, problem.StaleTerm)
	}, "xfs1", "xfs2")
}

// TestDisks adds, removes and grows a machine's disks from point to point.
func TestDisks(t *testing.T) {
	long(t)
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		for _, to := range []string{"xfs", "ext4"} {
			rng := seeded(t)
			dir := filepath.Join(dirs["xfs1"], to)
			must(t, os.Mkdir(dir, 0o700))
			m := newMachine(t, dir, rng, 3<<20, 2<<20)
			there := open(t, filepath.Join(dirs[to+"2"], "vms"))
			p := newPair(t, there)
			for _, do := range []func(){
				func() {},
				func() { must(t, os.WriteFile(m.image(2), random(rng, 2<<20), 0o600)); m.change(t, 0, 10) },
				func() { must(t, os.Remove(m.image(1))); m.change(t, 2, 10) },
				func() { must(t, os.Truncate(m.image(0), 9<<20)); m.change(t, 0, 40) },
				func() { must(t, os.WriteFile(m.image(1), random(rng, 1<<20+5), 0o600)) }, // another one of the same name
				func() { must(t, os.Truncate(m.image(0), 1<<20+77)) },
			} {
				do()
				r, err := m.send(t, p, Sending{})
				must(t, err)
				if ids := m.whole(t, there); ids[0] != r.ID {
					t.Errorf("to %s: %v, want %s first", to, ids, r.ID)
				}
				names, err := filepath.Glob(filepath.Join(there.Path(vmName, r.ID), "*"))
				must(t, err)
				if len(names) != len(r.Files)+1 { // and the record
					t.Errorf("to %s: %v for %v", to, names, r.Files)
				}
				for _, h := range r.Here.Files {
					if h.Name == "disk0.raw" && len(m.sums) > 1 && h.Tracker == Everything && len(r.Ancestors) > 0 {
						t.Errorf("to %s: another disk came or went, and %s was sent whole: %+v", to, h.Name, h)
					}
				}
			}
		}
	}, "xfs1", "xfs2", "ext42")
}

// TestTwoCopies sends one point of an image that is not kept to two nodes, and
// the next one to both by its table.
func TestTwoCopies(t *testing.T) {
	long(t)
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		rng := seeded(t)
		m := newMachine(t, dirs["ext41"], rng, 3<<20)
		var there []*points.Store
		for _, d := range []string{"b", "c"} {
			there = append(there, open(t, filepath.Join(dirs["xfs2"], d)))
		}
		for round := range 3 {
			m.change(t, 0, 20*round)
			src := m.take(t)
			for _, s := range there {
				r, err := Send(t.Context(), newPair(t, s).dial(t), Sending{Store: m.store, Source: src, Rand: rng})
				must(t, err)
				if want := map[bool]block.Tracker{true: Everything, false: block.Hashes}[round == 0]; r.Here.Files[1].Tracker != want || m.whole(t, s)[0] != src.ID {
					t.Errorf("round %d: %+v, want %s", round, r.Here.Files[1], want)
				}
			}
			src.Close()
			r, err := m.store.Get(vmName, src.ID)
			must(t, err)
			table, err := m.store.OpenTable(&r, "disk0.raw")
			must(t, err)
			table.Close()
		}
	}, "ext41", "xfs2")
}
