package clients

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// The kernel is asked as ss(8) asks it: sock_diag(7), one dump for every VIP, with
// a filter in the kernel (struct inet_diag_bc_op of linux/inet_diag.h), so that
// the connections of other addresses cost nothing here.
const (
	nlHeader   = 16
	requestLen = nlHeader + 8 + sockIDLen // struct inet_diag_req_v2
	sockIDLen  = 48                       // struct inet_diag_sockid
	answerLen  = 4 + sockIDLen + 20       // struct inet_diag_msg
	attrHeader = 4

	attrBytecode = 1 // INET_DIAG_REQ_BYTECODE
	opSource     = 7 // INET_DIAG_BC_S_COND
	opSize       = 4 // struct inet_diag_bc_op
	hostSize     = 8 // struct inet_diag_hostcond without its address

	established = 1
	closeWait   = 8 // the client has said everything and waits for the rest

	recvSize = 64 << 10
	waitSecs = 1    // a dump takes milliseconds
	maxReads = 4096 // of one dump
)

//tidy:constant a name for the byte order of netlink messages
var native = binary.NativeEndian

// List is the clients' connections to the VIPs, in the network namespace of the
// calling thread; more says that there are more than Max.
func List(vips []netip.Addr) (list []Conn, more bool, err error) {
	d, err := open()
	if err != nil {
		return nil, false, failed(err)
	}
	defer d.close()
	d.states = 1<<established | 1<<closeWait
	for _, vip := range vips {
		err := d.read(vip, func(id sockID) (full bool) {
			c := Conn{id.own(), id.other()}
			switch {
			case !askable(c):
			case len(list) == Max:
				more = true
			default:
				list = append(list, c)
			}
			return more
		})
		if err != nil || more {
			return list, more, failed(err)
		}
	}
	return list, false, nil
}

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &problem.Problem{Op: "list the clients' connections", Kind: problem.Unavailable, Err: err,
		Hint: "the kernel must have sock_diag for TCP (module tcp_diag): ss -t shows whether it has; without it clients wait for their own timeouts after a failover"}
}

// sockID is a struct inet_diag_sockid, which names one socket, and its family: ports,
// addresses, interface, and a cookie that no other socket of this kernel ever has.
type sockID struct {
	family byte
	raw    [sockIDLen]byte
}

func (s *sockID) own() netip.AddrPort   { return s.side(0, 4) }
func (s *sockID) other() netip.AddrPort { return s.side(2, 20) }

func (s *sockID) side(port, addr int) netip.AddrPort {
	at := netip.AddrFrom16([16]byte(s.raw[addr : addr+16])).Unmap()
	if s.family == unix.AF_INET {
		at = netip.AddrFrom4([4]byte(s.raw[addr : addr+4]))
	}
	return netip.AddrPortFrom(at, binary.BigEndian.Uint16(s.raw[port:]))
}

// dump asks the kernel for sockets.
type dump struct {
	fd     int
	seq    uint32
	buf    []byte
	states uint32 // of TCP, a bit for each
}

func open() (*dump, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: waitSecs}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &dump{fd: fd, buf: make([]byte, recvSize)}, nil
}

func (d *dump) close() { unix.Close(d.fd) } // also ends a dump that was read half

// read shows every socket whose own address is vip, until who looks has enough.
func (d *dump) read(vip netip.Addr, each func(sockID) (enough bool)) error {
	families := []byte{unix.AF_INET6}
	if vip.Is4() {
		families = []byte{unix.AF_INET, unix.AF_INET6} // a server that listens on [::] has IPv4 clients as mapped ones
	}
	for _, family := range families {
		d.seq++
		if _, err := unix.Write(d.fd, request(d.seq, family, vip, d.states)); err != nil {
			return err
		}
		enough := false
		err := d.answers(func(body []byte) bool {
			if len(body) < answerLen { // 4 bytes before the socket's name
				return false
			}
			s := sockID{body[0], [sockIDLen]byte(body[4:])}
			enough = s.own().Addr() == vip && each(s)
			return enough
		})
		if err != nil || enough {
			return err
		}
	}
	return nil
}

// answers reads what the kernel says to the last request: until its end, an error, or until who looks has enough.
func (d *dump) answers(each func(body []byte) (enough bool)) error {
	for range maxReads {
		n, err := unix.Read(d.fd, d.buf)
		if err != nil {
			return err
		}
		for b := d.buf[:n]; len(b) >= nlHeader; {
			size := int(native.Uint32(b))
			if size < nlHeader || size > len(b) {
				return errors.New("damaged answer")
			}
			body := b[nlHeader:size]
			switch kind := native.Uint16(b[4:]); {
			case native.Uint32(b[8:]) != d.seq:
			case kind == unix.NLMSG_DONE:
				return nil
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				if errno := unix.Errno(-int32(native.Uint32(body))); errno != 0 {
					return errno
				}
				return nil
			case each(body):
				return nil
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
	return errors.New("endless answer")
}

func request(seq uint32, family byte, vip netip.Addr, states uint32) []byte {
	addr := vip.AsSlice()
	condition := opSize + hostSize + len(addr)
	b := make([]byte, requestLen, requestLen+attrHeader+condition)
	native.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	native.PutUint32(b[8:], seq)
	b[nlHeader], b[nlHeader+1] = family, unix.IPPROTO_TCP
	native.PutUint32(b[nlHeader+4:], states)
	b = native.AppendUint16(b, uint16(attrHeader+condition))
	b = native.AppendUint16(b, attrBytecode)
	b = append(b, opSource, byte(condition)) // yes: behind the end, which accepts
	b = native.AppendUint16(b, uint16(condition+4))
	own := byte(unix.AF_INET6)
	if vip.Is4() {
		own = unix.AF_INET // the kernel compares it with mapped ones, too
	}
	b = append(b, own, byte(vip.BitLen()), 0, 0)
	b = native.AppendUint32(b, 1<<32-1) // any port
	b = append(b, addr...)
	native.PutUint32(b, uint32(len(b)))
	return b
}
