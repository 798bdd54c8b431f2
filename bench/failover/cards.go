package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	wire "revolve/internal/failover/vip"
)

// askCards asks the whole link every 5 ms which card has the address, from a network
// namespace of its own: what it learns no client's kernel learns. Of each answer it writes
// when the question left, when it came, and a number for the card.
func askCards(ctx context.Context, address string, out io.Writer) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	card, err := net.InterfaceByName(string(lan))
	if err != nil {
		return err
	}
	if len(card.HardwareAddr) != len(wire.MAC{}) {
		return errors.New("no Ethernet card")
	}
	w, err := wire.OpenWire(card.Index, false)
	if err != nil {
		return err
	}
	defer w.Close()
	own := wire.MAC(card.HardwareAddr)
	question := wire.Ask(addr, netip.MustParseAddr(cardsAddr), own)
	var sent instant
	cards := map[wire.MAC]byte{}
	buf, rec := make([]byte, 2048), make([]byte, 0, answerSize)
	for next := now(); ctx.Err() == nil; {
		if now() >= next {
			sent, next = now(), next.add(askEvery)
			if w.Send(question) != nil {
				continue // the link is down: nobody answers
			}
		}
		wait := unix.NsecToTimespec(max(0, int64(next-now())))
		_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(w.FD()), Events: unix.POLLIN}}, &wait, nil) // a signal ends it early
		for {
			f, ok := w.Read(buf)
			if !ok {
				break
			}
			h, ok := wire.ParseHolder(f)
			if !ok || h.Addr != addr || !wire.AnswersTo(f, own) {
				continue
			}
			if cards[h.MAC] == 0 {
				cards[h.MAC] = byte(len(cards) + 1)
			}
			rec = binary.BigEndian.AppendUint64(rec[:0], uint64(sent))
			rec = append(binary.BigEndian.AppendUint64(rec, uint64(now())), cards[h.MAC])
			if _, err := out.Write(rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// both is how long two cards answered the same question within the time, counted in
// questions, and when the last such one left; 0 for never.
func (a *answers) both(from, to instant) (ms float64, last instant) {
	var question instant
	var card byte
	for _, x := range a.between(from, to) {
		switch {
		case x.sent < from:
		case x.sent != question:
			question, card = x.sent, x.node
		case x.node != card && card != 0:
			ms += float64(askEvery / time.Millisecond)
			last, card = x.sent, 0 // a third one makes it no longer
		}
	}
	return ms, last
}
