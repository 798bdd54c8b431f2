package beat

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

const (
	rtPriority  = 10       // above everything that is not real-time, below every watchdog and driver thread
	minRunning  = 5        // the loop, the refresher, the lender, the runtime's own, and one to spare
	memoryLimit = 64 << 20 // where the collector, otherwise off, wakes up after all; the process uses a third of it, and reports leave some MiB an hour behind
)

// harden makes the process as punctual as the system lets it, and says what it refused.
func harden() (realTime bool, refused []string) {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	// A goroutine in a system call keeps its place among the running ones for up to 10 ms (sysmon, runtime/proc.go);
	// with a place to spare the loop never waits for the refresher's, even on one core.
	runtime.GOMAXPROCS(max(minRunning, runtime.GOMAXPROCS(0)))
	if err := lockMemory(); err != nil {
		refused = append(refused, "locked memory: "+err.Error())
	}
	if err := realTimeThreads(); err != nil {
		return false, append(refused, "real-time priority: "+err.Error())
	}
	return true, refused
}

// lockMemory keeps touched pages in memory. MCL_FUTURE is only safe without a
// limit: with one, a later mmap of the Go runtime would fail (mlockall(2)).
func lockMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_ONFAULT); err != nil {
		return err
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim); err != nil {
		return nil // what is there now is locked
	}
	statm, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.ParseUint(strings.SplitN(string(statm), " ", 2)[0], 10, 64)
	// A process larger than its limit that was locked all the same is exempt from it.
	if lim.Cur == unix.RLIM_INFINITY || pages*uint64(os.Getpagesize()) > lim.Cur {
		return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	}
	return nil
}

// realTimeThreads gives every thread SCHED_RR: the runtime stops the world only
// when each of its threads has run, so one ordinary thread would hold the others
// up. New threads inherit it. Two rounds catch a thread born meanwhile.
func realTimeThreads() error {
	for range 2 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: rtPriority}
			if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}

// bindUDP opens a heartbeat socket on a node's own address.
func bindUDP(addr netip.Addr, port uint16) (int, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Bind(fd, sockaddr(addr, port)); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return -1, &problem.Problem{Op: "bind heartbeat socket", Kind: problem.Conflict,
			Subject: netip.AddrPortFrom(addr, port).String(), Err: err, Hint: "free the UDP port or choose another one with `port:`"}
	}
	if family == unix.AF_INET { // CS6, network control (RFC 4594 section 3.1): switches that look at it queue it first
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, 0xc0)
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0xc0)
	}
	_ = err // a mark for others; nothing depends on it
	return fd, nil
}

func sockaddr(addr netip.Addr, port uint16) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: addr.As16()}
}

// receiver is the memory of recvfrom(2): x/sys allocates an address per packet.
type receiver struct {
	buf  [maxPacket + 1]byte
	from unix.RawSockaddrInet6 // the larger one; IPv4 is read from the same memory
	size uint32
}

// read takes one datagram without waiting.
func (r *receiver) read(fd int) (b []byte, ok bool) {
	r.size = uint32(unsafe.Sizeof(r.from))
	n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&r.buf[0])), uintptr(len(r.buf)),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&r.from)), uintptr(unsafe.Pointer(&r.size)))
	if errno != 0 {
		return nil, false
	}
	return r.buf[:n], true
}

// source is the address of the last datagram.
func (r *receiver) source() string {
	if a := r.addr(); a.IsValid() {
		return a.String()
	}
	return fmt.Sprintf("family %d", r.from.Family)
}

func (r *receiver) addr() netip.Addr {
	switch r.from.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.from))
		return netip.AddrFrom4(v4.Addr)
	case unix.AF_INET6:
		return netip.AddrFrom16(r.from.Addr)
	}
	return netip.Addr{}
}
