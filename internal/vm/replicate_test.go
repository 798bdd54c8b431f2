package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// broken is a connection that ends before the first answer; what was offered on it is noted.
type broken struct {
	*answering
	offers *[]string
}

func (c broken) Read() (byte, []byte, error) { return 0, nil, io.EOF }
func (c broken) Write(_ byte, parts ...[]byte) error {
	*c.offers = append(*c.offers, string(parts[0]))
	return nil
}

// homeEngine is node a, where m is, with node b.
func homeEngine(t *testing.T, h *fakeHost, dial func() (transfer.Conn, error)) *Engine {
	t.Helper()
	e := newEngine(t, h)
	image := filepath.Join(t.TempDir(), "m.raw")
	if err := os.WriteFile(image, []byte("a disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.definition = strings.Replace(definitionOfM, "/a/m.raw", image, 1)
	e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a", "b"} }
	e.o.Dial = func(context.Context, cluster.NodeID, string) (transfer.Conn, error) { return dial() }
	return e
}

// A machine that somebody has paused cannot be brought to a higher level; that is said, on the order too.
func TestWeakerIsSaid(t *testing.T) {
	for _, c := range []struct {
		state   libvirt.State
		saved   bool
		level   points.Level
		reached points.Level
		said    bool
	}{
		{libvirt.Paused, false, points.Freeze, points.Suspend, true},
		{libvirt.Paused, false, points.Shutdown, points.Suspend, true},
		{libvirt.Paused, false, points.Suspend, points.Suspend, false},
		{libvirt.Off, false, points.Freeze, points.Shutdown, false},
		{libvirt.Off, true, points.Freeze, points.Suspend, true},
		{libvirt.Off, true, points.Live, points.Suspend, false},
	} {
		e := homeEngine(t, &fakeHost{state: c.state, saved: c.saved}, func() (transfer.Conn, error) {
			return nil, &problem.Problem{Op: "dial", Kind: problem.Unavailable}
		})
		j := &Job{Order: Order{VMs: []string{"m"}, Plans: map[string]Plans{"m": {Level: c.level}}}}
		e.carryOut(t.Context(), j)
		if w := j.VMs[0]; w.Level != c.reached || (w.Weaker != "") != c.said || c.said && !strings.Contains(w.Weaker, "suspend, not "+string(c.level)) {
			t.Errorf("%s, %s ordered: %+v", c.state, c.level, w)
		}
	}
}

// A connection that breaks is made anew for the same point, a bounded number of
// times. A node that was never reached is off, and is not waited for.
func TestSamePointAgain(t *testing.T) {
	for name, want := range map[string]int{"breaks": 1 + maxAgain, "off": 1} {
		synctest.Test(t, func(t *testing.T) {
			var offers []string
			dials := 0
			e := homeEngine(t, &fakeHost{state: libvirt.Off}, func() (transfer.Conn, error) {
				if dials++; name == "off" {
					return nil, &problem.Problem{Op: "dial", Kind: problem.Timeout}
				}
				return broken{&answering{node: "b"}, &offers}, nil
			})
			j := &Job{Order: Order{VMs: []string{"m"}, Plans: map[string]Plans{"m": {Level: points.Suspend}}}}
			e.carryOut(t.Context(), j)
			if dials != want || j.VMs[0].Error == "" {
				t.Errorf("%s: dialed %d times, want %d: %+v", name, dials, want, j.VMs[0])
			}
			for _, o := range offers {
				if o != offers[0] || !strings.Contains(o, string(j.VMs[0].Point)) {
					t.Errorf("%s: another point was offered: %s", name, o)
				}
			}
		})
	}
}

// What another node answered is not asked for again.
func TestBroken(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{io.EOF, true},
		{fmt.Errorf("read: %w", io.EOF), true},
		{&problem.Problem{Kind: problem.Timeout}, true},
		{&problem.Problem{Kind: problem.Conflict}, false},
		{context.Canceled, false},
	} {
		if got := transfer.Broken(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

// An agent that was killed while it took a point, or made disks of one, leaves
// nothing; what was on its way from another node stays.
func TestNothingIsLeftBehind(t *testing.T) {
	e := newEngine(t, &fakeHost{state: libvirt.Off})
	release, err := e.o.Store.Lock("m")
	if err != nil {
		t.Fatal(err)
	}
	p := points.First("m", time.Now())
	p.Level = points.Live
	src, err := e.o.Store.Take(p, "a", []points.Image{{Name: definitionFile, Bytes: []byte("<domain/>")}})
	if err != nil {
		t.Fatal(err)
	}
	src.Files[0].F.Close() // and then the process was killed
	coming := p.Next(time.Now())
	coming.Level, coming.Files = points.Live, []points.File{{Name: "vda.raw", Size: 4096}}
	half := filepath.Join(e.o.Store.Dir("m"), "live-"+string(p.ID)+points.UnfinishedSuffix)
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	staging := filepath.Join(e.o.Store.Dir("m"), "staging")
	if err := os.Rename(filepath.Join(staging, string(p.ID)), filepath.Join(staging, "aside")); err != nil {
		t.Fatal(err)
	}
	st, err := e.o.Store.Stage(coming, nil, false) // gives up what is beside it
	if err != nil {
		t.Fatal(err)
	}
	st.Close()
	release()
	taken := filepath.Join(staging, string(p.ID))
	if err := os.MkdirAll(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	e.recover(t.Context())
	for name, want := range map[string]bool{taken: false, half: false, filepath.Join(staging, string(coming.ID)): true} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s: there %v, want %v", name, err == nil, want)
		}
	}
}

// A point that was not taken is not where a machine's history goes on.
func TestNoPointNoHistory(t *testing.T) {
	image := filepath.Join(t.TempDir(), "m.raw")
	if err := os.WriteFile(image, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func(e *Engine, src *points.Source) error{
		"restore":   func(e *Engine, src *points.Source) error { return e.keepNow(src) },
		"replicate": func(e *Engine, src *points.Source) error { return e.settle(src) },
	} {
		e := newEngine(t, &fakeHost{})
		release, err := e.o.Store.Lock("m")
		if err != nil {
			t.Fatal(err)
		}
		p := points.First("m", time.Now())
		p.Level = points.Suspend
		src, err := e.o.Store.Take(p, "a", []points.Image{{Name: "vda.raw", Path: image}})
		if err != nil {
			t.Fatal(err)
		}
		src.Files[0].F.Close() // nothing can be read any more
		if err := do(e, src); err == nil {
			t.Errorf("%s: no error", what)
		}
		if c, ok, err := e.o.Store.Chain("m"); ok || err != nil {
			t.Errorf("%s: its history goes on from %s, %v", what, c.Last.ID, err)
		}
		src.Close()
		release()
	}
}
