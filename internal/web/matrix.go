package web

import (
	"fmt"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

// matrix is every pair of nodes once: a row for each but the first, a column for each but the last.
type matrix struct {
	Columns []string
	Rows    []matrixRow
	Down    []string // the links that are not up, and why
	Pairs   int
}

type matrixRow struct {
	Name  string
	Cells []cell
}

type cell struct{ Text, Mark string }

func matrixOf(st *control.Status) (m matrix) {
	type key struct{ a, b cluster.NodeID }
	found := map[key]control.Pair{}
	for _, p := range st.Pairs {
		found[key{p.A, p.B}] = p
		for _, l := range p.Links {
			if l.Up != control.Yes {
				m.Down = append(m.Down, fmt.Sprintf("%s – %s, %s: %s", p.A, p.B, l.Name, triWord(l.Up, "up", "down")+because(l.WhyNot)))
			}
		}
	}
	m.Pairs = len(st.Pairs)
	for i, n := range st.Nodes {
		if i < len(st.Nodes)-1 {
			m.Columns = append(m.Columns, string(n.Name))
		}
		if i == 0 {
			continue
		}
		r := matrixRow{Name: string(n.Name)}
		for _, o := range st.Nodes[:i] {
			p, ok := found[key{o.Name, n.Name}]
			if !ok {
				r.Cells = append(r.Cells, cell{control.Unknown, unclear})
				continue
			}
			r.Cells = append(r.Cells, cellOf(p))
		}
		m.Rows = append(m.Rows, r)
	}
	return m
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ", " + why
}

// cellOf is the worst of a pair: up only where every link is.
func cellOf(p control.Pair) cell {
	up, down := 0, 0
	for _, l := range p.Links {
		switch l.Up {
		case control.Yes:
			up++
		case control.No:
			down++
		}
	}
	c := cell{fmt.Sprintf("%d of %d", up, len(p.Links)), good}
	switch {
	case len(p.Links) == 0:
		c = cell{"no link", off}
	case up == len(p.Links):
	case down == len(p.Links):
		c.Mark = bad
	case down > 0:
		c.Mark = warn
	default:
		c.Mark = unclear
		if up == 0 {
			c.Text = control.Unknown
		}
	}
	return c
}
