package vm

import (
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
		"runs on both":        {libvirt.Running, Seen{State: libvirt.Running, Home: "b", Generation: 2}, true, libvirt.Paused},
		"off here":            {libvirt.Off, Seen{State: libvirt.Running, Home: "b", Generation: 2}, true, libvirt.Off},
		"a point came by":     {libvirt.Running, Seen{Home: "b", Points: []points.Record{{Point: points.Point{Node: "b", Generation: 2}}}}, true, libvirt.Paused},
		"copies of this one":  {libvirt.Running, Seen{Home: "a", Points: []points.Record{{Point: points.Point{Node: "a", Generation: 1}}}}, false, libvirt.Running},
		"another history":     {libvirt.Running, Seen{State: libvirt.Off, Home: "b"}, false, libvirt.Running},
		"an equal one yields": {libvirt.Running, Seen{Home: "b", Generation: 1}, false, libvirt.Running},
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
	_, aLost, aTied := lostTo("m", "a", chain, seen("b"))
	home, bLost, bTied := lostTo("m", "b", chain, seen("a"))
	if aLost || !bLost || home != "a" || len(aTied) != 1 || len(bTied) != 1 {
		t.Errorf("a lost %v, b lost %v to %q; told %d and %d times", aLost, bLost, home, len(aTied), len(bTied))
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
