package web

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/vm"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// machinesOld is the age from which on what nodes told of their machines says nothing about now.
const machinesOld = 3 * time.Minute

// Machines is what the nodes told of virtual machines.
type Machines struct {
	At     time.Time // when they were asked; zero: they were not yet
	Wanted []Wanted  // those of the configuration
	Views  []vm.View
	Silent []cluster.NodeID // did not answer
	More   int              // machines that nodes told of and that are not in Views
}

// Wanted is a machine of the configuration, and the nodes that are to have points of it.
type Wanted struct {
	Name  string
	Nodes []cluster.NodeID
}

// Bounds of what a node may have the page show: it is rendered each second for everybody who follows it.
const (
	maxStrays  = 64  // machines of one node that the configuration does not name
	maxMachine = 255 // bytes of a machine's name
	maxWord    = 40  // bytes of a state or a level
)

// Take keeps what the nodes told, within bounds: the machines of the configuration, and so many others of each node. What is over is counted.
func (m *Machines) Take(views []vm.View) {
	wanted := map[string]bool{}
	for _, w := range m.Wanted {
		wanted[w.Name] = true
	}
	for _, v := range views {
		list := slices.Clone(v.VMs)
		slices.SortStableFunc(list, func(a, b vm.Seen) int { return strings.Compare(a.VM, b.VM) })
		list = slices.CompactFunc(list, func(a, b vm.Seen) bool { return a.VM == b.VM })
		v.VMs = nil
		strays := 0
		for _, s := range list {
			if !wanted[s.VM] {
				if strays == maxStrays || len(s.VM) > maxMachine {
					m.More++
					continue
				}
				strays++
			}
			v.VMs = append(v.VMs, s)
		}
		m.Views = append(m.Views, v)
	}
}

// short is a word of another node, cut.
func short(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxWord)], "") }

type machinesView struct {
	Asked string // when
	More  string // that there are machines which are not shown; "" if all are
	Rows  []machineRow
}

type machineRow struct {
	Name, Mark, State string
	Points            []pointRow
}

type pointRow struct{ Node, Mark, Text string }

// machinesOf is nil for a cluster without any.
func machinesOf(m *Machines, now time.Time) *machinesView {
	if m == nil {
		return nil
	}
	v := &machinesView{Asked: "The nodes were not asked yet."}
	known := !m.At.IsZero() && now.Sub(m.At) < machinesOld
	switch {
	case known:
		v.Asked = "The nodes were asked " + before(m.At, now) + "."
	case !m.At.IsZero():
		v.Asked = "The nodes were asked " + before(m.At, now) + "; how it is now, is unknown."
	}
	if m.More > 0 {
		v.More = fmt.Sprintf("Nodes told of %s more, not shown here: revolve vm list", plural(m.More, "machine"))
	}
	wanted := map[string][]cluster.NodeID{}
	for _, w := range m.Wanted {
		wanted[w.Name] = w.Nodes
	}
	for _, view := range m.Views {
		for _, s := range view.VMs {
			if _, there := wanted[s.VM]; !there {
				wanted[s.VM] = nil
			}
		}
	}
	for name, nodes := range wanted {
		r := machineRow{Name: name, Mark: unclear, State: "unknown"}
		if known {
			r.Mark, r.State = m.state(name)
		}
		r.Points = m.points(name, nodes, known, now)
		v.Rows = append(v.Rows, r)
	}
	slices.SortFunc(v.Rows, func(a, b machineRow) int { return strings.Compare(a.Name, b.Name) })
	return v
}

// seen is what a node told of a machine; answered is false if it, or its libvirt, told nothing.
func (m *Machines) seen(name string, node cluster.NodeID) (s vm.Seen, answered bool) {
	for _, v := range m.Views {
		if v.Node != node {
			continue
		}
		i := slices.IndexFunc(v.VMs, func(s vm.Seen) bool { return s.VM == name })
		if i >= 0 {
			s = v.VMs[i]
		}
		return s, v.Failed == nil
	}
	return s, false
}

// state says where the machine runs. That it is off, or that it runs only once, is known only if every node has told.
func (m *Machines) state(name string) (mark, text string) {
	var runs, paused, other []string
	var unknown []string
	for _, n := range m.Silent {
		unknown = append(unknown, string(n))
	}
	for _, v := range m.Views {
		if v.Libvirt != "" {
			unknown = append(unknown, string(v.Node))
			continue
		}
		s, _ := m.seen(name, v.Node)
		switch s.State {
		case libvirt.Running:
			runs = append(runs, string(v.Node))
		case libvirt.Paused:
			paused = append(paused, string(v.Node))
		case libvirt.Off, "":
		default:
			other = append(other, string(v.Node)+" ("+short(string(s.State))+")")
		}
	}
	slices.Sort(unknown)
	active := slices.Concat(runs, paused, other)
	switch {
	case len(active) > 1:
		mark, text = bad, "is on "+strings.Join(active, " and ")+" at once"
	case len(runs) == 1:
		mark, text = good, "runs on "+runs[0]
	case len(active) == 1:
		mark, text = warn, "stands still on "+active[0]
	case len(unknown) == 0:
		return off, "off"
	default:
		return unclear, "unknown: nothing is told by " + strings.Join(unknown, ", ")
	}
	if len(unknown) > 0 {
		text += "; unknown on " + strings.Join(unknown, ", ")
		if mark == good {
			mark = unclear
		}
	}
	return mark, text
}

// points are what each node that should have points has, and each other that does.
func (m *Machines) points(name string, nodes []cluster.NodeID, known bool, now time.Time) (rows []pointRow) {
	nodes = slices.Clone(nodes)
	should := len(nodes)
	for _, v := range m.Views {
		if s, _ := m.seen(name, v.Node); len(s.Points) > 0 && !slices.Contains(nodes, v.Node) {
			nodes = append(nodes, v.Node)
		}
	}
	slices.Sort(nodes[should:])
	for _, n := range nodes {
		s, answered := m.seen(name, n)
		r := pointRow{Node: string(n), Mark: unclear, Text: "unknown"}
		switch {
		case !known || !answered:
		case len(s.Points) == 0:
			r.Mark, r.Text = warn, "no point"
		default:
			p := s.Points[0]
			r.Mark, r.Text = good, fmt.Sprintf("%s, newest %s, %s, %s", plural(len(s.Points), "point"), before(p.Taken, now), short(string(p.Level)), provenText(p.Here.Proof))
		}
		rows = append(rows, r)
	}
	return rows
}

// provenText is what was compared of a point.
func provenText(p points.Proof) string {
	switch {
	case len(p.Found) > 0:
		return plural(len(p.Found), "block") + " had differed, all compared"
	case p.All:
		return "every block compared"
	case p.Bytes == 0:
		return "taken there"
	}
	return fmt.Sprintf("%s compared", plural(p.Samples, "sample"))
}
