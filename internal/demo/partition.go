package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"revolve/internal/problem"
)

// This file is the event in which the network is split in halves.

const (
	splitDir = "split" // in the volume home: the files that both sides change
	// splitFor is how long both sides serve and write.
	splitFor = time.Second
)

// halves are the nodes of the master's side and of the other.
func (s *story) halves(x string) (near, far []string) {
	rest := slices.DeleteFunc(slices.Clone(s.t.plan.names), func(n string) bool { return n == x })
	s.t.rnd.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	n := len(s.t.plan.names) / 2
	far = rest[:n]
	near = append([]string{x}, rest[n:]...)
	slices.Sort(near)
	slices.Sort(far)
	return near, far
}

// partition splits the network so that both halves have a master and take writes,
// and heals it: one master remains, and both sides' writes exist.
func (s *story) partition() error {
	if err := s.agreeOnSplit(); err != nil {
		return err
	}
	ev, x, _, err := s.strike("partition")
	if err != nil {
		return err
	}
	near, far := s.halves(x)
	if err := s.setSplit(far, true); err != nil {
		return err
	}
	y, err := s.farMaster(far)
	if err != nil {
		return err
	}
	for side, node := range map[string]string{"near": x, "far": y} {
		if err := s.writeSplit(node, side); err != nil {
			return err
		}
	}
	if err := pause(s.ctx, splitFor); err != nil {
		return err
	}
	at := now()
	if err := s.setSplit(far, false); err != nil {
		return err
	}
	w, err := s.reunited(ev, at)
	if err != nil {
		return err
	}
	lost, loser := "near", x
	if w == x {
		lost, loser = "far", y
	}
	s.t.endReign(s.j, loser, at)
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, at); err != nil {
		return err
	}
	if err := s.judgeSplit(ev, w, lost); err != nil {
		return err
	}
	return s.tell(ev, fmt.Sprintf("split into %s | %s, both write; healed, %s remains", strings.Join(near, " "), strings.Join(far, " "), w))
}

// agreeOnSplit makes the files that both sides will change, and has them everywhere.
func (s *story) agreeOnSplit() error {
	master, err := s.t.master(s.ctx, serviceWithin)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.t.plan.volume(master, volHome), splitDir)
	err = os.MkdirAll(dir, 0o755)
	for _, name := range []string{"both", "moved", "deleted"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte("as all agreed\n"), 0o644))
	}
	if err != nil {
		return &problem.Problem{Op: "write on", Subject: master, Kind: problem.Unavailable, Err: err}
	}
	return s.t.syncNow(s.ctx, master)
}

// setSplit moves nodes to the other segment of every link, or back.
func (s *story) setSplit(far []string, on bool) error {
	for _, name := range far {
		n := s.t.machines[name].node
		do := n.Mend
		if on {
			do = n.Split
			s.t.holders.setApart(name, true)
		}
		if err := errors.Join(do(linkLAN), do(linkFast)); err != nil {
			return err
		}
	}
	for _, name := range far {
		if !on {
			s.t.holders.setApart(name, false)
		}
	}
	return nil
}

// farMaster waits until a node of the other side has the address too.
func (s *story) farMaster(far []string) (y string, err error) {
	err = until(s.ctx, serviceWithin, lookEvery, "a master on the other side", func() bool {
		who, _ := s.t.holders.current()
		i := slices.IndexFunc(who, func(n string) bool { return slices.Contains(far, n) })
		if i >= 0 {
			y = who[i]
		}
		return i >= 0
	})
	return y, err
}

// writeSplit changes the files as a program on that side's master would: one is
// written on both sides, one goes here and is moved there.
func (s *story) writeSplit(node, side string) error {
	dir := filepath.Join(s.t.plan.volume(node, volHome), splitDir)
	both := filepath.Join(dir, "both")
	err := errors.Join(os.WriteFile(both+".new", splitText(side), 0o644), os.Rename(both+".new", both),
		os.Rename(filepath.Join(dir, "moved"), filepath.Join(dir, "moved-"+side)), os.Remove(filepath.Join(dir, "deleted")))
	if err != nil {
		return &problem.Problem{Op: "write on", Subject: node, Kind: problem.Unavailable, Err: err}
	}
	return nil
}

func splitText(side string) []byte { return []byte("written on the " + side + " side\n") }

// reunited waits until one node has the address and the client, which stayed on
// the near side, hears it by both families.
func (s *story) reunited(ev *Event, at instant) (w string, err error) {
	if w, err = s.t.master(s.ctx, serviceWithin); err != nil {
		return w, err
	}
	ev.After = w
	back, back6 := instant(0), instant(0)
	err = until(s.ctx, serviceWithin, lookEvery, "the client to hear "+w+" by both families", func() bool {
		back, back6 = s.t.answers.heard(false, at, w[0]), s.t.answers.heard(true, at, w[0])
		return back != 0 && back6 != 0
	})
	if err != nil {
		return w, err
	}
	ev.BackMS = msPtr(back.sub(at))
	if err := pause(s.ctx, trailFor); err != nil {
		return w, err
	}
	end := now()
	ev.BlackoutMS = msPtr(s.t.answers.longest(false, at, end).length())
	ev.Blackout6 = msPtr(s.t.answers.longest(true, at, end).length())
	ev.BoundMS = msPtr(boundHeal)
	ev.within("P1", "the silence after the network healed", ev.BlackoutMS, boundHeal)
	return w, nil
}

// heard is when the first answer of the family came from the node after then, 0 if none did.
func (a *answers) heard(six bool, then instant, node byte) instant {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range a.got {
		if x.answered > then && x.six == six && x.node == node {
			return x.answered
		}
	}
	return 0
}

// judgeSplit checks that both sides' versions exist, brings the losing side's
// back on the master by the command that a person would type, and drops the rest.
func (s *story) judgeSplit(ev *Event, w, lost string) error {
	list, err := s.keptAside(w)
	if err != nil {
		return err
	}
	both := filepath.Join(splitDir, "both")
	set := ""
	for _, d := range list {
		if d.Path == both {
			set = d.Set
		}
	}
	if set == "" {
		ev.breaks("P5", "%s of the %s side is not listed on %s", both, lost, w)
		return nil
	}
	if _, err := s.onNode(w, "divergent", "restore", set, both); err != nil {
		ev.breaks("P5", "%v", err)
		return nil
	}
	if err := s.t.syncNow(s.ctx, w); err != nil {
		return err
	}
	for _, name := range s.t.plan.names {
		b, err := os.ReadFile(filepath.Join(s.t.plan.volume(name, volHome), both))
		if err != nil || string(b) != string(splitText(lost)) {
			ev.breaks("P5", "%s on %s is not what the %s side wrote, although it was restored: %q, %v", both, name, lost, b, err)
		}
	}
	// What the master has again is kept no more: the set may have gone with its last entry.
	if list, err = s.keptAside(w); err != nil || !slices.ContainsFunc(list, func(d kept) bool { return d.Set == set }) {
		return err
	}
	_, err = s.onNode(w, "divergent", "drop", set, "--yes")
	return err
}

// kept is what a node says of a change that is kept aside.
type kept struct{ Set, Path, On string }

func (s *story) keptAside(node string) (list []kept, err error) {
	out, err := s.onNode(node, "divergent", "list", "--json")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, &problem.Problem{Op: "read the divergent changes of " + node, Kind: problem.Invalid, Err: err}
	}
	return list, nil
}

// onNode runs a command of this program on a node, as a person there would.
func (s *story) onNode(node string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, commandFor)
	defer cancel()
	argv := append(append([]string{s.t.program}, args...), "--state", filepath.Join(s.t.plan.self, "state"))
	return s.t.machines[node].node.Run(ctx, argv...)
}
