package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

const (
	// mindLate is how long a master does not look after its own health, at most.
	mindLate = 200 * time.Millisecond
	// settleFor is how long a node has been master before its health may move the addresses at all.
	settleFor = time.Second
	// stayAtLeast is how long a node that handed over once stays master the next time, however ill it is: nodes whose services fail in turn must not throw the addresses at each other.
	stayAtLeast = 15 * time.Second
	// stayAtMost bounds the same wait, which doubles with every further move.
	stayAtMost = 10 * time.Minute
	// calmAfter is how long after its last such move a node may hand over at once again.
	calmAfter = time.Hour
	// moveAgain is the wait after a move that failed.
	moveAgain = 5 * time.Second
)

// damper spaces the moves that a node's health causes. The first one comes at
// once; then each node keeps the addresses for longer and longer. It is pure:
// time comes in as a value.
type damper struct {
	moves int
	last  time.Time // of the last move
	tried time.Time // of the last attempt
}

// due reports whether a node that is master since then may hand over now.
func (d *damper) due(now, since time.Time) bool {
	if d.moves > 0 && now.Sub(d.last) >= calmAfter {
		d.moves = 0
	}
	stay := settleFor
	for i := range d.moves {
		stay = min(stayAtLeast<<min(i, 16), stayAtMost)
	}
	return now.Sub(since) >= stay && now.Sub(d.tried) >= moveAgain
}

func (d *damper) done(now time.Time, moved bool) {
	d.tried = now
	if moved {
		d.moves++
		d.last = now
	}
}

// minds hands the addresses over in order, as a person would, while this node is
// master, a required service or a disk is ill here or a volume is paused (its disk is gone),
// and a well standby is in-sync. Without one it stays: somebody serves. While
// automatic moves are off it stays, too.
func (a *Agent) minds(ctx context.Context) error {
	if a.external() {
		return nil // the engine is told (export), and moves them
	}
	var d damper
	late := time.NewTimer(mindLate)
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.stood: // the mirror has just been asked, and the agent is awake
		case <-late.C: // it does not answer
		}
		late.Reset(mindLate)
		r := a.current()
		ill := a.disks.Why()
		var paused []cluster.VolumeID
		if s := a.standing.Load(); s != nil {
			paused = s.paused // the mirror itself may have to wait for a disk
		}
		held := a.record.memory().Hold
		if r.Role != cluster.Master || len(ill) == 0 || held {
			a.unfit.Store(false)
		}
		if r.Role != cluster.Master || !a.daemon.Ill() && len(ill)+len(paused) == 0 || held || !d.due(time.Now(), r.Since) {
			continue
		}
		// A disk that holds whoever asks flushes nothing, and has ended the streams: soon nobody is in-sync any more, and nobody will be.
		if _, err := a.successor("", inSyncAndWell); a.disks.Stalled() || err != nil && len(ill) > 0 {
			if !a.unfit.Swap(true) {
				a.o.Log.Warn("a disk of this master is ill: any well standby may take the addresses", "disks", ill)
				a.tell()
			}
			continue
		} else if err != nil {
			continue
		}
		a.o.Log.Warn("this node is not well: the addresses move to one that is", "ill services", a.illHere(), "disks", ill, "paused volumes", paused)
		to, err := a.switchTo(ctx, "", a.wanted(history.WhyIll))
		d.done(time.Now(), err == nil)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			a.o.Log.Warn("the addresses did not move; it is tried again", "in", moveAgain, "err", err, "hint", problem.HintOf(err))
			continue
		}
		a.o.Log.Info("the addresses have moved", "to", to)
	}
}

// failback hands the addresses over to the node of higher priority that wishes for
// them in its window. The election names it only when its wish has stood for a
// minute, it is in-sync, and neither hold nor a flapping cluster speaks against it.
func (a *Agent) failback(ctx context.Context) error {
	tick := time.NewTicker(moveAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		to := a.current().Wisher
		if to == "" {
			continue
		}
		if _, err := a.switchTo(ctx, to, a.wanted(history.WhyFailback)); err != nil {
			a.o.Log.Warn("failback: the addresses did not move; it is tried again", "to", to, "err", err, "hint", problem.HintOf(err))
			continue
		}
		a.o.Log.Info("failback: the addresses have moved to the node of higher priority, in its window", "to", to)
	}
}

// illHere are the required services that are ill on this node.
func (a *Agent) illHere() (names []string) {
	for _, s := range a.daemon.Reports() {
		if s.Required && s.State != "healthy" && s.State != "unknown" {
			names = append(names, s.Name)
		}
	}
	return names
}

// judgeServices is what the services add to the verdict.
func (a *Agent) judgeServices(s *control.Status) (critical, warning []string) {
	master, held := string(s.Node) == s.Master, a.record.memory().Hold
	helper := slices.ContainsFunc(s.Nodes, func(n control.Node) bool {
		return n.Eligible == control.Yes && string(n.Name) != s.Master && n.State == string(beat.PeerAlive)
	})
	for _, line := range a.disks.Why() {
		if master {
			critical = append(critical, line)
		} else {
			warning = append(warning, line)
		}
	}
	for _, v := range s.Services {
		if v.State == "healthy" {
			continue
		}
		line := fmt.Sprintf("service %s is %s on %s", v.Name, v.State, s.Node)
		switch {
		case v.Required && v.State == "ill" && master && helper && held:
			line += ", which is the master, and automatic moves are off (`revolve hold off`)"
		case v.Required && v.State == "ill" && master && helper:
			line += ", which is the master: the addresses move to a node that is well (after a while, if they did so lately)"
		case v.Required && v.State == "ill" && master:
			line += ", which is the master, and no other node is well and in-sync"
		case v.Required && v.State == "ill":
			line += ": it does not lead while a well node can"
		}
		if v.LastError != "" {
			line += ": " + v.LastError
		}
		if v.Required && v.State == "ill" && master && (!helper || held) {
			critical = append(critical, line)
		} else {
			warning = append(warning, line)
		}
	}
	for _, n := range s.Nodes {
		if n.Name == s.Node || n.WhyNot != whyIll {
			continue
		}
		line := fmt.Sprintf("a required service or a disk is ill on %s; see `revolve status` there", n.Name)
		if string(n.Name) == s.Master && !helper {
			critical = append(critical, line+"; it is the master, and no other node is well and in-sync")
		} else {
			warning = append(warning, line)
		}
	}
	return critical, warning
}
