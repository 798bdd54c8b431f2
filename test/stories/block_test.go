package stories

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// stream is the connection over which a standby receives one volume, found and
// held from outside: the kernel lets a tracer copy a descriptor (pidfd_getfd(2)).
type stream struct{ fd int }

// port is the cluster's port when the configuration names none.
const port = 7373

// streams are copies of the sockets over which the node's agent dialled peers.
func (n *node) streams() (list []stream) {
	l := n.lab
	l.t.Helper()
	pid := n.agent.PID()
	pidfd, err := unix.PidfdOpen(pid, 0)
	must(l.t, err)
	defer unix.Close(pidfd)
	dir, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(l.t, err)
	for _, d := range dir {
		their, err := strconv.Atoi(d.Name())
		must(l.t, err)
		fd, err := unix.PidfdGetfd(pidfd, their, 0)
		if err != nil {
			continue // closed meanwhile
		}
		if to, err := unix.Getpeername(fd); err == nil {
			if in4, ok := to.(*unix.SockaddrInet4); ok && in4.Port == port {
				list = append(list, stream{fd})
				continue
			}
		}
		unix.Close(fd)
	}
	return list
}

// received is how many bytes have come in so far.
func (s stream) received() uint64 {
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0 // closed by the other end
	}
	return info.Bytes_received
}

// deafen makes the kernel drop whatever arrives for the socket (socket(7),
// SO_ATTACH_FILTER with a filter that accepts nothing). The product notices
// after its three seconds of silence, not before.
func (s stream) deafen() error {
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
}

// deafenTo blocks the stream of exactly one volume on its way to the node: the
// one that grows when the master's tree of that volume does.
func (n *node) deafenTo(m *node, volume string) {
	l := n.lab
	l.t.Helper()
	list := n.streams()
	if len(list) < len(l.plan.volumes) {
		l.t.Fatalf("%s has %d connections for %d volumes", n.name, len(list), len(l.plan.volumes))
	}
	before := make([]uint64, len(list))
	for i, s := range list {
		before[i] = s.received()
	}
	const mark = 200 << 10 // below what travels inline, far above pings
	rel := fmt.Sprintf("mark-%s-%s", n.name, volume)
	put(l.t, m.volume(volume)+"/"+rel, string(make([]byte, mark)))
	l.eventually("a mark to arrive on "+n.name, lookEvery, func() error {
		_, err := os.Stat(n.volume(volume) + "/" + rel)
		return err
	})
	deaf := 0
	for i, s := range list {
		if s.received()-before[i] > mark {
			must(l.t, s.deafen())
			deaf++
		}
		unix.Close(s.fd)
	}
	if deaf != 1 {
		l.t.Fatalf("%d streams of %s grew with volume %s", deaf, n.name, volume)
	}
}
