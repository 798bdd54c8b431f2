package config

import (
	"fmt"
	"slices"
	"time"

	"revolve/internal/calendar"
)

// Schedule is when a group of machines is copied by itself, each on its home.
type Schedule struct {
	Name   string
	Text   string        // its when, as the file writes it
	When   calendar.Rule // with its length
	VMs    []string      // the group: the critical ones first, then in file order
	Wake   bool          // nodes on demand are woken for it, and powered off again
	Missed string        // MissedSoon or MissedWait
}

// What becomes of a run that was missed.
const (
	MissedSoon = "soon" // it is made up for as soon as its home is there again
	MissedWait = "wait" // for the next window
)

// The groups that need no names.
const (
	GroupAll      = "all"
	GroupCritical = "critical"
)

// maxSchedules is far more than a week has windows; every one is looked at every second.
const maxSchedules = 32

// schedules reads what is done when. The machines are known by then.
func (c *checker) schedules(cfg *Config) {
	names := c.order["schedules"]
	c.count("schedules", "schedules", len(names), maxSchedules)
	for _, name := range names {
		at, d := join("schedules", name), c.doc.Schedules[name]
		c.name(at, name)
		s := Schedule{Name: name, Text: string(d.When), Wake: d.Wake, Missed: MissedSoon}
		s.When = c.when(at, d)
		s.VMs = c.group(join(at, "vms"), d.VMs, cfg.VMs)
		if at := join(at, "missed"); c.there(at) && c.ok(at) {
			c.oneOf(at, string(d.Missed), MissedSoon, MissedWait)
			s.Missed = string(d.Missed)
		}
		if at := join(at, "wake"); c.ok(at) && d.Wake && !slices.ContainsFunc(cfg.Nodes, wakeable) {
			c.warn(at, at+": no node on demand says how it is woken, so none is", `say it: nodes.NAME.power: { mode: on-demand, wake: "02:00:00:00:00:0b" }`)
		}
		cfg.Schedules = append(cfg.Schedules, s)
	}
}

func wakeable(n Node) bool {
	return n.Power.Mode == PowerOnDemand && (n.Power.Wake != "" || n.Power.On != "" || n.Power.IPMI.Address.IsValid())
}

// when reads the time of a schedule, and when it is to be finished.
func (c *checker) when(at string, d scheduleDocument) calendar.Rule {
	if !c.ok(join(at, "when")) {
		return calendar.Rule{}
	}
	r, ok := calendar.Parse(string(d.When))
	if !ok {
		c.add(join(at, "when"), fmt.Sprintf("%q is not a time", d.When), `write "Sun 03:00", "Mon-Fri 22:00-06:00", "daily 01:00" or "every 15m"`)
		return r
	}
	at = join(at, "finish")
	if !c.there(at) || !c.ok(at) {
		return r
	}
	r.Length = c.duration(at, string(d.Finish))
	switch {
	case r.Window:
		c.add(at, fmt.Sprintf("%q says already when it is finished", d.When), "leave finish out, or write when without an end")
	case r.Length > r.Shortest() && r.Length <= maxTrash:
		c.add(at, fmt.Sprintf("%s is longer than from one run to the next", d.Finish), fmt.Sprintf("choose at most %s", spell(r.Shortest())))
	}
	return r
}

// spell is a time as the file would say it.
func spell(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dm", d/time.Minute)
}

// group is the machines that a schedule is for.
func (c *checker) group(at string, words []groupText, all []VM) (names []string) {
	if !c.there(at) {
		words = []groupText{GroupAll}
	} else if !c.ok(at) {
		return nil
	}
	var known []string
	wanted := map[string]bool{}
	for _, m := range all {
		known = append(known, m.Name)
	}
	for i, w := range words {
		one := at
		if len(words) > 1 {
			one = fmt.Sprintf("%s[%d]", at, i)
		}
		switch {
		case slices.Contains(known, string(w)):
			wanted[string(w)] = true
		case w == GroupAll || w == GroupCritical:
			for _, m := range all {
				wanted[m.Name] = wanted[m.Name] || w == GroupAll || m.Critical
			}
		default:
			c.add(one, fmt.Sprintf("unknown machine %q", w), didYouMean(string(w), append(known, GroupAll, GroupCritical)))
			return nil
		}
	}
	for _, critical := range []bool{true, false} {
		for _, m := range all {
			if wanted[m.Name] && m.Critical == critical {
				names = append(names, m.Name)
			}
		}
	}
	if len(names) == 0 {
		c.warn(at, at+": there is no such machine, so nothing is done", "name machines under vms:, with critical: true where they are")
	}
	return names
}
