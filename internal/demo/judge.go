package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// settleWithin bounds how long the cluster may take to be in-sync again.
const settleWithin = 60 * time.Second

// reignMargin is how much earlier than we heard of it an address may really have
// gone: the message waits for a processor.
const reignMargin = 5 * time.Millisecond

// judge is the memory of the judgements: what was expected of whom, and tallies
// for the closing table.
type judge struct {
	scanners map[string]map[string]*scanner // by volume, by node
	settled  map[runID]map[string]int       // finished runs: what the cluster agreed on
	ends     map[runID]instant              // when the run's reign ended, by a fault or by order
	owed     map[string]map[stamp]debt      // by node: content only it may have

	known  map[string]bool // names that differed and were told
	differ bool            // trees differed at some time

	acked   int // acknowledged changes that were checked after a change of master
	unacked int // changes that a new master did not have
	kept    int
	offDisk int
	looks   int // comparisons of trees
}

func newJudge() *judge {
	return &judge{
		scanners: map[string]map[string]*scanner{volHome: {}, volZones: {}},
		settled:  map[runID]map[string]int{},
		ends:     map[runID]instant{},
		owed:     map[string]map[stamp]debt{},
		known:    map[string]bool{},
	}
}

// endReign notes that the run of the node that is going on ended: by a fault at
// the instant, after which no barrier of the node counts.
func (t *theatre) endReign(j *judge, node string, at instant) {
	for _, h := range t.ledger.snapshot() {
		if h.id.node == node && j.ends[h.id] == 0 {
			j.ends[h.id] = at
		}
	}
}

// settleAndJudge waits until all nodes that are up are in-sync, makes the
// writers rest, and compares all trees with the master's and with what was written.
func (t *theatre) settleAndJudge(ctx context.Context, j *judge, ev *Event, since instant) error {
	if _, err := t.settled(ctx, settleWithin); err != nil {
		return err
	}
	ev.SettleMS = msPtr(now().sub(since))
	t.calm.Store(true)
	if err := t.rest(ctx); err != nil {
		return err
	}
	err := t.look(ctx, j, ev)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if gerr := t.goOn(); err == nil {
		err = gerr
	}
	return err
}

func (t *theatre) look(ctx context.Context, j *judge, ev *Event) error {
	master, err := t.master(ctx, settleWithin)
	if err != nil {
		return err
	}
	if err := t.syncNow(ctx, master); err != nil {
		return err
	}
	for _, vol := range []string{volHome, volZones} {
		if err := t.compareVolume(ctx, j, ev, vol, master); err != nil {
			return err
		}
	}
	have, err := writerFiles(t.plan.volume(master, volHome))
	if err != nil {
		return err
	}
	t.judgeRuns(j, ev, have, master)
	return t.collect(ctx, j, ev, have)
}

// compareVolume looks at a volume on every node that is up and compares it with the master's.
func (t *theatre) compareVolume(ctx context.Context, j *judge, ev *Event, vol, master string) error {
	roots := map[string]string{}
	for name, m := range t.machines {
		if m.up {
			roots[name] = t.plan.volume(name, vol)
		}
	}
	trees, err := scanAll(ctx, j.scanners[vol], roots)
	if err != nil {
		return err
	}
	j.looks++
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		var fresh []string
		for _, d := range compare(trees[master], trees[name]) {
			if key := vol + "/" + d.path; !j.known[key] {
				j.known[key] = true // who has which version changes with the master; it is told once
				fresh = append(fresh, d.path+": "+d.how)
			}
		}
		if len(fresh) > 0 {
			promise := "P4"
			if name == ev.returned {
				promise = "P8"
			}
			ev.breaks(promise, "%s of %s differs from that of %s, the master, after sync --wait: %s", vol, name, master, sample(fresh))
		}
		j.differ = j.differ || len(fresh) > 0
	}
	return nil
}

// judgeRuns compares what stands on the master with every run's ledger.
func (t *theatre) judgeRuns(j *judge, ev *Event, have map[runID]map[string]int, master string) {
	rpo := map[string]change{}
	for _, h := range t.ledger.snapshot() {
		if want, ok := j.settled[h.id]; ok {
			if !maps.Equal(want, have[h.id]) {
				j.settled[h.id] = have[h.id]
				ev.breaks("P4", "files of %s on %s are not what all agreed on before", h.id, master)
			}
			continue
		}
		end := j.ends[h.id]
		if end == 0 {
			end = t.unplannedEnd(&h)
		}
		acked := now()
		if end != 0 {
			acked = t.ackedBy(h.id.node, end)
		}
		v := h.judge(acked, have[h.id])
		if n := len(v.wrong); n > 0 {
			ev.breaks("P4", "acknowledged, and not on %s: %s", master, sample(v.wrong))
		}
		if v.torn > 0 {
			ev.breaks("P8", "%d files on %s are halves of two changes", v.torn, master)
		}
		if end == 0 {
			continue
		}
		j.settled[h.id] = have[h.id]
		for _, c := range h.changes {
			if c.at != 0 && c.at < acked {
				j.acked++
			}
		}
		for _, c := range v.missing {
			rpo[fmt.Sprint(h.id, c.n)] = c
		}
		t.owe(j, h.id.node, v.owed)
		t.tellRPO(ev, v.missing, end)
	}
	j.unacked += len(rpo)
}

// unplannedEnd is when a run's reign ended that nobody ended on purpose: another
// node got the address since (a machine too busy for its heartbeats, say). 0: it goes on.
func (t *theatre) unplannedEnd(h *history) instant {
	for _, c := range h.changes {
		if c.at == 0 {
			continue
		}
		_, gained := t.holders.tookOver(h.id.node, c.at)
		if lost := t.holders.lostAt(h.id.node, c.at); gained != 0 && lost != 0 {
			return min(lost, gained)
		}
		return gained
	}
	return 0
}

func (t *theatre) owe(j *judge, node string, owed map[string]debt) {
	if j.owed[node] == nil {
		j.owed[node] = map[stamp]debt{}
	}
	for _, d := range owed {
		j.owed[node][d.stamp] = d
	}
}

// tellRPO puts into the event what the new master did not have of a reign.
func (t *theatre) tellRPO(ev *Event, missing map[int]change, end instant) {
	oldest := time.Duration(0)
	for _, c := range missing {
		oldest = max(oldest, end.sub(c.at))
	}
	n := len(missing)
	if ev.RPOChanges != nil {
		n += *ev.RPOChanges
		oldest = max(oldest, time.Duration(*ev.RPOMS*float64(time.Millisecond)))
	}
	ev.RPOChanges, ev.RPOMS = &n, msPtr(oldest)
}

// afterPowerCut strikes from what a node owes that which its disk lost as well:
// nothing of it is left anywhere to keep.
func (t *theatre) afterPowerCut(j *judge, node string) (int, error) {
	left := map[stamp]bool{}
	if err := stamps(filepath.Join(t.plan.volume(node, volHome), writerDir), left); err != nil {
		return 0, err
	}
	gone := 0
	for s := range j.owed[node] {
		if !left[s] {
			delete(j.owed[node], s)
			gone++
		}
	}
	j.offDisk += gone
	return gone, nil
}

// collect settles the debts of nodes that are back: content that the master does
// not have must be kept as divergent, and listed.
func (t *theatre) collect(ctx context.Context, j *judge, ev *Event, have map[runID]map[string]int) error {
	kept := map[stamp]bool{}
	for id, files := range have {
		for _, n := range files {
			kept[stamp{node: id.node, run: id.run, n: n}] = true // under another name, as after a lost rename
		}
	}
	for name, m := range t.machines {
		if m.up {
			if err := stamps(filepath.Join(t.plan.volume(name, volHome), hidden, "divergent"), kept); err != nil {
				return err
			}
		}
	}
	for name, m := range t.machines {
		debts := j.owed[name]
		if !m.up || debts == nil {
			continue
		}
		delete(j.owed, name)
		if len(debts) == 0 {
			continue
		}
		listed, n, err := t.divergent(ctx)
		if err != nil {
			return err
		}
		ev.Listed = &n
		found := 0
		var nowhere, unlisted []string
		for s, d := range debts {
			switch {
			case !kept[s]:
				nowhere = append(nowhere, fmt.Sprintf("%s (%s, change %d, finished %.1f ms after the fault)", d.path, d.by.op, d.by.n, ms(d.by.at.sub(j.ends[runID{s.node, s.run}]))))
			case !strings.Contains(listed, d.path) && !t.elsewhere(have, s):
				unlisted = append(unlisted, d.path)
			default:
				found++
			}
		}
		if len(nowhere) > 0 {
			ev.breaks("P5", "was on %s and is nowhere now: %s", name, sample(nowhere))
		}
		if len(unlisted) > 0 {
			ev.breaks("P5", "kept on %s and not listed by `revolve divergent list`: %s", name, sample(unlisted))
		}
		j.kept += found
		if ev.Kept != nil {
			found += *ev.Kept
		}
		ev.Kept = &found
	}
	return nil
}

// sample is the first few of a list, and how many there are.
func sample(list []string) string {
	slices.Sort(list)
	text := strings.Join(list[:min(len(list), shownDifferences)], "; ")
	if len(list) > shownDifferences {
		text += fmt.Sprintf("; %d in all", len(list))
	}
	return text
}

func (t *theatre) elsewhere(have map[runID]map[string]int, s stamp) bool {
	for _, n := range have[runID{s.node, s.run}] {
		if n == s.n {
			return true
		}
	}
	return false
}

// divergent is what every node that is up lists, as text and as a number of entries.
func (t *theatre) divergent(ctx context.Context) (string, int, error) {
	var all strings.Builder
	n := 0
	for _, name := range t.plan.names {
		if !t.machines[name].up {
			continue
		}
		out, _, err := t.revolve(ctx, "divergent", "list", "--here", "--json", "--state", t.plan.state(name))
		if err != nil {
			return "", 0, err
		}
		all.Write(out)
		n += entries(out)
	}
	return all.String(), n, nil
}

// entries counts what a JSON answer lists: a list, an object that holds one, or
// one value per line.
func entries(out []byte) int {
	var list []json.RawMessage
	if json.Unmarshal(out, &list) == nil {
		return len(list)
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(out, &object) == nil {
		for _, v := range object {
			if json.Unmarshal(v, &list) == nil {
				return len(list)
			}
		}
		return 0
	}
	return strings.Count(strings.TrimSpace(string(out)), "\n") + 1
}

// breaks notes that something which belongs to a promise is not as it should be.
func (e *Event) breaks(promise, format string, args ...any) {
	e.Broken = append(e.Broken, promise+": "+fmt.Sprintf(format, args...))
}

// misses notes a bound that was missed; tell weighs it against the machine's stalls.
func (e *Event) misses(promise, format string, args ...any) {
	e.late = append(e.late, promise+": "+fmt.Sprintf(format, args...))
}
