package election

import (
	"slices"
	"strings"
)

// shrinkTries bounds a shrinking: a schedule of 60 orders needs some hundreds.
const shrinkTries = 4000

// kind is the name of the invariant that broke.
func kind(s *sim) string {
	if len(s.bad) == 0 {
		return ""
	}
	_, rest, _ := strings.Cut(s.bad[0], "ms: ")
	name, _, _ := strings.Cut(rest, ":")
	return name
}

// shrink makes a broken schedule as small as it stays broken in the same way:
// orders go, in chunks and then one by one; waits become shorter; the cluster smaller.
func shrink(c schedule) schedule {
	want, tries := kind(c.run(nil)), 0
	still := func(d schedule) bool {
		tries++
		return tries < shrinkTries && kind(d.run(nil)) == want
	}
	for changed := true; changed && tries < shrinkTries; {
		changed = false
		for size := len(c.orders) / 2; size >= 1; size /= 2 {
			for at := 0; at+size <= len(c.orders); {
				d := c
				d.orders = slices.Delete(slices.Clone(c.orders), at, at+size)
				if still(d) {
					c, changed = d, true
				} else {
					at += size
				}
			}
		}
		for _, smaller := range simpler(c) {
			if still(smaller) {
				c, changed = smaller, true
			}
		}
	}
	return c
}

// simpler lists the schedules that are c with one thing plainer.
func simpler(c schedule) (out []schedule) {
	add := func(change func(d *schedule)) {
		d := c
		d.orders = slices.Clone(c.orders)
		change(&d)
		out = append(out, d)
	}
	if c.nodes > 2 {
		add(func(d *schedule) { d.nodes-- })
	}
	if c.links > 1 {
		add(func(d *schedule) { d.links--; d.vips = min(d.vips, d.links) })
	}
	if c.profile != "default" {
		add(func(d *schedule) { d.profile = "default" })
	}
	for k, o := range c.orders {
		if o.op != "run" && o.op != "freeze" && o.op != "pause" {
			continue
		}
		for _, x := range []int{o.x / 10 * 10, o.x / 100 * 100, o.x / 2} {
			if x > 0 && x < o.x {
				add(func(d *schedule) { d.orders[k].x = x })
			}
		}
		if k > 0 && o.op == "run" && c.orders[k-1].op == "run" {
			add(func(d *schedule) {
				d.orders[k].x += d.orders[k-1].x
				d.orders = slices.Delete(d.orders, k-1, k)
			})
		}
	}
	return out
}
