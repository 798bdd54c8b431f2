// Package whoanswers asks a whole link, as a third machine on it, which network cards
// answer for floating addresses: by ARP for IPv4, by neighbour solicitations for IPv6.
// That is what clients meet. A kernel may have an address and be silent for it, or
// have lost it a moment ago; the answers say neither more nor less than what the link hears.
//
// It judges nothing, announces nothing, and teaches no machine who has an address. It is
// for demonstrations and measurements: the product itself asks single cards (package vip).
//
//	err := whoanswers.Ask(ctx, whoanswers.Options{Device: "lan", Own: own, Addrs: vips, Every: 10 * time.Millisecond}, tell)
package whoanswers

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/vip"
	"revolve/internal/problem"
)

// MaxFrame is what is read of one frame; answers are shorter.
const MaxFrame = 2048

// Options say who is asked for, and where.
type Options struct {
	Device string        // the interface; what it learns its own kernel learns too, so no client should live there
	Own    netip.Addr    // an IPv6 address of it, which IPv6 is asked from; not needed for IPv4
	Addrs  []netip.Addr  // who is asked for
	Every  time.Duration // between two questions for each of them
}

// Answer is one card's answer to one question, or the question itself, which comes before its answers.
type Answer struct {
	Addr  netip.Addr
	Card  vip.MAC       // the one that answered; zero in a question
	Asked time.Duration // when the question left, of CLOCK_MONOTONIC, which all processes of a machine share
	Came  time.Duration // when the answer came; as Asked in a question
}

// IsQuestion reports whether this is the question itself.
func (a Answer) IsQuestion() bool { return a.Card == vip.MAC{} }

// lane is one address and how it is asked for.
type lane struct {
	addr     netip.Addr
	question []byte
	asked    time.Duration
}

// wire is the socket of one family.
type wire struct {
	*vip.Wire
	lanes []*lane
}

// Ask asks until ctx ends, or tell fails. An answer counts for the newest question before it.
// It needs CAP_NET_RAW in the network namespace. A link that is down answers nothing, and is asked again.
func Ask(ctx context.Context, o Options, tell func(Answer) error) error {
	card, err := net.InterfaceByName(o.Device)
	if err == nil && len(card.HardwareAddr) != len(vip.MAC{}) {
		err = errors.New("no Ethernet card")
	}
	if err != nil {
		return &problem.Problem{Op: "ask the cards of link", Kind: problem.Unavailable, Subject: o.Device, Err: err}
	}
	own := vip.MAC(card.HardwareAddr)
	var wires []wire
	defer func() {
		for _, w := range wires {
			_ = w.Close()
		}
	}()
	for _, six := range []bool{false, true} {
		lanes, err := lanesOf(o, own, six)
		if err != nil {
			return err
		}
		if len(lanes) == 0 {
			continue
		}
		w, err := vip.OpenWire(card.Index, six)
		if err != nil {
			return err
		}
		wires = append(wires, wire{w, lanes})
	}
	return rounds(ctx, o, wires, own, tell)
}

func lanesOf(o Options, own vip.MAC, six bool) (lanes []*lane, err error) {
	for _, a := range o.Addrs {
		if a.Is6() != six {
			continue
		}
		q := vip.Ask(a, o.Own, own)
		if q == nil {
			return nil, &problem.Problem{Op: "ask the cards for", Kind: problem.Invalid, Subject: a.String(), Err: errors.New("IPv6 is asked from an address, and there is none")}
		}
		lanes = append(lanes, &lane{addr: a, question: q})
	}
	return lanes, nil
}

// rounds asks for all addresses, and reads what comes until the next time.
func rounds(ctx context.Context, o Options, wires []wire, own vip.MAC, tell func(Answer) error) error {
	polls := make([]unix.PollFd, len(wires))
	for i, w := range wires {
		polls[i] = unix.PollFd{Fd: int32(w.FD()), Events: unix.POLLIN}
	}
	buf := make([]byte, MaxFrame)
	for next := Now(); ctx.Err() == nil; {
		if now := Now(); now >= next {
			next = max(next+o.Every, now) // what a busy machine missed is not made up for
			if err := askAll(wires, tell); err != nil {
				return err
			}
		}
		wait := unix.NsecToTimespec(max(0, int64(next-Now())))
		_, _ = unix.Ppoll(polls, &wait, nil) // a signal ends it early
		for _, w := range wires {
			if err := w.read(buf, own, tell); err != nil {
				return err
			}
		}
	}
	return nil
}

func askAll(wires []wire, tell func(Answer) error) error {
	for _, w := range wires {
		for _, l := range w.lanes {
			asked := Now()
			if w.Send(l.question) != nil {
				continue // the link is down: nobody answers
			}
			l.asked = asked
			if err := tell(Answer{Addr: l.addr, Asked: asked, Came: asked}); err != nil {
				return err
			}
		}
	}
	return nil
}

// read hands on the answers that wait.
func (w *wire) read(buf []byte, own vip.MAC, tell func(Answer) error) error {
	for {
		f, ok := w.Read(buf)
		if !ok {
			return nil
		}
		h, ok := vip.ParseHolder(f)
		if !ok || !vip.AnswersTo(f, own) {
			continue
		}
		for _, l := range w.lanes {
			if l.addr != h.Addr || l.asked == 0 {
				continue
			}
			if err := tell(Answer{Addr: l.addr, Card: h.MAC, Asked: l.asked, Came: Now()}); err != nil {
				return err
			}
		}
	}
}

// Now is CLOCK_MONOTONIC.
func Now() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock (clock_gettime(2))
	return time.Duration(ts.Nano())
}
