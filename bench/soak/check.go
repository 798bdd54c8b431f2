package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"time"

	"revolve/internal/failover/history"
)

// claim is what a client was told of a record.
type claim struct {
	n       int
	node    string
	durable bool // the application had it synced on its node before it answered
	synced  bool // a barrier that began later said that every standby in-sync has it
	at      time.Time
}

// told is all that the clients were told.
type told struct {
	claims map[int]*claim
	away   []outage
	syncs  int
}

// outage is a time in which nobody answered.
type outage struct{ from, to time.Time }

func readTold(r io.Reader) (t told, err error) {
	t.claims = map[int]*claim{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var node string
		var durable bool
		var a, b, at int64
		text := lines.Text()
		switch {
		case scans(text, "record %d %s %t %d", &a, &node, &durable, &at):
			t.claims[int(a)] = &claim{n: int(a), node: node, durable: durable, at: time.UnixMilli(at)}
		case scans(text, "synced %s %d %d %d", &node, &a, &b, &at):
			t.syncs++
			for n := a; n <= b; n++ {
				if c := t.claims[int(n)]; c != nil && c.node == node {
					c.synced = true
				}
			}
		case scans(text, "away %d %d", &a, &b):
			t.away = append(t.away, outage{time.UnixMilli(a), time.UnixMilli(b)})
		case scans(text, "who %s %d", &node, &at):
		default:
			return t, fmt.Errorf("the clients say %q", text)
		}
	}
	return t, lines.Err()
}

func scans(text, format string, into ...any) bool {
	n, err := fmt.Sscanf(text, format, into...)
	return err == nil && n == len(into)
}

// found is where a record is at the end.
type found struct {
	nodes []string // that have it in the volume
	aside bool     // some node keeps it aside
	wrong string   // a node that has other bytes in its volume
}

// losses is what became of the records.
type losses struct {
	Claims, Synced, Durable int
	// Aside are those that are not in the volume and are kept aside, as promised.
	Aside int
	// Unsynced are plain writes that went with their node's power before anything made them durable: that is said openly.
	Unsynced int
	// SplitSynced were covered by a barrier and are kept aside because nodes were parted, or two failed at once, just then.
	SplitSynced int
	Split       []string // which they are
	Lost        []string // what must not be
}

const (
	// writeback is how long the kernel keeps what nobody synced (vm.dirty_expire_centisecs 30 s, and its flusher's 5 s).
	writeback = 36 * time.Second
	// near is how far from a record a fault may lie and have to do with it.
	near = 5 * time.Second
)

// judge says what became of every record that a client was told of.
func judge(claims map[int]*claim, at map[int]found, nodes int, faults []*struck) (l losses) {
	for _, c := range claims {
		l.Claims++
		f := at[c.n]
		switch {
		case c.synced:
			l.Synced++
		case c.durable:
			l.Durable++
		}
		what := fmt.Sprintf("record %d, taken by %s at %s, durable %v, synced %v: on %v, aside %v", c.n, c.node, c.at.Format("15:04:05.000"), c.durable, c.synced, f.nodes, f.aside)
		switch {
		case f.wrong != "":
			l.Lost = append(l.Lost, what+"; other bytes on "+f.wrong)
		case len(f.nodes) == nodes:
		case len(f.nodes) > 0: // the cluster is whole: all have it or none
			l.Lost = append(l.Lost, what)
		case c.synced && f.aside && parted(faults, c.at):
			l.SplitSynced++
			l.Split = append(l.Split, what)
		case c.synced:
			l.Lost = append(l.Lost, what)
		case f.aside:
			l.Aside++
		case !c.durable && lostPower(faults, c):
			l.Unsynced++
		default:
			l.Lost = append(l.Lost, what)
		}
	}
	slices.Sort(l.Lost)
	slices.Sort(l.Split)
	return l
}

// lostPower reports whether the record's node lost its power before the kernel wrote by itself.
func lostPower(faults []*struck, c *claim) bool {
	return slices.ContainsFunc(faults, func(s *struck) bool {
		return s.Kind == "power cut" && s.Node == c.node && s.From.After(c.at.Add(-time.Second)) && s.From.Before(c.at.Add(writeback))
	})
}

// parted reports whether nodes that live were parted near that time, or two nodes were stopped at once soon after: then a barrier's word holds for those it was said for.
func parted(faults []*struck, at time.Time) bool {
	for i, s := range faults {
		if !touches(s, at) || !s.Parts && !s.Stops {
			continue // an order, many changes or a full disk stop nobody
		}
		if s.Parts || slices.ContainsFunc(faults[i+1:], func(o *struck) bool {
			return o.Stops && o.Node != s.Node && touches(o, at) && o.From.Before(s.To.Add(near))
		}) {
			return true
		}
	}
	return false
}

func touches(s *struck, at time.Time) bool {
	return s.Refused == "" && s.From.Before(at.Add(3*near)) && s.To.After(at.Add(-near))
}

// noticed is how long after a kill the harness may see the agent's end: it may be busy with another fault.
const noticed = 20 * time.Second

// byThemselves are the ends of agents that no fault explains; a fault explains one.
func byThemselves(ends []end, faults []*struck) (list []end) {
	used := map[*struck]bool{}
	for _, e := range ends {
		i := slices.IndexFunc(faults, func(s *struck) bool {
			return s.Kills && s.Refused == "" && s.Node == e.node && !used[s] && !e.at.Before(s.From) && e.at.Before(s.To.Add(noticed))
		})
		if i < 0 {
			list = append(list, e)
			continue
		}
		used[faults[i]] = true
	}
	return list
}

// missed are the kinds of faults that never struck.
func missed(faults []*struck, kinds []fault) (names []string) {
	for _, k := range kinds {
		if !slices.ContainsFunc(faults, func(s *struck) bool { return s.Kind == k.name && s.Refused == "" }) {
			names = append(names, k.name)
		}
	}
	return names
}

// change is the address going from one node to another.
type change struct {
	arrival
	from   string
	record *history.Record // nil: nobody wrote one
	near   string          // the fault that was on, or had just been
}

// recordedWithin is how far the kernel's message and the reign's beginning may lie apart on a busy machine.
const recordedWithin = 3 * time.Second

// explain finds the record of each change of master. A node that has the address again changes nothing.
func explain(arrivals []arrival, records []history.Record, faults []*struck) (changes []change) {
	last := ""
	for _, a := range arrivals {
		from := last
		if last = a.node; from == "" || from == a.node {
			continue
		}
		c := change{arrival: a, from: from, near: faultNear(faults, a.at)}
		for i := range records {
			r := &records[i]
			if apart := r.At.Sub(a.at).Abs(); string(r.Master) == a.node && apart < recordedWithin && (c.record == nil || apart < c.record.At.Sub(a.at).Abs()) {
				c.record = r
			}
		}
		changes = append(changes, c)
	}
	return changes
}

// aftermath is how long after its end a fault may still bring a change: a node comes back, services settle, a wish waits.
const aftermath = 15 * time.Second

func faultNear(faults []*struck, at time.Time) string {
	for _, s := range slices.Backward(faults) {
		if s.From.Before(at.Add(time.Second)) && s.To.Add(aftermath).After(at) && s.Refused == "" {
			return s.Kind + " on " + s.Node
		}
	}
	return ""
}
