package vm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/keep"
	"revolve/internal/vm/points"
)

// What is pruned, and what the next copy starts from stays, also of a node that is off.
func TestPrune(t *testing.T) {
	h := &fakeHost{}
	var there []points.Record
	e := startingEngine(t, h, func(Question) View { return View{VMs: []Seen{{VM: "m", Points: there}}} })
	e.o.Keep = func(string) keep.Rules { return keep.Rules{Last: 1} }
	p := points.First("m", time.Now())
	var list []points.Record
	for range 5 {
		list = append([]points.Record{received(t, e, p, definitionOfM, "vda.raw")}, list...)
		p = p.Next(time.Now())
	}
	there = []points.Record{list[2], list[4]} // what a has
	locked := func(do func()) {
		t.Helper()
		release, err := e.o.Store.Lock("m")
		if err != nil {
			t.Fatal(err)
		}
		do()
		release()
	}
	locked(func() {
		if err := e.noteBase("m", "c", list[3].ID); err != nil { // c is off
			t.Fatal(err)
		}
		if err := e.o.Store.SetRehearsed("m", list[4].ID, points.Rehearsed{By: "agent"}); err != nil {
			t.Fatal(err)
		}
	})
	for _, dry := range []bool{true, false} {
		got, err := e.pruneHere(t.Context(), PruneOrder{VM: "m", DryRun: dry})
		if err != nil || got.Gone != 1 || got.Points[1].Stay || !strings.Contains(strings.Join(got.Points[2].Why, ""), "in common with a") || !strings.Contains(strings.Join(got.Points[3].Why, ""), "in common with c") {
			t.Errorf("dry run %v: %+v, %v", dry, got, err)
		}
		var left []points.ID
		now, err := e.o.Store.List("m")
		for _, r := range now {
			left = append(left, r.ID)
		}
		want := []points.ID{list[0].ID, list[2].ID, list[3].ID, list[4].ID}
		if dry {
			want = slices.Insert(want, 1, list[1].ID)
		}
		if err != nil || !slices.Equal(left, want) {
			t.Errorf("dry run %v: %v stay, want %v; %v", dry, left, want, err)
		}
	}
	e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"b"} }
	e.o.Keep = func(string) keep.Rules { return keep.Rules{} }
	if got, silent := e.Prune(t.Context(), PruneOrder{VM: "m"}); len(got) != 1 || got[0].Gone != 0 || len(silent) > 0 {
		t.Errorf("without rules: %+v, %v", got, silent)
	}
}

// What was kept aside goes only by its name, and nothing else goes that way.
func TestPruneAside(t *testing.T) {
	e := newEngine(t, &fakeHost{})
	p := points.First("m", time.Now())
	first := received(t, e, p, definitionOfM, "vda.raw")
	r := first
	r.Here.Aside = true
	release, err := e.o.Store.Lock("m")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, c := range []struct {
		o    PruneOrder
		list []points.Record
		gone int
		kind problem.Kind
	}{
		{PruneOrder{VM: "m", Aside: points.NewID(time.Now())}, []points.Record{r}, 0, 0},
		{PruneOrder{VM: "m", Aside: r.ID}, []points.Record{first}, 0, problem.Conflict},
		{PruneOrder{VM: "m", Aside: r.ID, DryRun: true}, []points.Record{r}, 1, 0},
		{PruneOrder{VM: "m", Aside: r.ID}, []points.Record{r}, 1, 0},
	} {
		var got Pruned
		err := e.pruneAside(c.o, c.list, &got)
		_, there := e.o.Store.Get("m", r.ID)
		if got.Gone != c.gone || (err != nil) != (c.kind != 0) || err != nil && problem.KindOf(err) != c.kind || (there == nil) != (c.gone == 0 || c.o.DryRun) {
			t.Errorf("%+v: %+v, %v; it is there: %v", c.o, got, err, there)
		}
	}
}
