package web

import (
	"fmt"
	"time"

	"revolve/internal/control"
	"revolve/internal/failover/history"
)

// shown is how many failovers the page tells of; `revolve history` tells all.
const shown = 12

type failoverView struct {
	Term         uint64
	Master, From string
	Cause        string
	When         stamp
	Ago          string
	Blackout     string
	Planned      bool
	Steps        []step
	Bar          *bar
	Volumes      []lossRow
	Lost         string // over all volumes
	LostMark     string
}

// step is one of a failover's times.
type step struct {
	Name, After string
	N           int
	X           float64 // on the bar
}

// bar is the time line: from the first step to the last, and of it how long the addresses were away.
type bar struct{ From, Width float64 }

type lossRow struct{ Volume, Missing, RPO, Kept string }

func failoversOf(records []history.Record, now time.Time) (out []failoverView) {
	for _, r := range records[:min(shown, len(records))] {
		f := failoverView{Term: uint64(r.Term), Master: string(r.Master), From: string(r.From), Cause: causeText(r), When: stamp{r.At.Format(time.RFC3339), r.At.Local().Format("2006-01-02 15:04:05")},
			Ago: before(r.At, now), Blackout: millis(r.RTO), Planned: r.Cause == history.CauseSwitch}
		if f.From == "" && r.RTO == nil {
			f.Blackout = "an unknown time, before this start"
		}
		f.Steps, f.Bar = timeline(r)
		f.Lost, f.LostMark = lostText(r)
		for _, v := range r.Volumes {
			f.Volumes = append(f.Volumes, lossOf(v))
		}
		out = append(out, f)
	}
	return out
}

// The measures of a time line, in percent of its width.
const (
	barWidth = 100.0
	barEdge  = 2.0
)

// timeline is the steps in the order in which they happened, and where they stand on the bar.
func timeline(r history.Record) (steps []step, away *bar) {
	t := r.Times
	type moment struct {
		name string
		at   *time.Time
	}
	var known []moment
	for _, m := range []moment{{"last heartbeat", t.Heard}, {"suspect", t.Suspect}, {"released", t.Released}, {"claim", t.Claim}, {"address", t.Address},
		{"announced", t.Announced}, {"first packet", t.Packet}, {"first answer", t.Answer}} {
		if m.at != nil {
			known = append(known, m)
		}
	}
	if len(known) < 2 {
		return nil, nil
	}
	first, last := *known[0].at, *known[0].at
	for _, m := range known {
		if m.at.Before(first) {
			first = *m.at
		}
		if m.at.After(last) {
			last = *m.at
		}
	}
	span := max(last.Sub(first), time.Millisecond)
	x := func(at time.Time) float64 {
		return barEdge + (barWidth-2*barEdge)*float64(at.Sub(first))/float64(span)
	}
	for i, m := range known {
		steps = append(steps, step{m.name, fmt.Sprintf("%.0f ms", float64(m.at.Sub(first).Microseconds())/1000), i + 1, x(*m.at)})
	}
	from := t.Released
	if from == nil {
		from = t.Heard
	}
	if from != nil && t.Announced != nil && !t.Announced.Before(*from) {
		away = &bar{x(*from), max(0.4, x(*t.Announced)-x(*from))}
	}
	return steps, away
}

func lossOf(v history.Volume) lossRow {
	r := lossRow{Volume: string(v.Name), Missing: control.Unknown, RPO: millis(v.RPO), Kept: control.Unknown}
	if v.Missing != nil {
		r.Missing = grouped(int64(*v.Missing))
	}
	if v.KeptAside != nil {
		r.Kept = grouped(int64(*v.KeptAside))
	}
	return r
}

// lostText says what the new master did not have of what the old one had told of.
func lostText(r history.Record) (text, mark string) {
	if r.From == "" || r.From == r.Master {
		return "nothing to lose", good
	}
	missing, kept, open := uint64(0), 0, false
	for _, v := range r.Volumes {
		if v.Missing == nil {
			return "what was missing is unknown", unclear
		}
		missing += *v.Missing
		if v.KeptAside != nil {
			kept += *v.KeptAside
		} else {
			open = true
		}
	}
	switch {
	case missing == 0 && kept == 0 && !open:
		return "nothing missing", good
	case kept > 0:
		return fmt.Sprintf("%s, kept aside when %s came back", plural(kept, "change"), r.From), warn
	case missing == 0 && r.Cause == history.CauseSwitch:
		return "nothing missing", good
	case missing == 0:
		return fmt.Sprintf("nothing known to be missing; certain when %s is back", r.From), unclear
	case open:
		return fmt.Sprintf("%s missing until %s is back", plural(int(missing), "change"), r.From), warn
	}
	return plural(int(missing), "change") + " missing then, nothing kept aside", warn
}
