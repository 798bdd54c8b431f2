package election

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// found is a broken schedule.
type found struct {
	seed uint64
	bad  []string
}

// tally is the result of a search.
type tally struct {
	mu     sync.Mutex
	done   int
	counts simCounts
	orders map[string]int
	nodes  [MaxNodes + 1]int
	live   int
	events int
	simed  Time
	found  []found

	first uint64
	begin time.Time
	file  string // of the report, "" for none
	wrote time.Time
}

// write writes the report, if one is wanted.
func (t *tally) write() error {
	if t.file == "" {
		return nil
	}
	t.wrote = time.Now()
	return os.WriteFile(t.file, []byte(t.report()), 0o644)
}

func (t *tally) take(seed uint64, c schedule, s *sim) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done++
	t.counts.add(s.count)
	t.nodes[c.nodes]++
	t.simed += s.now
	for _, n := range s.hist {
		t.events += n
	}
	for _, o := range c.orders {
		t.orders[o.op]++
	}
	if c.orders[len(c.orders)-1].op == "settle" {
		t.live++
	}
	if len(s.bad) > 0 {
		t.found = append(t.found, found{seed, s.bad})
	}
	if time.Since(t.wrote) > time.Minute {
		_ = t.write() // a run that is cut short has told how far it came; the last one counts
	}
	return len(t.found)
}

// report is bench/SIM.md.
func (t *tally) report() string {
	first, took := t.first, time.Since(t.begin)
	var b strings.Builder
	say := func(f string, a ...any) { fmt.Fprintf(&b, f+"\n", a...) }
	say("# Simulated fault schedules of the election\n\nWritten by `make sim`; what is simulated and checked stands in docs/failover.md, \"The simulator\".\n")
	say("| | |\n|---|---|")
	say("| date | %s |", time.Now().UTC().Format("2006-01-02"))
	say("| seeds | %d to %d |", first, first+uint64(t.done)-1)
	say("| schedules | %d, of which %d end with all faults stopped and must settle (L1, L2), %d may change no role (S7) |", t.done, t.live, t.orders["quiet"])
	say("| **broken invariants** | **%d** |", len(t.found))
	for _, f := range t.found {
		say("| broken by seed %d | %s |", f.seed, strings.ReplaceAll(f.bad[0], "\n", " "))
	}
	say("| simulated time | %d h |", t.simed/Second/3600)
	say("| steps of the election | %d |", t.events)
	say("| wall time | %v on %d cores shared with other work, %.0f schedules/s |", took.Round(time.Second), runtime.GOMAXPROCS(0), float64(t.done)/took.Seconds())
	say("| claims, reigns, heal terms included | %d, %d |", t.counts.Claims, t.counts.Reigns)
	say("| masters that fenced themselves, that took the VIPs back | %d, %d |", t.counts.Fences, t.counts.Retakes)
	say("| heartbeats of one master taken in by another | %d |", t.counts.Rivals)
	say("| planned switches granted | %d |", t.counts.Switches)
	say("| blocked heartbeats noticed; damped; waits for an absent fresher node; released as isolated or refused | %d; %d; %d; %d |", t.counts.Blocked, t.counts.Damped, t.counts.Waits, t.counts.Isolated)
	say("| new lists of members taken in | %d |", t.counts.Lists)
	say("| longest settlement after the last fault: default, fast, patient | %d, %d, %d ms |\n", t.counts.Settle[0]/Millisecond, t.counts.Settle[1]/Millisecond, t.counts.Settle[2]/Millisecond)
	say("Clusters by number of nodes:\n\n| nodes | schedules |\n|---|---|")
	for n, k := range t.nodes {
		if k > 0 {
			say("| %d | %d |", n, k)
		}
	}
	say("\nOrders carried out, by kind:\n\n| order | times |\n|---|---|")
	for _, op := range slices.Sorted(maps.Keys(t.orders)) {
		say("| %s | %d |", op, t.orders[op])
	}
	return b.String()
}
