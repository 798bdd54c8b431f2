package cli

import (
	"fmt"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

// matrixWidth is the least width of a column of the pair matrix: the name of a node must be told from others.
const matrixWidth = 3

// pairsText is every pair of nodes at a glance, and below it each link that is not up, and why not.
// Of two nodes the table of nodes has said it.
func pairsText(s control.Status) string {
	n := len(s.Nodes)
	if n < 3 || len(s.Pairs) == 0 {
		return ""
	}
	width := min(nameWidth, max(matrixWidth, (textWidth-nameWidth)/n-2))
	type key struct{ a, b cluster.NodeID }
	found := map[key]string{}
	for _, p := range s.Pairs {
		found[key{p.A, p.B}] = pairText(p)
	}
	rows := [][]string{{"LINKS"}}
	for _, x := range s.Nodes[:n-1] {
		rows[0] = append(rows[0], cut(string(x.Name), width))
	}
	for i, x := range s.Nodes[1:] {
		row := []string{cut(string(x.Name), nameWidth)}
		for _, o := range s.Nodes[:i+1] {
			text, known := found[key{o.Name, x.Name}]
			if !known {
				text = "?"
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	for _, p := range s.Pairs {
		for _, l := range p.Links {
			if l.Up != control.Yes {
				rows = append(rows, []string{fmt.Sprintf("  %s - %s, %s: %s", cut(string(p.A), nameWidth), cut(string(p.B), nameWidth), l.Name, whyNot(l))})
			}
		}
	}
	return table(rows)
}

// pairText counts the links that are up; a pair of which something is not known is marked.
func pairText(p control.Pair) string {
	up, mark := 0, ""
	for _, l := range p.Links {
		switch l.Up {
		case control.Yes:
			up++
		case control.NotKnown:
			mark = "?"
		}
	}
	if len(p.Links) == 0 {
		return "-"
	}
	if up == 0 && mark != "" {
		return mark
	}
	return fmt.Sprintf("%d/%d%s", up, len(p.Links), mark)
}

func whyNot(l control.PairLink) string {
	text := "down"
	if l.Up == control.NotKnown {
		text = control.Unknown
	}
	if l.WhyNot != "" {
		text += ", " + l.WhyNot
	}
	return text
}
