// Package silence makes the kernel fall silent for floating addresses as soon as the
// process that holds them is late, whatever keeps it: two small programs on the
// interface drop what comes to the addresses, and what leaves from them, once the
// time that the process has last written is over. A frozen master is as quiet
// as a dead one then, milliseconds after its last turn, while the addresses stay for
// their whole second (package vip).
//
//	s, err := silence.New()
//	g, err := s.Guard(index, addrs)
//	s.Until(silence.Now() + fence)   // at each turn while the addresses are held
//	s.Open()                         // none are held
//
// The programs belong to the process: the kernel removes them when it ends, so nothing
// stays behind. They need the attachment points of Linux 6.6 (tcx) and CAP_SYS_ADMIN, or
// CAP_BPF and CAP_NET_ADMIN. Where the kernel refuses, the lifetime of the addresses is what remains.
package silence

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Silence is the moment after which the guarded addresses are silent, one for all of
// them. It is not safe for concurrent use, and a nil one does nothing.
type Silence struct {
	moment *ebpf.Map
	page   []byte  // the map's memory: writing it is no system call
	after  *uint64 // in page; nanoseconds of CLOCK_MONOTONIC
}

// New prepares an open one.
func New() (*Silence, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "revolve_silence", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
	if err != nil {
		return nil, refused("make a map that programs in the kernel can read", err)
	}
	page, err := unix.Mmap(m.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.Close()
		return nil, refused("share memory with programs in the kernel", err)
	}
	s := &Silence{moment: m, page: page, after: (*uint64)(unsafe.Pointer(&page[0]))}
	s.Open()
	return s, nil
}

// Until lets the addresses be silent from at on, a time of Now. It costs one write to memory.
func (s *Silence) Until(at time.Duration) {
	if s != nil {
		atomic.StoreUint64(s.after, uint64(at))
	}
}

// Open ends the silence.
func (s *Silence) Open() {
	if s != nil {
		atomic.StoreUint64(s.after, math.MaxUint64)
	}
}

// Close releases the memory; guards that are left keep the last moment.
func (s *Silence) Close() {
	if s != nil {
		_ = unix.Munmap(s.page) // of this process alone
		s.moment.Close()
	}
}

// Now is the clock that the kernel compares with, CLOCK_MONOTONIC.
func Now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it has no error for this clock
	return time.Duration(t.Nano())
}

// Guard is one interface.
type Guard struct{ in, out link.Link }

// Guard puts the programs on interface index of the calling thread's network namespace.
func (s *Silence) Guard(index int, addrs []netip.Addr) (*Guard, error) {
	if s == nil {
		return nil, refused("guard an interface", errors.ErrUnsupported)
	}
	g := &Guard{}
	var err error
	if g.in, err = s.attach(index, addrs, ebpf.AttachTCXIngress, arriving()); err == nil {
		g.out, err = s.attach(index, addrs, ebpf.AttachTCXEgress, leaving())
	}
	if err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (s *Silence) attach(index int, addrs []netip.Addr, where ebpf.AttachType, way way) (link.Link, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "revolve_silence", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: program(s.moment.FD(), addrs, way)})
	if err != nil {
		return nil, refused("load a program into the kernel", err)
	}
	defer p.Close() // the link holds it
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: where})
	if err != nil {
		return nil, refused("put a program on an interface", err)
	}
	return l, nil
}

// Close takes the programs off. A nil Guard has none.
func (g *Guard) Close() {
	if g == nil {
		return
	}
	for _, l := range []link.Link{g.in, g.out} {
		if l != nil {
			l.Close()
		}
	}
}

func refused(op string, err error) error {
	return &problem.Problem{Op: op, Kind: problem.Unavailable, Err: err, Hint: "it needs Linux 6.6 and CAP_SYS_ADMIN; without it a frozen master is silent a second after its last turn"}
}
