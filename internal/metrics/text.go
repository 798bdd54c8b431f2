package metrics

import (
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"revolve/internal/control"
)

// ContentType is that of the text format (Prometheus exposition format 0.0.4).
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// The kinds of metrics that are used here.
const (
	gauge   = "gauge"
	counter = "counter"
)

// page is an exposition that grows: a family, then its samples.
type page struct {
	b    []byte
	name string // of the family that is written
}

// family begins a metric. All of its samples follow before the next begins, as
// the format demands.
func (p *page) family(name, kind, help string) {
	p.name = "revolve_" + name
	p.begin(kind, help)
}

// process begins a metric that carries no name of ours: every program has it.
func (p *page) process(name, kind, help string) {
	p.name = name
	p.begin(kind, help)
}

func (p *page) begin(kind, help string) {
	p.b = append(append(append(p.b, "# HELP "...), p.name...), ' ')
	p.b = append(append(escape(p.b, help, false), "\n# TYPE "...), p.name...)
	p.b = append(append(append(p.b, ' '), kind...), '\n')
}

// sample is one value of the family; labels are names and values in turn.
func (p *page) sample(value float64, labels ...string) {
	p.b = append(p.b, p.name...)
	for i := 0; i+1 < len(labels); i += 2 {
		p.b = append(p.b, ",{"[boolInt(i == 0)])
		p.b = append(append(p.b, labels[i]...), '=', '"')
		p.b = append(escape(p.b, labels[i+1], true), '"')
	}
	if len(labels) > 0 {
		p.b = append(p.b, '}')
	}
	p.b = append(p.b, ' ')
	p.b = append(number(p.b, value), '\n')
}

// one is a family with one value and no labels.
func (p *page) one(name, kind, help string, value float64) {
	p.family(name, kind, help)
	p.sample(value)
}

// tri is 1 or 0; what is not known has no sample, so that no rule takes it for well.
func (p *page) tri(v control.Tri, labels ...string) {
	switch v {
	case control.Yes:
		p.sample(1, labels...)
	case control.No:
		p.sample(0, labels...)
	}
}

// count is a number; what is not known has no sample.
func (p *page) count(v control.Count, scale float64, labels ...string) {
	if v >= 0 {
		p.sample(float64(v)*scale, labels...)
	}
}

// when is a time in seconds since 1970; one that is not known has no sample.
func (p *page) when(t time.Time, labels ...string) {
	if !t.IsZero() {
		p.sample(float64(t.UnixMilli())/1000, labels...)
	}
}

// state is one sample for every state there is, 1 for the one it is in. A word
// that is none of them counts as the last, which is "unknown".
func (p *page) state(is string, all []string, labels ...string) {
	found := len(all) - 1
	for i, s := range all {
		if s == is {
			found = i
		}
	}
	for i, s := range all {
		p.sample(float64(boolInt(i == found)), append(labels[:len(labels):len(labels)], "state", s)...)
	}
}

// number writes a value as the format wants it.
func number(b []byte, v float64) []byte {
	switch {
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case math.IsInf(v, -1):
		return append(b, "-Inf"...)
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		return strconv.AppendInt(b, int64(v), 10)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64) // NaN is written like that, too
}

// escape writes a text so that it ends neither its line nor its quotes; what is no
// UTF-8, which a scraper refuses as a whole, becomes the replacement character.
func escape(b []byte, text string, quoted bool) []byte {
	for _, r := range text {
		switch {
		case r == '\\':
			b = append(b, `\\`...)
		case r == '\n':
			b = append(b, `\n`...)
		case r == '"' && quoted:
			b = append(b, `\"`...)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return b
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
