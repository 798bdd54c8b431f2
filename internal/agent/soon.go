package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/election"
	"revolve/internal/failover/history"
	"revolve/internal/mirror"
	"revolve/internal/problem"
)

// This file is patience: right after a move the standbys still turn to the new master, and a person types the next order in
// that moment. What passes by itself is waited for, at the node where it was typed; what does not is refused at once.

const (
	// soonWithin is how long an order waits for a standby that is not known to be far behind. After a move it takes a tenth of that.
	soonWithin = 5 * time.Second
	// toldWithin is how long an order waits where others say that they do not serve: an order that ended that goes round with
	// a word (100 ms), a heartbeat and a report.
	toldWithin = time.Second
	// soonAgain is how often it is looked again: what is waited for comes with words and heartbeats.
	soonAgain = wordEvery
)

// notYet is a refusal for a reason that may pass by itself within that time.
type notYet struct {
	error
	within time.Duration
}

func (n notYet) Unwrap() error { return n.error }

// soon is err, and that it may pass within that time; 0: it does not.
func soon(err error, within time.Duration) error {
	if err == nil || within <= 0 {
		return err
	}
	return notYet{err, within}
}

// passesIn is within what time the reason of a refusal may pass; 0: it does not by itself.
func passesIn(err error) time.Duration {
	var n notYet
	if errors.As(err, &n) {
		return n.within
	}
	return 0
}

// patiently tries until it succeeds, or is refused for something that does not pass, or has not passed in its time. Who
// ordered it and has gone orders it no more.
func patiently[T any](ctx context.Context, try func() (T, error)) (T, error) {
	for began := time.Now(); ; {
		done, err := try()
		took := time.Since(began)
		if took >= passesIn(err) || ctx.Err() != nil {
			return done, waited(err, took)
		}
		select {
		case <-ctx.Done():
			return done, waited(err, time.Since(began))
		case <-time.After(soonAgain):
		}
	}
}

// waited is a refusal that says how long its reason was given to pass.
func waited(err error, took time.Duration) error {
	var p *problem.Problem
	if passesIn(err) == 0 || took < soonAgain || !errors.As(err, &p) {
		return err
	}
	said := *p
	said.Err = fmt.Errorf("%w (waited %v for that to change)", p.Err, took.Round(100*time.Millisecond))
	return &said
}

// moveTo is switchTo by a person's order.
func (a *Agent) moveTo(ctx context.Context, to cluster.NodeID, by history.Order) (cluster.NodeID, error) {
	if a.external() {
		return a.switchTo(ctx, to, by) // which refuses
	}
	next, err := a.succession(to)
	if err != nil {
		return "", err
	}
	return a.switchTo(ctx, next, by)
}

// unready is the beat process' refusal of a switch, by which nothing changed: it hears the successor, and sooner than it reports.
func unready(why string, err error) error {
	if why == election.NotInSync.String() || why == election.NotEligible.String() {
		return soon(err, toldWithin)
	}
	return err
}

// succession is the standby that an order of a person means, if it can take over this moment: it says so, and has all that this
// master has. A refusal says of each what it lacks.
func (a *Agent) succession(to cluster.NodeID) (cluster.NodeID, error) {
	if to == a.o.Node {
		return to, nil
	}
	volumes := a.sendable()
	lacks := func(p beat.PeerReport) (string, time.Duration) {
		n, ok := a.cfg().Node(p.Node)
		return lacking(p, ok && n.Candidate, volumes)
	}
	next, err := a.successor(to, func(p beat.PeerReport) bool { why, _ := lacks(p); return why == "" })
	var p *problem.Problem
	if !errors.As(err, &p) || p.Kind != problem.Unavailable {
		return next, err
	}
	var all []string
	var within time.Duration
	for _, peer := range a.current().Peers {
		if to == "" || to == peer.Node {
			why, passing := lacks(peer)
			all, within = append(all, string(peer.Node)+" "+why), max(within, passing)
		}
	}
	if len(all) > 0 {
		p.Err = fmt.Errorf("%w: %s", p.Err, strings.Join(all, "; "))
	}
	return next, soon(p, within)
}

// sendable are the volumes of which this master can bring a successor the last changes, or can in a moment, when it has taken them
// over: where it cannot, the successor has what it has, and the addresses go for all that.
func (a *Agent) sendable() (list []mirror.Report) {
	if a.disks.Ill() {
		return nil
	}
	for _, v := range a.volumeReports() {
		if v.Paused == nil && v.Problem == "" {
			list = append(list, v)
		}
	}
	return list
}

// lacking is what keeps a node from taking over, "" if nothing does, and within what time that may pass; 0: not by itself.
func lacking(p beat.PeerReport, candidate bool, volumes []mirror.Report) (why string, within time.Duration) {
	switch {
	case !candidate:
		return "is no candidate", 0
	case p.State == beat.PeerUnknown:
		return "was not heard yet", 0
	case p.State == beat.PeerDead:
		return "is silent", 0
	case p.State == beat.PeerSuspect:
		return "is silent since a moment ago", toldWithin
	case p.Maintenance:
		return "is in maintenance", toldWithin
	case p.Ill:
		return "has an ill service or disk", toldWithin
	case p.Class == cluster.Barred:
		return "cannot lead, as it says", toldWithin
	}
	for _, v := range volumes {
		if why, within = behind(p.Node, v); why != "" {
			return why, within
		}
	}
	if p.Class != cluster.InSync || p.Role != cluster.Standby {
		return fmt.Sprintf("is %v and %v, as it says", p.Role, p.Class), soonWithin
	}
	return "", 0
}

// behind is what a node lacks of a volume. How long it takes still is known sometimes.
func behind(node cluster.NodeID, v mirror.Report) (why string, within time.Duration) {
	if !v.Leading { // what the node says of itself is of before the move
		return fmt.Sprintf("waits for volume %s, which this master is taking over", v.Name), soonWithin
	}
	for _, s := range v.Standbys {
		switch left := s.Progress; {
		case s.Node != node:
			continue
		case s.State == "in-sync":
			return "", 0
		case left != nil && left.LeftSeconds > int64(soonWithin.Seconds()):
			return fmt.Sprintf("is %s (volume %s, about %v left)", s.State, v.Name, time.Duration(left.LeftSeconds)*time.Second), 0
		default:
			return fmt.Sprintf("is %s (volume %s)", s.State, v.Name), soonWithin
		}
	}
	return fmt.Sprintf("is not connected for volume %s", v.Name), soonWithin
}

// masterless refuses an order for which there is no master; where there was one a moment ago there is one in a moment.
func (a *Agent) masterless(op string) error {
	var within time.Duration
	if a.movedLately() {
		within = soonWithin
	}
	return soon(&problem.Problem{Op: op, Kind: problem.Unavailable, Err: errors.New("there is no master now"), Hint: "look at `revolve status`"}, within)
}

// movedLately reports whether what a move brings with it may not be over.
func (a *Agent) movedLately() bool { return time.Since(a.current().Since) < soonWithin }
