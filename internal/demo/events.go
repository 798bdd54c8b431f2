package demo

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Times of the story.
const (
	startWithin   = 20 * time.Second       // until the first master
	treeWithin    = 90 * time.Second       // until the tree is everywhere
	steadyFor     = 3 * time.Second        // how long nothing happens
	quietAtLeast  = 300 * time.Millisecond // before each fault, plus a random part up to:
	quietRandom   = 700 * time.Millisecond
	serviceWithin = 10 * time.Second // until somebody answers again
	otherFor      = 2 * time.Second  // how long the other link stays cut
	trailFor      = 500 * time.Millisecond
)

// quiet waits a random moment, so that faults meet the cluster at any point of its work.
func (t *theatre) quiet(ctx context.Context) error {
	return pause(ctx, quietAtLeast+time.Duration(t.rnd.Int64N(int64(quietRandom))))
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// served waits until another node than the given one answers, and measures.
func (t *theatre) served(ctx context.Context, ev *Event, old string, at instant) error {
	var back answer
	err := until(ctx, serviceWithin, lookEvery, "an answer from a new master", func() bool {
		var ok bool
		back, ev.After, ok = t.answers.firstOf(t.holders.gains(old, at))
		return ok
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, t.whoSpoke(old, at))
	}
	ev.BackMS = msPtr(back.answered.sub(at))
	if err := pause(ctx, trailFor); err != nil {
		return err
	}
	end := now()
	ev.BlackoutMS = msPtr(t.answers.longest(false, at, end).length())
	ev.Blackout6 = msPtr(t.answers.longest(true, at, end).length())
	return nil
}

// whoSpoke says what was seen of the address since then, for whoever has to find out why nobody answered.
func (t *theatre) whoSpoke(old string, at instant) string {
	vip := t.plan.vip4.Addr()
	text := fmt.Sprintf("since %s failed %d questions for its card were answered, the client heard %v", old, t.cards.answered(vip, at, now()), t.answers.by(at))
	for _, g := range t.holders.gains(old, at) {
		text += fmt.Sprintf(", %s got it after %.0f ms", g.node, ms(g.at.sub(at)))
	}
	who, _ := t.holders.current()
	return fmt.Sprintf("%s; it is on %v now", text, who)
}

// gone waits until the address has left the node by itself, and measures.
func (t *theatre) gone(ctx context.Context, ev *Event, node string, at instant) error {
	var left instant
	err := until(ctx, serviceWithin, lookEvery, "the address to leave "+node, func() bool {
		left = t.holders.lostAt(node, at)
		return left != 0
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, t.whoSpoke(node, at))
	}
	ev.VIPGoneMS = msPtr(left.sub(at))
	return nil
}

// within holds a measured value against its bound.
func (e *Event) within(promise, what string, measured *float64, bound time.Duration) {
	if measured != nil && *measured >= ms(bound) {
		e.misses(promise, "%s took %.1f ms, the bound is %.0f ms", what, *measured, ms(bound))
	}
}

func (s *story) begin(name string) (*Event, string, error) {
	master, err := s.t.master(s.ctx, serviceWithin)
	ev := &Event{Name: name, Round: s.round, Before: master, After: master, At: s.sinceStart(), from: now()}
	s.pen.coming(name)
	return ev, master, err
}

// strike begins an event that befalls the master x while it serves and writes.
func (s *story) strike(name string) (ev *Event, x string, m *machine, err error) {
	ev, _, err = s.begin(name)
	if err == nil {
		err = s.t.quiet(s.ctx)
	}
	if err != nil {
		return nil, "", nil, err
	}
	// What befalls a node that has just lost the address by itself would be judged as if it had it.
	if x, err = s.t.master(s.ctx, serviceWithin); err != nil {
		return nil, "", nil, err
	}
	if x != ev.Before {
		ev.misses("P1", "%s lost the address to %s before anything was done to it", ev.Before, x)
		ev.Before, ev.After = x, x
	}
	s.t.calm.Store(false)
	return ev, x, s.t.machines[x], nil
}

// planned moves the address on request.
func (s *story) planned() error {
	ev, x, _, err := s.strike("switch")
	if err != nil {
		return err
	}
	y := x
	for y == x {
		y = s.t.plan.names[s.t.rnd.IntN(len(s.t.plan.names))]
	}
	at := now()
	if _, _, err := s.t.revolve(s.ctx, "switch", y, "--state", s.t.plan.state(x)); err != nil {
		return err
	}
	if err := s.t.served(s.ctx, ev, x, at); err != nil {
		return err
	}
	left := s.t.holders.lostAt(x, at)
	s.t.endReign(s.j, x, left)
	// What was closed before the address left is on the successor, by promise.
	s.t.mu.Lock()
	s.t.barriers = append(s.t.barriers, barrier{node: x, from: left.add(-reignMargin), to: left})
	s.t.mu.Unlock()
	ev.BoundMS = msPtr(boundSwitch)
	ev.within("P1", "the planned switch", ev.BlackoutMS, boundSwitch)
	if ev.After != y {
		ev.breaks("P1", "%s was asked for, %s became master", y, ev.After)
	}
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, now()); err != nil {
		return err
	}
	return s.tell(ev, fmt.Sprintf("planned switch from %s to %s", x, ev.After))
}

// powerCut takes the power from the master while it writes, and brings it back.
func (s *story) powerCut() error {
	ev, x, m, err := s.strike("power-cut")
	if err != nil {
		return err
	}
	s.t.holders.setApart(x, true)
	at := now()
	m.up = false
	lossy, err := m.node.PowerOff()
	if err != nil {
		return err
	}
	s.t.holders.off(x)
	s.t.endReign(s.j, x, at)
	if err := s.t.served(s.ctx, ev, x, at); err != nil {
		return err
	}
	ev.BoundMS = msPtr(boundCut)
	ev.within("P1", "the silence after the power cut", ev.BlackoutMS, boundCut)
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, now()); err != nil {
		return err
	}
	if err := s.tell(ev, fmt.Sprintf("power cut of %s in mid-write, %s takes over", x, ev.After)); err != nil {
		return err
	}
	return s.comeBack(x, lossy)
}

// comeBack is the return of a node after a power cut.
func (s *story) comeBack(x string, lossy bool) error {
	ev, y, err := s.begin("return")
	if err != nil {
		return err
	}
	ev.returned = x
	m := s.t.machines[x]
	at := now()
	if err := m.node.PowerOn(); err != nil {
		return err
	}
	if lossy {
		n, err := s.t.afterPowerCut(s.j, x)
		if err != nil {
			return err
		}
		ev.OffDisk = &n
	}
	if err := s.t.boot(m); err != nil {
		return err
	}
	s.t.holders.setApart(x, false)
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, at); err != nil {
		return err
	}
	s.undisturbed(ev, y, at, now())
	return s.tell(ev, fmt.Sprintf("%s returns and catches up", x))
}

// undisturbed checks that a time passed without a change of master.
func (s *story) undisturbed(ev *Event, master string, from, to instant) {
	if left, came := s.t.holders.moved(master, from, to); left+came > 0 {
		ev.misses("P1", "the address left %s %d times, and came to a node %d times", master, left, came)
	}
	ev.After = master
	ev.BlackoutMS = msPtr(s.t.answers.longest(false, from, to).length())
}

// freeze stops every process of the master.
func (s *story) freeze() error {
	ev, x, m, err := s.strike("freeze")
	if err != nil {
		return err
	}
	silent, err := s.t.fallsSilent(s.ctx, x)
	if err != nil {
		return err
	}
	if !silent {
		s.less("a frozen master's kernel answers until it removes the address: P1 is judged by who has it there, too")
	}
	at := now()
	m.up = false
	s.t.holders.setApart(x, silent) // it hears nobody; what it has without a word is judged by the cards
	if err := m.node.Hold(); err != nil {
		return err
	}
	s.t.endReign(s.j, x, at)
	if err := s.failed(ev, x, at, "a frozen master"); err != nil {
		return err
	}
	back := now()
	s.t.holders.setApart(x, false)
	if err := m.node.Resume(); err != nil {
		return err
	}
	m.up = true
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, back); err != nil {
		return err
	}
	return s.tell(ev, fmt.Sprintf("%s freezes with all its processes, %s takes over", x, ev.After))
}

// failed measures what P2 says of a master that runs no code of ours any more.
func (s *story) failed(ev *Event, x string, at instant, what string) error {
	if err := s.t.gone(s.ctx, ev, x, at); err != nil {
		return err
	}
	if err := s.t.served(s.ctx, ev, x, at); err != nil {
		return err
	}
	ev.BoundMS = msPtr(boundBack)
	ev.within("P2", "the address's leaving of "+what, ev.VIPGoneMS, boundGone)
	ev.within("P2", "the service's return after "+what, ev.BackMS, boundBack)
	return nil
}

// kill ends the master's agent with SIGKILL.
func (s *story) kill() error {
	ev, x, m, err := s.strike("kill")
	if err != nil {
		return err
	}
	at := now()
	m.up = false
	if err := m.agent.Signal(unix.SIGKILL); err != nil {
		return err
	}
	s.t.endReign(s.j, x, at)
	if err := s.failed(ev, x, at, "a killed agent"); err != nil {
		return err
	}
	if _, err := m.agent.Wait(s.ctx); err != nil {
		return err
	}
	back := now()
	if err := s.t.startAgent(m); err != nil {
		return err
	}
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, back); err != nil {
		return err
	}
	return s.tell(ev, fmt.Sprintf("the agent of %s is killed with SIGKILL, %s takes over", x, ev.After))
}

// otherLink cuts the master's link that carries no address. Nothing may happen.
func (s *story) otherLink() error {
	ev, x, err := s.begin("other-link")
	if err != nil {
		return err
	}
	m := s.t.machines[x]
	if err := s.t.quiet(s.ctx); err != nil {
		return err
	}
	at := now()
	if err := m.node.Cut(linkFast); err != nil {
		return err
	}
	if err := pause(s.ctx, otherFor); err != nil {
		return err
	}
	if err := m.node.Mend(linkFast); err != nil {
		return err
	}
	to := now()
	if err := pause(s.ctx, lostAfter+trailFor); err != nil {
		return err
	}
	s.undisturbed(ev, x, at, now())
	lost := s.t.answers.lostBetween(false, at, to) + s.t.answers.lostBetween(true, at, to)
	if ev.Lost = &lost; lost > 0 {
		ev.misses("P1", "%d queries got no answer", lost)
	}
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, to); err != nil {
		return err
	}
	return s.tell(ev, fmt.Sprintf("%s loses its other link for %.0f s, nothing happens", x, otherFor.Seconds()))
}

// vipLink cuts the link that the address is on, at the master.
func (s *story) vipLink() error {
	ev, x, m, err := s.strike("vip-link")
	if err != nil {
		return err
	}
	s.t.holders.setApart(x, true)
	at := now()
	if err := m.node.Cut(linkLAN); err != nil {
		return err
	}
	s.t.endReign(s.j, x, at)
	if err := s.t.gone(s.ctx, ev, x, at); err != nil {
		return err
	}
	if err := s.t.served(s.ctx, ev, x, at); err != nil {
		return err
	}
	ev.BoundMS = msPtr(boundVIPLink)
	ev.within("P1", "the silence after the cut of the address's link", ev.BlackoutMS, boundVIPLink)
	back := now()
	if err := m.node.Mend(linkLAN); err != nil {
		return err
	}
	s.t.holders.setApart(x, false)
	if err := s.t.settleAndJudge(s.ctx, s.j, ev, back); err != nil {
		return err
	}
	return s.tell(ev, fmt.Sprintf("%s loses the address's link, it moves to %s", x, ev.After))
}
