package witness

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/election"
	"revolve/internal/problem"
)

// Who asks.
type Who struct {
	Cluster, Node string
	Dead          time.Duration // T_dead of its profile
}

// Look is what a witness says to somebody who only looks.
type Look struct {
	Free   bool          // Who's node might lead
	Holder string        // who may lead now; "" if nobody
	Took   time.Duration // from the question to the answer
}

// lookEvery is between two questions: one of them may be lost.
const lookEvery = 200 * time.Millisecond

// LookAt asks a witness without changing anything there, until it answers or ctx
// ends. The error is of kind Timeout if nobody answers, which is also what a wrong key looks like.
func LookAt(ctx context.Context, at netip.AddrPort, key Key, who Who) (Look, error) {
	fail := func(kind problem.Kind, err error, hint string) (Look, error) {
		return Look{}, &problem.Problem{Op: "ask the witness", Kind: kind, Subject: at.String(), Err: err, Hint: hint}
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return fail(problem.Unavailable, err, "look at this machine's routes: ip route get "+at.Addr().String())
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	codec := NewCodec(key)
	q := Packet{Kind: Peek, Dead: election.Time(who.Dead), Cluster: NameOf(who.Cluster), Node: NameOf(who.Node), Life: drawn() | 1}
	var out, in [Size]byte
	refused := false
	for ctx.Err() == nil {
		q.Seq++
		asked := time.Now()
		_, err := conn.Write(codec.Seal(out[:], 0, &q))
		refused = refused || errors.Is(err, unix.ECONNREFUSED)
		var p Packet
		for {
			if deadline := asked.Add(lookEvery); ctx.Err() == nil {
				_ = conn.SetReadDeadline(deadline)
			}
			n, err := conn.Read(in[:])
			refused = refused || errors.Is(err, unix.ECONNREFUSED)
			if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				break // the time is over
			}
			if _, ok := codec.Open(in[:n], &p); err == nil && ok && p.Answers(&q) {
				return Look{Free: p.Kind == Granted, Holder: p.Holder.String(), Took: time.Since(asked)}, nil
			}
		}
	}
	if refused {
		return fail(problem.Unavailable, errors.New("nobody listens there"), "start it there: revolve witness --listen "+at.String()+" --key-file FILE")
	}
	return fail(problem.Timeout, errors.New("no answer"), "see whether it runs, whether a firewall drops UDP to its port, and whether its key file is the same as here: it does not answer strangers")
}
