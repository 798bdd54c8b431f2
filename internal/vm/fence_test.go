package vm

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// A home whose machine was started elsewhere since stops it, once, and knows its new home from then on.
func TestFence(t *testing.T) {
	for name, c := range map[string]struct {
		state libvirt.State
		there Seen
		lost  bool
		after libvirt.State
	}{
		"runs on both":         {libvirt.Running, Seen{State: libvirt.Running, Home: "b", Generation: 2}, true, libvirt.Paused},
		"only claimed there":   {libvirt.Running, Seen{State: libvirt.Off, Home: "b", Generation: 2}, false, libvirt.Running},
		"claimed, off here":    {libvirt.Off, Seen{State: libvirt.Off, Home: "b", Generation: 2}, true, libvirt.Off},
		"about to start there": {libvirt.Running, Seen{State: libvirt.Off, Starting: true, Home: "b", Generation: 2}, true, libvirt.Paused},
		"asleep, may wake":     {libvirt.Other, Seen{State: libvirt.Running, Home: "b", Generation: 2}, false, libvirt.Other},
		"off here":             {libvirt.Off, Seen{State: libvirt.Running, Home: "b", Generation: 2}, true, libvirt.Off},
		"a point came by":      {libvirt.Running, Seen{Home: "b", Points: []points.Record{{Point: points.Point{Node: "b", Generation: 2}}}}, true, libvirt.Paused},
		"copies of this one":   {libvirt.Running, Seen{Home: "a", Points: []points.Record{{Point: points.Point{Node: "a", Generation: 1}}}}, false, libvirt.Running},
		"another history":      {libvirt.Running, Seen{State: libvirt.Off, Home: "b"}, false, libvirt.Running},
		"an equal one yields":  {libvirt.Running, Seen{Home: "b", Generation: 1}, false, libvirt.Running},
	} {
		h := &fakeHost{state: c.state, list: []libvirt.Machine{{Name: "m", State: c.state}}}
		e := homeEngine(t, h, func() (transfer.Conn, error) {
			return &answering{node: "b", say: func(Question) View {
				s := c.there
				s.VM = "m"
				return View{VMs: []Seen{s}}
			}}, nil
		})
		release, err := e.o.Store.Lock("m")
		if err != nil {
			t.Fatal(err)
		}
		if err := e.o.Store.SetChain("m", points.Chain{Last: points.First("m", time.Now()), Home: "a"}); err != nil {
			t.Fatal(err)
		}
		release()
		for range 2 { // the second time nothing is left to do
			e.fenceAll(t.Context())
		}
		got, _, err := e.o.Store.Chain("m")
		want := map[bool]cluster.NodeID{true: "b", false: "a"}[c.lost]
		if err != nil || got.Home != want || h.state != c.after {
			t.Errorf("%s: home %s, want %s; it is %s; %v", name, got.Home, want, h.state, err)
		}
		if _, err := e.next("m"); c.lost != (problem.KindOf(err) == problem.Conflict) {
			t.Errorf("%s: a next point: %v", name, err)
		}
	}
}

// fencedEngine is node a, which was m's home, and runs it; it runs on b as well.
func fencedEngine(t *testing.T, h *fakeHost, chain points.Chain, silent *bool) *Engine {
	t.Helper()
	h.state, h.list = libvirt.Running, []libvirt.Machine{{Name: "m", State: libvirt.Running}}
	e := homeEngine(t, h, func() (transfer.Conn, error) {
		if *silent {
			return nil, errors.New("silent")
		}
		return &answering{node: "b", say: func(Question) View {
			return View{VMs: []Seen{{VM: "m", State: libvirt.Running, Home: "b", Generation: 2}}}
		}}, nil
	})
	if err := e.o.Store.SetChain("m", chain); err != nil {
		t.Fatal(err)
	}
	return e
}

// What was fenced and runs again is paused again, whenever its home answers; whoever starts it here meanwhile is not disturbed.
func TestFencedRunsAgain(t *testing.T) {
	silent := true
	h := &fakeHost{}
	chain := points.Chain{Last: points.First("m", time.Now()), Home: "b"}
	e := fencedEngine(t, h, chain, &silent)
	if e.fenceAll(t.Context()); h.state != libvirt.Running {
		t.Errorf("its home is silent: it is %s", h.state)
	}
	silent = false
	if e.fenceAll(t.Context()); h.state != libvirt.Paused {
		t.Errorf("its home answers: it is %s", h.state)
	}
	h.state = libvirt.Running
	newer := chain
	newer.Home, newer.Last.Generation = "a", 3
	if err := e.o.Store.SetChain("m", newer); err != nil {
		t.Fatal(err)
	}
	if _, err := e.halt(t.Context(), "m", chain); problem.KindOf(err) != problem.Conflict || h.state != libvirt.Running {
		t.Errorf("started here meanwhile: it is %s, %v", h.state, err)
	}
}

// A copy that is under way has the lock for hours: the machine is paused all the same, and that is told.
func TestFenceBesideCopy(t *testing.T) {
	var told bytes.Buffer
	silent := false
	h := &fakeHost{}
	e := fencedEngine(t, h, points.Chain{Last: points.First("m", time.Now()), Home: "a"}, &silent)
	e.o.Log = slog.New(slog.NewTextHandler(&told, nil))
	release, err := e.o.Store.Lock("m")
	if err != nil {
		t.Fatal(err)
	}
	e.fenceAll(t.Context())
	if c, _, err := e.o.Store.Chain("m"); h.state != libvirt.Paused || err != nil || c.Home != "a" || !strings.Contains(told.String(), "is not kept aside yet") {
		t.Errorf("it is %s, its home %s, %v; told: %s", h.state, c.Home, err, &told)
	}
	release()
	h.state = libvirt.Running // the copy's end let it go on
	e.fenceAll(t.Context())
	if c, _, err := e.o.Store.Chain("m"); h.state != libvirt.Paused || err != nil || c.Home != "b" {
		t.Errorf("it is %s, its home %s, %v", h.state, c.Home, err)
	}
}

// Where all machines are asked for, the answer of a node with many of them is small; that nobody answers is told.
func TestBrief(t *testing.T) {
	p := points.First("m", time.Now())
	for range 40 {
		p = p.Next(time.Now())
	}
	aside := points.Record{Point: p.Next(time.Now()), Here: points.Here{Aside: true}}
	got := brief([]points.Record{aside, {Point: p}, {Point: p}})
	if len(got) != 1 || got[0].ID != p.ID || len(got[0].Ancestors) > 0 || len(p.Ancestors) != 40 {
		t.Errorf("told are %+v", got)
	}
	var told bytes.Buffer
	silent := true
	e := fencedEngine(t, &fakeHost{}, points.Chain{Last: p, Home: "a"}, &silent)
	e.o.Log = slog.New(slog.NewTextHandler(&told, nil))
	for range 3 {
		e.fenceAll(t.Context())
	}
	if strings.Count(told.String(), "no other node answers") != 1 {
		t.Errorf("told: %s", &told)
	}
	var b, big bytes.Buffer
	e.o.Node = "b"
	for range 4 {
		received(t, e, p, definitionOfM, "vda.raw")
		p = p.Next(time.Now())
	}
	err := errors.Join(json.NewEncoder(&b).Encode(e.Local(t.Context(), "")), json.NewEncoder(&big).Encode(e.Local(t.Context(), "m")))
	if err != nil || b.Len() > 2048 || big.Len() < 4*b.Len() {
		t.Errorf("%d bytes of all, %d of one, %v", b.Len(), big.Len(), err)
	}
}

// What was taken here after the point from which the new home started is nobody's ancestor.
func TestStrayed(t *testing.T) {
	at := time.Now()
	first := points.First("m", at)
	second := first.Next(at)
	third, theirs := second.Next(at), second.Next(at)
	theirs.Node, theirs.Generation = "b", 2
	record := func(list ...points.Point) (out []points.Record) {
		for _, p := range list {
			out = append(out, points.Record{Point: p})
		}
		return out
	}
	mine := record(third, second, first)
	for name, c := range map[string]struct {
		theirs []points.Record
		want   []points.ID
	}{
		"it took one":       {record(theirs, second, first), []points.ID{third.ID}},
		"it took none":      {record(second), []points.ID{third.ID}},
		"it has all of it":  {record(third, second), nil},
		"went on elsewhere": {record(theirs, third, second), []points.ID{third.ID}}, // started from the one before, which was named
		"nothing in common": {record(points.First("m", at)), nil},
		"it has none":       {nil, nil},
	} {
		if got := strayed(mine, c.theirs, "b"); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	h := &fakeHost{state: libvirt.Off, list: []libvirt.Machine{{Name: "m", State: libvirt.Off}}}
	e := homeEngine(t, h, func() (transfer.Conn, error) {
		return &answering{node: "b", say: func(Question) View {
			return View{VMs: []Seen{{VM: "m", State: libvirt.Running, Home: "b", Generation: 2, Points: record(theirs)}}}
		}}, nil
	})
	for _, p := range []points.Point{second, third} {
		takenHere(t, e, p)
	}
	if err := e.o.Store.SetChain("m", points.Chain{Last: third, Home: "a"}); err != nil {
		t.Fatal(err)
	}
	e.fenceAll(t.Context())
	for id, want := range map[points.ID]bool{second.ID: false, third.ID: true} {
		if r, err := e.o.Store.Get("m", id); err != nil || r.Here.Aside != want {
			t.Errorf("%s: aside %v, want %v, %v", id, r.Here.Aside, want, err)
		}
	}
	list, err := e.o.Store.List("m")
	if err == nil {
		err = transfer.Judge(transfer.Offer{Point: theirs}, list)
	}
	if err != nil {
		t.Errorf("the new home's point does not come: %v", err)
	}
}

// takenHere publishes a point as one that this node took.
func takenHere(t *testing.T, e *Engine, p points.Point) {
	t.Helper()
	release, err := e.o.Store.Lock(p.VM)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	p.Level = points.Suspend
	src, err := e.o.Store.Take(p, e.o.Node, []points.Image{{Name: definitionFile, Bytes: []byte(definitionOfM)}})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := errors.Join(src.Clone(), src.Settle()); err != nil {
		t.Fatal(err)
	}
}

// What was kept aside is nobody's ancestor, and keeps no point from coming.
func TestAside(t *testing.T) {
	first := points.First("m", time.Now())
	lost, won := first.Next(time.Now()), first.Next(time.Now())
	won.Generation = 2
	here := []points.Record{{Point: lost}, {Point: first}}
	if err := transfer.Judge(transfer.Offer{Point: won}, here); problem.KindOf(err) != problem.Conflict {
		t.Errorf("diverged copies: %v", err)
	}
	here[0].Here.Aside = true
	if err := transfer.Judge(transfer.Offer{Point: won}, here); err != nil {
		t.Errorf("kept aside: %v", err)
	}
}

// Of two homes of one generation exactly one yields, whoever looks, and both say so.
func TestTie(t *testing.T) {
	chain := points.Chain{Last: points.Point{Generation: 2}}
	seen := func(home cluster.NodeID) []View {
		return []View{{Node: home, VMs: []Seen{{VM: "m", State: libvirt.Running, Home: home, Generation: 2}}}}
	}
	a, b := lostTo("m", "a", chain, seen("b")), lostTo("m", "b", chain, seen("a"))
	if a.home != "a" || b.home != "a" || !b.ran || len(a.tied) != 1 || len(b.tied) != 1 {
		t.Errorf("a concludes %+v, b %+v", a, b)
	}
	claim := func(home cluster.NodeID) Claim { return Claim{Known: true, Home: home, Generation: 2} }
	off := func(home cluster.NodeID) []View {
		return []View{{Node: home, VMs: []Seen{{VM: "m", State: libvirt.Off, Home: home, Generation: 2}}}}
	}
	if err := Admit("m", "a", claim("a"), off("b"), nil, false); err != nil {
		t.Errorf("a: %v", err)
	}
	if err := Admit("m", "b", claim("b"), off("a"), nil, false); problem.KindOf(err) != problem.StaleTerm {
		t.Errorf("b: %v", err)
	}
}
