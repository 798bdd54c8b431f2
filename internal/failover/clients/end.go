package clients

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

const (
	// connected are the states of TCP in which a socket has somebody at its other end (include/net/tcp_states.h):
	// all but a listening one, one that is closed, and one that only waits (TIME_WAIT).
	connected = 1<<established | 1<<synSent | 1<<synReceived | 1<<finWait1 | 1<<finWait2 | 1<<closeWait | 1<<lastAck | 1<<closing

	synSent, synReceived, finWait1, finWait2 = 2, 3, 4, 5
	lastAck, closing                         = 9, 11

	// endAtOnce connections are ended between two looks at whether they are still to be.
	endAtOnce = 64
	// endRounds bounds how often the kernel is asked for Max more.
	endRounds = 16

	// muteFrom marks a rule as this program's (FRA_PROTOCOL; the kernel gives no meaning to numbers above RTPROT_STATIC, rtnetlink(7)).
	muteFrom = 0x72
)

// End ends every TCP connection of this machine's side whose own address is vip, for a
// machine that has vip no more: its daemons notice at once that the clients are gone
// (ECONNABORTED), close files and let go of locks, and do not keep them for the day on
// which the address comes back. Sockets that listen stay, and so do those of all other addresses.
//
// Nothing of it is seen from outside: another machine has the address now, and what a
// client hears of its connection must be that one's word. The kernel would say goodbye to
// the client (tcp_abort sends a reset); while it ends connections, what has vip as its
// source goes nowhere (mute).
//
// gone says whether vip is still not this machine's, and is asked again and again. ended
// counts, also beside an error. It needs CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY.
func End(vip netip.Addr, gone func() bool) (ended int, err error) {
	return endIn(vip, gone, Max)
}

// endIn is End with so many at a time.
func endIn(vip netip.Addr, gone func() bool, most int) (ended int, err error) {
	for range endRounds {
		list, more, err := listed(vip, most)
		if err != nil || len(list) == 0 || !gone() {
			return ended, unended(err)
		}
		n, all, err := end(vip, list, gone)
		if ended += n; err != nil || !more || !all {
			return ended, err
		}
	}
	return ended, nil
}

// CanEnd tries whether this kernel ends connections for those who may, on one that does not exist: nil, or why not.
func CanEnd() error {
	d, err := open()
	if err != nil {
		return unended(err)
	}
	defer d.close()
	if err := d.destroy(&sockID{family: unix.AF_INET}); !errors.Is(err, unix.ENOENT) {
		return unended(err)
	}
	return nil
}

func unended(err error) error {
	if err == nil {
		return nil
	}
	p := &problem.Problem{Op: "end old connections", Kind: problem.Unavailable, Err: err, Hint: "daemons keep what clients had open until their own timeouts"}
	switch {
	case errors.Is(err, unix.EPERM):
		p.Kind, p.Hint = problem.Permission, "ending connections needs CAP_NET_ADMIN in the network namespace; without it "+p.Hint
	case errors.Is(err, unix.EOPNOTSUPP):
		p.Hint = "the kernel is built without CONFIG_INET_DIAG_DESTROY: " + p.Hint
	}
	return p
}

// listed are the connected sockets of vip, at most so many of them.
func listed(vip netip.Addr, most int) (list []sockID, more bool, err error) {
	d, err := open()
	if err != nil {
		return nil, false, err
	}
	defer d.close()
	d.states = connected
	err = d.read(vip, func(s sockID) bool {
		if more = len(list) == most; !more {
			list = append(list, s)
		}
		return more
	})
	return list, more, err
}

// end ends those of list that are still there; all says that vip was gone all the time.
func end(vip netip.Addr, list []sockID, gone func() bool) (ended int, all bool, err error) {
	d, err := open()
	if err != nil {
		return 0, false, unended(err)
	}
	defer d.close()
	if err := mute(vip); err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, Unmute(vip)) }()
	for i := range list {
		if i%endAtOnce == 0 && !gone() {
			return ended, false, nil
		}
		switch err := d.destroy(&list[i]); {
		case err == nil:
			ended++
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE): // it has ended meanwhile; another may have its ports, but not its cookie
		default:
			return ended, false, unended(err)
		}
	}
	return ended, true, nil
}

// destroy is sock_diag's SOCK_DESTROY (ss --kill).
func (d *dump) destroy(s *sockID) error {
	d.seq++
	b := make([]byte, requestLen)
	native.PutUint32(b, requestLen)
	native.PutUint16(b[4:], unix.SOCK_DESTROY)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	native.PutUint32(b[8:], d.seq)
	b[nlHeader], b[nlHeader+1] = s.family, unix.IPPROTO_TCP
	native.PutUint32(b[nlHeader+4:], connected)
	copy(b[nlHeader+8:], s.raw[:])
	if _, err := unix.Write(d.fd, b); err != nil {
		return err
	}
	return d.answers(func([]byte) bool { return false })
}

// mute lets nothing leave this machine that has vip as its source, on whatever
// card: a rule of the routing (ip-rule(8)) in front of all others but the first, that for
// local addresses. IPv4 needs it only for sockets that are transparent (ip(7)), since it looks whether
// a source is the machine's; IPv6 does not look. Connections notice a new rule of IPv6 since Linux 5.17.
func mute(vip netip.Addr) error {
	if err := netlink.RuleAdd(muted(vip)); err != nil && !errors.Is(err, unix.EEXIST) {
		return &problem.Problem{Op: "end old connections", Kind: problem.Unavailable, Subject: vip.String(), Err: fmt.Errorf("a rule for the routing is refused: %w", err),
			Hint: "it needs CAP_NET_ADMIN and a kernel with CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES; without it daemons keep what clients had open until their own timeouts"}
	}
	return nil
}

// Unmute takes away what a killed process left behind while it ended connections: with it
// a machine that has the address again would not be heard. It is no error that there was nothing.
func Unmute(vip netip.Addr) error {
	err := netlink.RuleDel(muted(vip))
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return &problem.Problem{Op: "let an address speak again", Kind: problem.Unavailable, Subject: vip.String(), Err: err,
		Hint: "ip rule shows a rule `from " + vip.String() + " blackhole`; take it away"}
}

func muted(vip netip.Addr) *netlink.Rule {
	r := netlink.NewRule()
	r.Src = &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())}
	r.Priority, r.Type, r.Protocol = 0, unix.FR_ACT_BLACKHOLE, muteFrom
	return r
}
