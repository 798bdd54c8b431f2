package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"revolve/internal/cluster"
)

// Bandwidth is how much a node sends to standbys over one link, of all volumes
// together, in bytes a second. 0 is no limit.
type Bandwidth struct {
	Rate    int64
	Windows []RateWindow
}

// RateWindow is another rate at some times.
type RateWindow struct {
	When Window
	Rate int64
}

// At is the rate at a time: that of the first window that is open, or the link's own.
func (b Bandwidth) At(t time.Time) int64 {
	for _, w := range b.Windows {
		if w.When.Open(t) {
			return w.Rate
		}
	}
	return b.Rate
}

const (
	// noRate is how a rate without a limit is written.
	noRate   = "none"
	rateForm = `^(none|[0-9]{1,6}(KiB|MiB|GiB))$`
	// minRate: one small file (256 KiB) then holds the others up for four seconds at most.
	minRate = 64 << 10
	// maxRate is beyond every network card: more is a typing mistake.
	maxRate = 1 << 40
	// maxRateWindows is two for each day, and some.
	maxRateWindows = 16
)

func (c *checker) bandwidth() map[cluster.LinkID]Bandwidth {
	if !c.ok("bandwidth") {
		return nil
	}
	out := map[cluster.LinkID]Bandwidth{}
	for _, link := range c.order["bandwidth"] {
		place, d := join("bandwidth", link), c.doc.Bandwidth[link]
		if !slices.Contains(c.links, link) {
			c.add(place, fmt.Sprintf("unknown link %q in bandwidth", link), didYouMean(link, c.links))
		}
		if !c.ok(place) {
			continue
		}
		b := Bandwidth{Windows: c.rateWindows(join(place, "windows"), d.Windows)}
		if at := join(place, "rate"); c.ok(at) {
			b.Rate = c.rate(at, string(d.Rate))
		} else if len(d.Windows) == 0 && !c.bad[at] {
			c.add(place, place+" limits nothing", "give it a rate such as 10MiB, or windows with rates")
		}
		out[cluster.LinkID(link)] = b
	}
	return out
}

func (c *checker) rateWindows(place string, list []rateWindowDocument) (out []RateWindow) {
	c.count(place, "windows of one link", len(list), maxRateWindows)
	for i, d := range list {
		at := fmt.Sprintf("%s[%d]", place, i)
		w := RateWindow{}
		if when := join(at, "when"); c.ok(when) {
			w.When = c.window(when, string(d.When))
		}
		if rate := join(at, "rate"); c.ok(rate) {
			w.Rate = c.rate(rate, string(d.Rate))
		}
		out = append(out, w)
	}
	return out
}

// rate reads bytes a second; 0 for no limit.
func (c *checker) rate(at, text string) int64 {
	if text == noRate {
		return 0
	}
	parts := regexp.MustCompile(`^([0-9]{1,6})(KiB|MiB|GiB)$`).FindStringSubmatch(text)
	if parts == nil {
		c.add(at, fmt.Sprintf("%q is not a rate", text), "write how much in a second, 500KiB, 10MiB or 1GiB, or none")
		return 0
	}
	n, _ := strconv.ParseInt(parts[1], 10, 64) // at most six digits
	n <<= map[string]int{"KiB": 10, "MiB": 20, "GiB": 30}[parts[2]]
	if n < minRate || n > maxRate {
		c.add(at, fmt.Sprintf("%s is out of range", text), "choose between 64KiB and 1024GiB, or none")
	}
	return n
}
