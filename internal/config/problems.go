package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"revolve/internal/problem"
)

// maxProblems bounds what one file can report: nobody reads a longer list, and
// a file that is not ours at all (a log, a binary) would otherwise report every line.
const maxProblems = 100

// Mistake is one thing that is wrong with a file.
type Mistake struct {
	File string `json:"file"`
	Line int    `json:"line"` // from 1
	What string `json:"what"`
	Hint string `json:"hint,omitempty"` // one imperative line; may be empty
}

// String is "file:line: what; hint".
func (m Mistake) String() string {
	s := fmt.Sprintf("%s:%d: %s", m.File, m.Line, m.What)
	if m.Hint != "" {
		s += "; " + m.Hint
	}
	return s
}

// Problems is everything that is wrong with a file, sorted by line. Its
// problem.Kind is Invalid.
type Problems struct {
	File     string
	Mistakes []Mistake // at most 100
	Omitted  int       // how many more there were
}

// Error is one line per mistake.
func (p *Problems) Error() string {
	var b strings.Builder
	for i, m := range p.Mistakes {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(m.String())
	}
	if p.Omitted > 0 {
		fmt.Fprintf(&b, "\n%s: and %d more", p.File, p.Omitted)
	}
	return b.String()
}

// Unwrap is the summary as the one error type, so that problem.KindOf says Invalid.
func (p *Problems) Unwrap() error {
	n := len(p.Mistakes) + p.Omitted
	text := "1 mistake"
	if n != 1 {
		text = fmt.Sprintf("%d mistakes", n)
	}
	return &problem.Problem{Op: "check configuration", Kind: problem.Invalid, Subject: p.File, Err: fmt.Errorf("%s", text),
		Hint: "correct these lines, then: revolve config check " + p.File}
}

// newProblems sorts by line (in the order found within a line) and cuts at maxProblems.
func newProblems(file string, list []Mistake) *Problems {
	slices.SortStableFunc(list, func(a, b Mistake) int { return cmp.Compare(a.Line, b.Line) })
	p := &Problems{File: file, Mistakes: list}
	if len(list) > maxProblems {
		p.Mistakes, p.Omitted = list[:maxProblems], len(list)-maxProblems
	}
	return p
}
