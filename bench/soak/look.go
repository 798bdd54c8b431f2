package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"revolve/internal/control"
)

// result is what a soak found.
type result struct {
	o        options
	began    time.Time
	faults   []*struck
	ends     []end  // of agents
	formed   string // why the cluster was not whole after the faults
	wholeIn  time.Duration
	told     told
	losses   losses
	unequal  []string // nodes whose trees differ
	paused   []string // volumes that waited for a person
	sets     int      // of divergent changes, that a person let go
	changes  []change
	records  int
	alarms   []string // that stand at the end
	calming  []string // whose cause is gone, and that wait to see whether it stays so
	messages int      // that people got
	waited   bool     // long enough for the alarm of the last failover to be over
	meter    meter
	nodes    []string
	load     string // of the machine at the end: other work makes everything later
}

func newResult(o options, d *day) *result {
	r := &result{o: o, began: d.began, faults: d.faults}
	for _, n := range d.lab.nodes {
		r.nodes = append(r.nodes, n.name)
	}
	return r
}

func (r *result) whole(err error, d *day) {
	last := d.began
	for _, s := range d.faults {
		if s.To.After(last) {
			last = s.To
		}
	}
	if r.wholeIn = time.Since(last); err != nil {
		r.formed = err.Error()
	}
}

// look reads what the clients were told and what the nodes have, and then does what a person would.
func (r *result) look(ctx context.Context, l *lab) error {
	// What the clients wrote last is still on its way.
	if m := l.master(); m != nil {
		if _, err := l.revolve("sync", "--wait", "--timeout", "10s", "--state", m.state()); err != nil && r.formed == "" {
			r.formed = err.Error()
		}
	}
	f, err := os.Open(l.clientFile())
	if err != nil {
		return err
	}
	defer f.Close()
	if r.told, err = readTold(f); err != nil {
		return err
	}
	at := map[int]found{}
	trees := map[string]string{}
	for _, n := range l.nodes {
		if trees[n.name], err = r.readNode(n, at); err != nil {
			return err
		}
	}
	for _, n := range l.nodes[1:] {
		if trees[n.name] != trees[l.nodes[0].name] {
			r.unequal = append(r.unequal, n.name+firstDifference(trees[l.nodes[0].name], trees[n.name]))
		}
	}
	r.losses = judge(r.told.claims, at, len(l.nodes), r.faults)
	// With the logs it can be judged again, by the faults of then.
	if err := os.WriteFile(filepath.Join(l.dir, "split"), []byte(strings.Join(append(r.losses.Split, ""), "\n")), 0o644); err != nil {
		return err
	}
	if err := r.tidyUp(ctx, l); err != nil { // the soak says so, and goes on
		r.formed = cmp.Or(r.formed, err.Error())
	}
	return nil
}

// readNode takes note of the records of a node, and gives its tree as text.
func (r *result) readNode(n *node, at map[int]found) (string, error) {
	var tree strings.Builder
	root := n.home()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		aside := strings.HasPrefix(rel, filepath.Join(".revolve", "divergent")+"/")
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(rel, ".revolve/") && !aside && rel != ".revolve/divergent":
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !e.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !aside {
			fmt.Fprintf(&tree, "%s %x\n", rel, sha256.Sum256(b))
		}
		r.takeRecord(n.name, filepath.Base(path), string(b), aside, at)
		return nil
	})
	return tree.String(), err
}

func (r *result) takeRecord(node, name, text string, aside bool, at map[int]found) {
	number, ok := strings.CutPrefix(name, "rec-")
	id, err := strconv.Atoi(number)
	c := r.told.claims[id]
	if !ok || err != nil || c == nil {
		return // a record that nobody was told of may be there in part
	}
	f := at[id]
	switch {
	case text != content(id, c.node) && !aside:
		f.wrong = node
	case text != content(id, c.node):
	case aside:
		f.aside = true
	default:
		f.nodes = append(f.nodes, node)
	}
	at[id] = f
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf(" (%q and %q)", x[i], y[i])
		}
	}
	return " (one has more)"
}

// tidyUp does what the alarms ask a person to do.
func (r *result) tidyUp(ctx context.Context, l *lab) error {
	m := l.master()
	if m == nil {
		return nil
	}
	out, err := l.revolve("divergent", "list", "--json", "--state", m.state())
	if err != nil {
		return err
	}
	var list []control.Divergent
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err
	}
	var sets []string
	for _, d := range list {
		if slices.Contains(sets, d.Set) {
			continue
		}
		sets = append(sets, d.Set)
		if on := l.node(string(d.On)); on != nil {
			err = errors.Join(err, on.types(ctx, "divergent", "drop", d.Set, "--yes"))
		}
	}
	r.sets = len(sets)
	for _, n := range l.nodes {
		s, e := n.status(ctx)
		if err = errors.Join(err, e); e != nil {
			continue
		}
		for _, v := range s.Volumes {
			absent := slices.ContainsFunc(v.Standbys, func(x control.Standby) bool { return x.Absent > 0 })
			if v.Paused == nil && !(absent && n == m) {
				continue
			}
			r.paused = append(r.paused, fmt.Sprintf("%s: %s", n.name, strings.Join(s.Reasons, "; ")))
			err = errors.Join(err, n.types(ctx, "volume", "resume", string(v.Name)))
		}
		if strings.Contains(strings.Join(s.Reasons, "\n"), "trash unpin") {
			err = errors.Join(err, n.types(ctx, "trash", "unpin", "home"))
		}
	}
	return err
}

// seenLately is how old the last sight of an alarm may be that still counts as standing.
const seenLately = 20 * time.Second

// end asks for the history and the alarms.
func (r *result) end(ctx context.Context, d *day) {
	r.meter, r.ends = d.meter, d.lab.ends
	if b, err := os.ReadFile("/proc/loadavg"); err == nil { // proc(5)
		r.load = strings.Join(strings.Fields(string(b))[:3], ", ")
	}
	m := d.lab.master()
	if m == nil {
		r.formed = cmp.Or(r.formed, "nobody leads at the end")
		return
	}
	h, err := control.Dial(m.state()).History(ctx)
	if err != nil {
		r.formed = cmp.Or(r.formed, err.Error())
	}
	r.records = len(h.Records)
	r.changes = explain(d.lab.line.all(), h.Records, r.faults)
	s, err := m.status(ctx)
	if err != nil {
		r.formed = cmp.Or(r.formed, err.Error())
		return
	}
	r.waited = r.o.long >= whole
	for _, a := range s.Alarms.Open {
		text := a.Kind + ": " + a.Text
		if s.AsOf.Sub(a.Seen) < seenLately {
			r.alarms = append(r.alarms, text)
		} else {
			r.calming = append(r.calming, text)
		}
	}
	for _, n := range d.lab.nodes {
		b, err := os.ReadFile(n.log("serve"))
		if err == nil {
			r.messages += strings.Count("\n"+string(b), "\nalarm ")
		}
	}
}
