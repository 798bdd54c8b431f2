package peer

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// silenceEvery is how often a patient connection is looked at.
const silenceEvery = 500 * time.Millisecond

// Patient lets the peer read as slowly as it must, for as long as its kernel
// answers, and returns when ctx ends or the kernel is silent for deadAfter; then
// the connection is closed. It is for a sender of large things, whose far end may
// wait for a disk: TCP_USER_TIMEOUT alone counts from when the window closed,
// even though every probe is answered (Linux net/ipv4/tcp_timer.c,
// tcp_probe_timer), and so ends a transfer because a disk was busy for 3 s.
func (c *Conn) Patient(ctx context.Context) error {
	tcp, ok := c.raw.(*net.TCPConn)
	if !ok {
		<-ctx.Done()
		return nil
	}
	sc, err := tcp.SyscallConn()
	if err == nil {
		err = setUserTimeout(sc, 0)
	}
	if err != nil {
		return c.problem("watch", err)
	}
	tick := time.NewTicker(silenceEvery)
	defer tick.Stop()
	for since := (time.Time{}); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var info *unix.TCPInfo
		e := sc.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if e != nil || err != nil {
			return nil // it is closed: who reads and writes says why
		}
		// Probes are counted until one is answered. What is sent again is counted until
		// something new is taken, which a full far end does not: any answer counts.
		if info.Probes == 0 && (info.Retransmits == 0 || info.Last_ack_recv <= info.Last_data_sent) {
			since = time.Time{}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) >= deadAfter {
			c.Close()
			return &problem.Problem{Op: "write to", Kind: problem.Unavailable, Subject: string(c.peer), Err: fmt.Errorf("nothing is acknowledged for %v", deadAfter)}
		}
	}
}
