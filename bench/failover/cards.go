package main

import (
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"time"

	wire "revolve/internal/failover/vip"
	"revolve/internal/failover/whoanswers"
)

// askCards asks the whole link every 5 ms which card has the address, from a network
// namespace of its own: what it learns no client's kernel learns. Of each answer it writes
// when the question left, when it came, and a number for the card.
func askCards(ctx context.Context, address string, out io.Writer) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	cards := map[wire.MAC]byte{}
	rec := make([]byte, 0, answerSize)
	return whoanswers.Ask(ctx, whoanswers.Options{Device: string(lan), Addrs: []netip.Addr{addr}, Every: askEvery}, func(x whoanswers.Answer) error {
		if x.IsQuestion() {
			return nil
		}
		if cards[x.Card] == 0 {
			cards[x.Card] = byte(len(cards) + 1)
		}
		rec = binary.BigEndian.AppendUint64(rec[:0], uint64(x.Asked))
		rec = append(binary.BigEndian.AppendUint64(rec, uint64(x.Came)), cards[x.Card])
		_, err := out.Write(rec)
		return err
	})
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
