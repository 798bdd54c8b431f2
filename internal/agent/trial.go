package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/history"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// This file tries a new configuration: it is checked on every node, taken with a
// deadline, and either confirmed by all that must, or turned back by each node for
// itself (roster.Trial; decision 0023).

// serviceTrial asks one node about a configuration: one JSON frame each way.
const serviceTrial = "trial"

// ErrAnew is returned by Run when the agent is to be started anew, with the configuration that is in force now.
var ErrAnew = errors.New("the agent starts anew with another configuration")

// ErrInUse is in what Run returns when another agent has the state directory.
var ErrInUse = errors.New("another agent uses it")

const (
	// answerWithin bounds the wait for a node's word about a configuration: one that reads a file on a slow disk has time for that.
	answerWithin = 8 * time.Second
	// trialLate is how long a trial is not looked at, at most; nobody waits for less than an agent needs to start.
	trialLate = 400 * time.Millisecond
	// anewWithin is how long a master goes on with the former addresses while the others start anew.
	anewWithin = 8 * time.Second
	// trialMargin is left of a trial when it is confirmed at the latest: time in which every node hears of it.
	trialMargin = 2 * time.Second
	// minTrial is the shortest deadline: agents that start anew need some seconds.
	minTrial = 10 * time.Second
	// trialQuiet is how long nothing is said of a trial in the status.
	trialQuiet = 5 * time.Second
	// lackLine is the rest between two log lines about what a trial waits for.
	lackLine = 5 * time.Second
	// errorLine is the rest between two log lines about a former configuration that cannot be brought back: a full disk stays full for a while.
	errorLine = time.Minute
)

// trialFrame is the question.
type trialFrame struct {
	Config string     `json:"config,omitempty"` // would it do here? Otherwise:
	Stamp  beat.Stamp `json:"stamp"`            // is it in force here?
}

// trialAnswer says why not.
type trialAnswer struct {
	Kind    problem.Kind   `json:"kind"`
	Refused string         `json:"refused,omitempty"`
	Hint    string         `json:"hint,omitempty"`
	Running bool           `json:"running"` // the agent runs with it
	Master  cluster.NodeID `json:"master"`  // whom it follows
}

// trying is what an agent knows of a trial beyond its roster.
type trying struct {
	mu    sync.Mutex
	since time.Time // the agent is to start anew; zero: it is not
	lack  string    // what a confirmation waits for, on the master
	said  time.Time
	wrong time.Time // when an error was last said
	// outlived: the trial is over, and this node is only in what was tried. It does not
	// lead: the others may have gone back to where nobody listens to it.
	outlived atomic.Bool
}

func (x *trying) anew() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.since
}

func (x *trying) waitsFor() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lack
}

func (x *trying) mayComplain() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if time.Since(x.wrong) < errorLine {
		return false
	}
	x.wrong = time.Now()
	return true
}

// startsAnew reports whether a configuration needs another beat process and
// other sockets than this agent has, and remembers it.
func (a *Agent) startsAnew(cfg *config.Config) bool {
	needs := needsAnew(a.o.Config, cfg, a.o.Node)
	a.trial.mu.Lock()
	defer a.trial.mu.Unlock()
	switch {
	case !needs:
		a.trial.since = time.Time{}
	case a.trial.since.IsZero():
		a.trial.since = time.Now()
	}
	return needs
}

func needsAnew(was, now *config.Config, self cluster.NodeID) bool {
	x, okX := was.Node(self)
	y, okY := now.Node(self)
	return okX && okY && !slices.Equal(sortedLinks(x.Links), sortedLinks(y.Links)) ||
		!slices.Equal(was.VIPs, now.VIPs) || !slices.Equal(linksOf(was), linksOf(now))
}

// trials brings a trial to its end, and ends the agent when it has to start anew.
// It looks when the beat process reports, since the agent is awake then, and without a report in time all the same.
func (a *Agent) trials(ctx context.Context) error {
	late := time.NewTimer(trialLate)
	defer late.Stop()
	for {
		_, changed := a.reportAndNext()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-late.C:
		}
		late.Reset(trialLate)
		left, on := a.o.Roster.Trial()
		over := on && left <= 0
		a.trial.outlived.Store(over && a.o.Roster.NoWayBack(a.o.Node))
		switch {
		case a.trial.outlived.Load():
			a.lacks("a generation that this node is in: it joined while one was tried that was not confirmed in time; apply the configuration with it again")
		case over:
			a.turnBack(ctx)
		case a.trial.anew() != time.Time{}:
			if a.mayStartAnew(ctx) {
				return ErrAnew
			}
		case on && left > trialMargin && a.leads():
			a.confirm(ctx)
		}
	}
}

// mayStartAnew reports whether it is this node's turn: the master's comes when the
// others run again, and it hands over first if somebody can take the addresses.
func (a *Agent) mayStartAnew(ctx context.Context) bool {
	if _, on := a.o.Roster.Trial(); !on || !a.leads() || time.Since(a.trial.anew()) > anewWithin {
		return true
	}
	if why := a.lacking(ctx, false); why != "" {
		a.lacks(why)
		return false
	}
	_, err := a.switchTo(ctx, "", a.wanted(history.WhySwitch))
	if err != nil {
		a.lacks(err.Error())
	}
	return false // as a standby at the next look
}

// confirm ends a trial well when every node that must has confirmed. What a node says
// too late for the others to hear of it does not count.
func (a *Agent) confirm(ctx context.Context) {
	r := a.o.Roster.Current()
	left, on := a.o.Roster.Trial()
	former := a.o.Roster.Former()
	if r.Trial == nil || former == nil || !on {
		return
	}
	inTime, cancel := context.WithTimeout(ctx, left-trialMargin)
	defer cancel()
	if why := a.lacking(inTime, true); why != "" {
		a.lacks(why)
		return
	}
	if left, on := a.o.Roster.Trial(); !on || left <= trialMargin {
		return
	}
	a.lacks("")
	next := r.Keep()
	cfg, err := config.Parse("the configuration that is confirmed", []byte(next.Config))
	taken := false
	if err == nil {
		taken, err = a.take(&next, cfg)
	}
	if err != nil || !taken {
		a.o.Log.Warn("the configuration is confirmed, and could not be kept yet", "err", err, "hint", problem.HintOf(err))
		return
	}
	a.o.Log.Info("the configuration is confirmed by every node that must, and stays", "generation", next.Generation)
	a.tellAll(ctx, former, cfg)
}

// turnBack goes back to the former configuration, unless somebody knows that the others have stayed.
func (a *Agent) turnBack(ctx context.Context) {
	a.askAll(ctx, nil)
	r := a.o.Roster.Current()
	if r.Trial == nil {
		return
	}
	next, tried := r.Back(), a.cfg()
	cfg, err := config.Parse("the former configuration", []byte(next.Config))
	if err == nil {
		_, err = a.take(&next, cfg)
	}
	if err != nil {
		if a.trial.mayComplain() { // it is tried again at every look
			a.o.Log.Error("the former configuration could not be brought back", "err", err, "hint", problem.HintOf(err))
		}
		return
	}
	a.o.Log.Warn("the new configuration was not confirmed in time: the former one is in force again", "generation", next.Generation, "waited_for", a.trial.waitsFor())
	a.tellAll(ctx, tried, cfg)
}

// waitsForWord says why a roster without this node does not end its membership, nil
// if it does: it is only tried, or follows a trial with which this node joined.
func (a *Agent) waitsForWord(r *roster.Roster) error {
	wait := func(why, hint string) error {
		return &problem.Problem{Op: "take roster", Kind: problem.Unavailable, Subject: string(a.o.Node), Err: errors.New(why), Hint: hint}
	}
	switch {
	case r.Trial != nil:
		return wait("this node is not in the configuration that is tried", "wait until that is decided: then this node is a member again, or removed")
	case a.o.Roster.NoWayBack(a.o.Node):
		return wait("this node joined while a configuration was tried, and is not in the one before it", "apply the configuration with this node again: revolve config apply")
	}
	return nil
}

// triedPaths lead to where a node would be if it had stayed with a configuration
// that this one went back from: it confirmed, and did not hear that the others had, too.
func (a *Agent) triedPaths(n config.Node) (paths []peer.Path) {
	tried := a.o.Roster.Current().Tried
	if tried == "" {
		return nil
	}
	cfg, err := config.Parse("the configuration that was tried", []byte(tried))
	if err != nil {
		return nil
	}
	there, member := cfg.Node(n.Name)
	if !member {
		return nil
	}
	for _, l := range there.Links {
		if !slices.Contains(n.Links, l) {
			paths = append(paths, peer.Path{Link: l.Name, Remote: netip.AddrPortFrom(l.Addr, cfg.Port)})
		}
	}
	return paths
}

// lacks notes what a trial waits for.
func (a *Agent) lacks(why string) {
	a.trial.mu.Lock()
	a.trial.lack = why
	say := why != "" && time.Since(a.trial.said) > lackLine
	if say {
		a.trial.said = time.Now()
	}
	a.trial.mu.Unlock()
	if say {
		a.o.Log.Info("the new configuration is not confirmed yet", "waits_for", why)
	}
}

// lacking says which nodes that must do not run with the configuration that is
// tried (and, with follows, are not heard or do not follow this master); "" if all do.
func (a *Agent) lacking(ctx context.Context, follows bool) string {
	r := a.o.Roster.Current()
	if r.Trial == nil {
		return ""
	}
	heard := alive(a.current())
	why := make([]string, len(r.Trial.Expect))
	var g errgroup.Group
	for i, n := range r.Trial.Expect {
		if n == a.o.Node {
			continue
		}
		g.Go(func() error {
			ans, err := a.askTrial(ctx, n, trialFrame{Stamp: a.stamp()})
			switch {
			case err != nil:
				why[i] = err.Error()
			case !ans.Running:
				why[i] = fmt.Sprintf("node %s does not run with it yet", n)
			case follows && !slices.Contains(heard, n):
				why[i] = fmt.Sprintf("node %s is not heard", n)
			case follows && ans.Master != a.o.Node:
				why[i] = fmt.Sprintf("node %s does not follow this master", n)
			}
			return nil
		})
	}
	_ = g.Wait()
	return strings.Join(slices.DeleteFunc(why, func(s string) bool { return s == "" }), "; ")
}

func (a *Agent) askTrial(ctx context.Context, n cluster.NodeID, q trialFrame) (ans trialAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := a.question(ctx, n, serviceTrial, q, &ans); err != nil {
		return ans, fmt.Errorf("node %s does not say what it thinks of the configuration (is it of an older version?): %w", n, err)
	}
	return ans, nil
}

// serveTrial answers one question.
func (a *Agent) serveTrial(conn *peer.Conn) error {
	defer conn.Close()
	var q trialFrame
	if err := readQuestion(conn, answerWithin, &q); err != nil {
		return err
	}
	ans := trialAnswer{Running: q.Stamp == a.stamp() && a.trial.anew().IsZero(), Master: a.current().Master}
	if q.Config != "" {
		if err := a.wouldDo(q.Config); err != nil {
			ans.Kind, ans.Refused, ans.Hint = problem.KindOf(err), err.Error(), problem.HintOf(err)
		}
	}
	return answer(conn, ans)
}

// wouldDo checks a configuration on this machine: what no other one can know.
func (a *Agent) wouldDo(text string) error {
	cfg, err := config.Parse("the new configuration", []byte(text))
	if err != nil {
		return err
	}
	if err := a.fileRefuses(text); err != nil {
		return err
	}
	was, _ := a.cfg().Node(a.o.Node)
	now, member := cfg.Node(a.o.Node)
	if was == nil || !member {
		return nil
	}
	have, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, l := range now.Links {
		if slices.Contains(was.Links, l) {
			continue
		}
		if !slices.ContainsFunc(have, func(x net.Addr) bool { p, ok := x.(*net.IPNet); return ok && p.IP.Equal(l.Addr.AsSlice()) }) {
			return &problem.Problem{Op: "take the configuration on node", Kind: problem.Conflict, Subject: string(a.o.Node),
				Err: fmt.Errorf("the address %s of link %s is on no card of it", l.Addr, l.Name), Hint: fmt.Sprintf("add it there first, beside the former one: ip address add %s/24 dev CARD", l.Addr)}
		}
	}
	return nil
}

// checked has all nodes look at the configuration of a change, and makes of the next
// roster one that is only tried, if the change has a deadline.
func (a *Agent) checked(ctx context.Context, next *roster.Roster, former string, c control.Change, done *control.Changed) error {
	if c.Config == "" {
		return nil
	}
	if c.Deadline < 0 || c.Deadline > roster.MaxTrial || c.Deadline > 0 && c.Deadline < minTrial {
		return &problem.Problem{Op: "change the configuration", Kind: problem.Invalid, Subject: c.Deadline.String(), Err: errors.New("no deadline that a trial can have"),
			Hint: fmt.Sprintf("choose one from %v to %v, or 0 for a change without a way back", minTrial, roster.MaxTrial)}
	}
	if len(done.Anew) > 0 && c.Deadline == 0 {
		return &problem.Problem{Op: "change the configuration", Kind: problem.Invalid, Subject: strings.Join(done.Anew, ", "), Err: errors.New("agents would start anew without a way back"),
			Hint: "nothing was changed; leave --deadline out, or give one above 0"}
	}
	cfg, err := config.Parse("the new configuration", []byte(c.Config))
	if err != nil {
		return err
	}
	expect, err := a.checkAll(ctx, cfg, c.Config, c.Deadline > 0)
	if err == nil && c.Deadline > 0 {
		next.Trial = &roster.Trial{Seconds: uint32(c.Deadline / time.Second), Former: former, Expect: expect}
	}
	return err
}

// trialWarning is worth a warning when a trial takes longer than one that goes well.
func (a *Agent) trialWarning() []string {
	r := a.o.Roster.Current()
	left, on := a.o.Roster.Trial()
	if !on || time.Duration(r.Trial.Seconds)*time.Second-left < trialQuiet {
		return nil
	}
	text := fmt.Sprintf("the configuration of generation %d is only tried yet; without a confirmation the former one comes back within %v", r.Generation, max(left, 0).Round(time.Second))
	if why := a.trial.waitsFor(); why != "" {
		text += ": " + why
	}
	return []string{text}
}

// untried refuses a change while a configuration is tried.
func (a *Agent) untried() error {
	left, on := a.o.Roster.Trial()
	if !on {
		return nil
	}
	return &problem.Problem{Op: "change the cluster", Kind: problem.Conflict, Subject: a.cfg().Cluster,
		Err:  fmt.Errorf("generation %d is only tried yet, for %v more at most", a.generation(), max(left, 0).Round(time.Second)),
		Hint: "wait until it is confirmed or turned back (revolve status), and type it again"}
}
