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
	requestLen = nlHeader + 8 + sockID // struct inet_diag_req_v2
	sockID     = 48                    // struct inet_diag_sockid
	answerLen  = 4 + sockID + 20       // struct inet_diag_msg
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
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, false, failed(err)
	}
	defer unix.Close(fd) // also ends a dump that was read half
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: waitSecs}); err != nil {
		return nil, false, failed(err)
	}
	d := dump{fd: fd, buf: make([]byte, recvSize)}
	for _, vip := range vips {
		families := []byte{unix.AF_INET6}
		if vip.Is4() {
			families = []byte{unix.AF_INET, unix.AF_INET6} // a server that listens on [::] has IPv4 clients as mapped ones
		}
		for _, f := range families {
			if err := d.read(f, vip); err != nil {
				return nil, false, failed(err)
			}
			if d.more {
				return d.list, true, nil
			}
		}
	}
	return d.list, false, nil
}

func failed(err error) error {
	return &problem.Problem{Op: "list the clients' connections", Kind: problem.Unavailable, Err: err,
		Hint: "the kernel must have sock_diag for TCP (module tcp_diag): ss -t shows whether it has; without it clients wait for their own timeouts after a failover"}
}

type dump struct {
	fd   int
	seq  uint32
	buf  []byte
	list []Conn
	more bool
}

// read appends the connections of one family whose own address is vip.
func (d *dump) read(family byte, vip netip.Addr) error {
	d.seq++
	if _, err := unix.Write(d.fd, request(d.seq, family, vip)); err != nil {
		return err
	}
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
				return unix.Errno(-int32(native.Uint32(body)))
			default:
				if d.take(body, vip); d.more {
					return nil
				}
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
	return errors.New("endless answer")
}

// take reads a struct inet_diag_msg: 4 bytes, then ports and addresses.
func (d *dump) take(b []byte, vip netip.Addr) {
	if len(b) < answerLen {
		return
	}
	be, id := binary.BigEndian, b[4:]
	side := func(at int) netip.Addr {
		if b[0] == unix.AF_INET {
			return netip.AddrFrom4([4]byte(id[at : at+4]))
		}
		return netip.AddrFrom16([16]byte(id[at : at+16])).Unmap()
	}
	c := Conn{netip.AddrPortFrom(side(4), be.Uint16(id)), netip.AddrPortFrom(side(20), be.Uint16(id[2:]))}
	switch {
	case c.VIP.Addr() != vip || !askable(c):
	case len(d.list) == Max:
		d.more = true
	default:
		d.list = append(d.list, c)
	}
}

func request(seq uint32, family byte, vip netip.Addr) []byte {
	addr := vip.AsSlice()
	condition := opSize + hostSize + len(addr)
	b := make([]byte, requestLen, requestLen+attrHeader+condition)
	native.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	native.PutUint32(b[8:], seq)
	b[nlHeader], b[nlHeader+1] = family, unix.IPPROTO_TCP
	native.PutUint32(b[nlHeader+4:], 1<<established|1<<closeWait)
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
