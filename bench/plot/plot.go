// Package plot makes pictures of figures as SVG: text and lines, readable on light and
// dark pages. It measures nothing and reads nothing.
//
//	svg := plot.Chart{Title: "growth", XTicks: ticks, YTicks: ticks, Lines: lines}.SVG()
package plot

import (
	"fmt"
	"math"
	"strings"
)

// Point is one measurement.
type Point struct{ X, Y float64 }

// Series is a line, or with Dots points that are not joined.
type Series struct {
	Name   string
	Points []Point
	Dots   bool
}

// Chart has logarithmic axes where it says so.
type Chart struct {
	Title, XName, YName string
	XTicks, YTicks      []Tick
	LogX, LogY          bool
	Lines               []Series
	Goal                float64 // a line across at this x, 0 for none
}

// Tick is a place on an axis; the first and the last are its ends.
type Tick struct {
	At    float64
	Label string
}

const (
	plotWidth, plotHeight                    = 720.0, 380.0
	plotLeft, plotRight, plotTop, plotBottom = 70.0, 40.0, 96.0, 48.0
)

// plotStyle: the colours differ in lightness too, and the lines in their dashes, for those who see no colours.
const plotStyle = `<style>
text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-size:16px;font-weight:600}.a{fill:#57606a}
.g{stroke:#d0d7de;stroke-width:1}.w{stroke:#57606a;stroke-dasharray:2 4}
.l{fill:none;stroke-width:2.5}.p{stroke-width:6;stroke-linecap:round;stroke-dasharray:none!important}.c0{stroke:#0550ae}.c1{stroke:#bc4c00;stroke-dasharray:9 4}.c2{stroke:#6e7781;stroke-dasharray:3 3}.c3{stroke:#8250df;stroke-dasharray:12 3 3 3}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.a{fill:#9198a1}.g{stroke:#30363d}.w{stroke:#9198a1}.c0{stroke:#58a6ff}.c1{stroke:#ffa657}.c2{stroke:#b1bac4}.c3{stroke:#d2a8ff}}
</style>
`

// scale is where a value lies between the first and the last tick, from 0 to 1.
func scale(v float64, ticks []Tick, log bool) float64 {
	lo, hi := ticks[0].At, ticks[len(ticks)-1].At
	if log {
		v, lo, hi = math.Log(max(v, lo)), math.Log(lo), math.Log(hi)
	}
	return min(1, max(0, (v-lo)/(hi-lo)))
}

func (c Chart) x(v float64) float64 {
	return plotLeft + scale(v, c.XTicks, c.LogX)*(plotWidth-plotLeft-plotRight)
}

func (c Chart) y(v float64) float64 {
	return plotHeight - plotBottom - scale(v, c.YTicks, c.LogY)*(plotHeight-plotTop-plotBottom)
}

// SVG is the picture.
func (c Chart) SVG() string {
	var b strings.Builder
	bottom := plotHeight - plotBottom
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-label="%s">`+"\n%s", plotWidth, plotHeight, c.Title, plotStyle)
	fmt.Fprintf(&b, `<text class="t" x="%g" y="22">%s</text>`+"\n", plotLeft, c.Title)
	for _, t := range c.XTicks {
		x := c.x(t.At)
		fmt.Fprintf(&b, `<path class="g" d="M%.1f %.1fV%.1f"/><text class="a" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x, plotTop, bottom, x, bottom+18, t.Label)
	}
	for _, t := range c.YTicks {
		y := c.y(t.At)
		fmt.Fprintf(&b, `<path class="g" d="M%.1f %.1fH%.1f"/><text class="a" x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft, y, plotWidth-plotRight, plotLeft-8, y+4, t.Label)
	}
	fmt.Fprintf(&b, `<text class="a" x="%.1f" y="%.1f" text-anchor="middle">%s</text><text class="a" x="%.1f" y="%.1f">%s</text>`+"\n",
		(plotLeft+plotWidth-plotRight)/2, plotHeight-8, c.XName, 8.0, plotTop-10, c.YName)
	if c.Goal > 0 {
		fmt.Fprintf(&b, `<path class="w" d="M%.1f %.1fV%.1f"/><text class="a" x="%.1f" y="%.1f">to reach</text>`+"\n", c.x(c.Goal), plotTop, bottom, c.x(c.Goal)+4, bottom-6)
	}
	for i, s := range c.Lines {
		var path strings.Builder
		for j, p := range s.Points {
			switch {
			case s.Dots: // a line of no length with round ends (SVG 2, section 13.5.4)
				fmt.Fprintf(&path, "M%.1f %.1fh0", c.x(p.X), c.y(p.Y))
			case j == 0:
				fmt.Fprintf(&path, "M%.1f %.1f", c.x(p.X), c.y(p.Y))
			default:
				fmt.Fprintf(&path, "L%.1f %.1f", c.x(p.X), c.y(p.Y))
			}
		}
		fmt.Fprintf(&b, `<path class="l c%d%s" d="%s"/>`+"\n", i%4, map[bool]string{true: " p"}[s.Dots], path.String())
		x, y := plotLeft+float64(i%2)*310, 44+float64(i/2)*20
		fmt.Fprintf(&b, `<path class="l c%d" d="M%g %gh26"/><text x="%g" y="%g">%s</text>`+"\n", i%4, x, y-4, x+34, y, s.Name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
