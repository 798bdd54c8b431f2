package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
	"revolve/internal/testbed"
)

// newcomer adds a machine to the cluster while it serves: a token is made where
// the CA is, the new machine joins with it, and copies everything.
func (s *story) newcomer() error {
	ev, master, err := s.begin("join")
	if err != nil {
		return err
	}
	if err := s.t.quiet(s.ctx); err != nil {
		return err
	}
	at := now()
	m, err := s.t.join(s.ctx)
	if err != nil {
		return err
	}
	s.report.Nodes = s.t.plan.names
	if _, err := s.t.settled(s.ctx, treeWithin); err != nil {
		return err
	}
	to := now()
	if err := pause(s.ctx, lostAfter+trailFor); err != nil {
		return err
	}
	s.undisturbed(ev, master, at, now())
	lost := s.t.answers.lostBetween(false, at, to) + s.t.answers.lostBetween(true, at, to)
	if ev.Lost = &lost; lost > 0 {
		ev.misses("P1", "%d queries got no answer", lost)
	}
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, at); err != nil {
		return err
	}
	return s.tell(ev, fmt.Sprintf("%s joins by token, and has everything after %.1f s", m.name, to.sub(at).Seconds()))
}

// join makes one more machine a node, as a person would: a token on the node
// that did init, and `revolve join` on the new one, which gets it in a file.
func (t *theatre) join(ctx context.Context) (*machine, error) {
	i := len(t.plan.names)
	name, first := string(rune('a'+i)), t.plan.names[0]
	n, err := t.bed.AddNode(t.plan.spec(i, name))
	if err != nil {
		return nil, err
	}
	for _, vol := range []string{volHome, volZones} {
		if err := os.MkdirAll(t.plan.volume(name, vol), 0o755); err != nil {
			return nil, &problem.Problem{Op: "make volume", Subject: vol, Kind: problem.Internal, Err: err}
		}
	}
	links := []string{"--link", fmt.Sprintf("%s=10.77.0.%d", linkLAN, 11+i), "--link", fmt.Sprintf("%s=10.78.0.%d", linkFast, 11+i)}
	token, _, err := t.revolve(ctx, append([]string{"token", name, "--state", t.plan.state(first)}, links...)...)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(t.plan.dir, name, "token"), token, 0o600); err != nil {
		return nil, &problem.Problem{Op: "carry the token", Kind: problem.Internal, Err: err}
	}
	p, err := n.Start(testbed.Command{
		Argv: []string{t.program, "join", "10.77.0.11", "--token-file", filepath.Join(t.plan.self, "token"), "--node", name, "--state", filepath.Join(t.plan.self, "state")},
		Log:  t.plan.logFile(name, "join"),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandFor)
	defer cancel()
	status, err := p.Wait(ctx)
	if err == nil && status != 0 {
		text, _ := os.ReadFile(t.plan.logFile(name, "join"))
		err = fmt.Errorf("exit status %d: %s", status, text)
	}
	if err != nil {
		return nil, &problem.Problem{Op: "join", Subject: name, Kind: problem.Unavailable, Err: err}
	}
	unix.Sync() // what was set up by hand is on the disk before anything fails
	m := &machine{name: name, node: n}
	t.machines[name] = m
	t.plan.names = append(t.plan.names, name)
	return m, t.boot(m)
}
