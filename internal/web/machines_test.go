package web

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/vm"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// house is three nodes with a machine that runs on a and has points on a and b.
func house(now time.Time) *Machines {
	point := points.Record{Point: points.Point{Taken: now.Add(-time.Hour), Level: "freeze"}}
	seen := func(s libvirt.State, n int) []vm.Seen {
		x := vm.Seen{VM: "mail", State: s}
		for range n {
			x.Points = append(x.Points, point)
		}
		return []vm.Seen{x}
	}
	return &Machines{At: now, Wanted: []Wanted{{"mail", []cluster.NodeID{"a", "b", "c"}}},
		Views: []vm.View{{Node: "a", VMs: seen(libvirt.Running, 2)}, {Node: "b", VMs: seen("", 1)}, {Node: "c", VMs: seen("", 0)}}}
}

// Where a machine runs, and what each node has of it; what a node did not tell is never shown as well.
func TestMachines(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	if machinesOf(nil, now) != nil {
		t.Error("a cluster without machines has some")
	}
	for name, c := range map[string]struct {
		change     func(m *Machines)
		mark, says string
		points     string // their marks
	}{
		"well":            {func(*Machines) {}, good, "runs on a", "ok ok warn"},
		"off":             {func(m *Machines) { m.Views[0].VMs[0].State = libvirt.Off }, off, "off", "ok ok warn"},
		"twice":           {func(m *Machines) { m.Views[1].VMs[0].State = libvirt.Running }, bad, "a and b at once", "ok ok warn"},
		"paused":          {func(m *Machines) { m.Views[0].VMs[0].State = libvirt.Paused }, warn, "stands still on a", "ok ok warn"},
		"a silent node":   {func(m *Machines) { m.Views, m.Silent = m.Views[:2], []cluster.NodeID{"c"} }, unclear, "unknown on c", "ok ok unknown"},
		"a silent home":   {func(m *Machines) { m.Views, m.Silent = m.Views[1:], []cluster.NodeID{"a"} }, unclear, "nothing is told by a", "unknown ok warn"},
		"libvirt is away": {func(m *Machines) { m.Views[2].Libvirt = "no daemon" }, unclear, "unknown on c", "ok ok warn"},
		"twice, and one silent": {func(m *Machines) {
			m.Views[1].VMs[0].State, m.Silent = libvirt.Running, []cluster.NodeID{"d"}
		}, bad, "unknown on d", "ok ok warn"},
		"an old answer": {func(m *Machines) { m.At = now.Add(-machinesOld) }, unclear, "unknown", "unknown unknown unknown"},
		"no answer yet": {func(m *Machines) { *m = Machines{Wanted: m.Wanted} }, unclear, "unknown", "unknown unknown unknown"},
	} {
		m := house(now)
		c.change(m)
		v := machinesOf(m, now)
		if len(v.Rows) != 1 || v.Rows[0].Mark != c.mark || !strings.Contains(v.Rows[0].State, c.says) {
			t.Errorf("%s: got %+v", name, v.Rows)
			continue
		}
		var marks []string
		for _, p := range v.Rows[0].Points {
			marks = append(marks, p.Mark)
		}
		if got := strings.Join(marks, " "); got != c.points {
			t.Errorf("%s: points are %s: %+v", name, got, v.Rows[0].Points)
		}
	}
}

// The page has the machines, and what a peer calls one is text.
func TestMachinesOnThePage(t *testing.T) {
	r, err := newRenderer()
	if err != nil {
		t.Fatal(err)
	}
	s := three()
	f, err := r.render(s)
	if err != nil || strings.Contains(string(f.page), "Virtual machines") {
		t.Errorf("a cluster without machines shows some: %v", err)
	}
	s.VMs = house(s.Status.AsOf)
	s.VMs.Views[0].VMs = append(s.VMs.Views[0].VMs, vm.Seen{VM: "<script>x</script>"})
	if f, err = r.render(s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Virtual machines", "runs on a", "no point", "2 points, newest", "&lt;script&gt;x"} {
		if !strings.Contains(string(f.page), want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(string(f.page), "<script>x") {
		t.Error("a name became a script")
	}
}

// A node that tells of more machines than there is room for has the page show some, and say how many it does not; those of the
// configuration are always there, and so are the other nodes' machines.
func TestMachinesOfANodeAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := house(now)
	views := m.Views
	m.Views = nil
	flood := vm.View{Node: "b"}
	for i := range 5000 {
		flood.VMs = append(flood.VMs, vm.Seen{VM: fmt.Sprintf("a-%04d", i), State: libvirt.State(strings.Repeat("x", 1000))})
	}
	flood.VMs = append(flood.VMs, vm.Seen{VM: strings.Repeat("n", maxMachine+1)}, vm.Seen{VM: "mail"}, vm.Seen{VM: "mail", State: libvirt.Running})
	views[1] = flood
	views[2].VMs = append(views[2].VMs, vm.Seen{VM: "stray"})
	m.Take(views)
	v := machinesOf(m, now)
	if len(v.Rows) != 1+1+maxStrays || m.More != 5000-maxStrays+1 || !strings.Contains(v.More, fmt.Sprint(m.More)) {
		t.Fatalf("%d rows, %d more: %s", len(v.Rows), m.More, v.More)
	}
	names := map[string]machineRow{}
	for _, r := range v.Rows {
		names[r.Name] = r
		if len(r.State) > 2*maxWord {
			t.Fatalf("%s: a state of %d bytes", r.Name, len(r.State))
		}
	}
	if r := names["mail"]; r.State != "runs on a" || names["stray"].Name == "" {
		t.Errorf("got %+v and %+v", r, names["stray"])
	}
	for range 2 { // of all that was told, once and again
		again := Machines{At: now, Wanted: m.Wanted}
		again.Take(views)
		if len(again.Views) != 3 || len(again.Views[1].VMs) != 1+maxStrays || again.More != m.More {
			t.Errorf("another time: %d of b, %d more", len(again.Views[1].VMs), again.More)
		}
	}
}
