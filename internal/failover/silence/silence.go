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
// The programs stay when the process is killed, so that a killed master is silent too; a
// minute after its last moment they let everything pass. They need CAP_SYS_ADMIN, or
// CAP_BPF and CAP_NET_ADMIN. Where the kernel refuses, the lifetime of the addresses is what remains.
//
// It never decides who should speak, and never touches the addresses.
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
	"github.com/vishvananda/netlink"
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

// Close releases the memory; guards that are left keep the last moment, and programs that a killed process left keep its own.
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

// Guard is one interface that has the programs.
type Guard struct {
	link    netlink.Link
	ours    bool // the place for programs (clsact) was made here
	filters []netlink.Filter
}

// The programs' place among those of others (tc-bpf(8)): an early one, and a handle of our own.
const (
	place  = "revolve"
	prior  = 7373
	handle = 0x7373
)

// Guard puts the programs on interface index of the calling thread's network namespace, in
// the place of those that a killed process has left.
func (s *Silence) Guard(index int, addrs []netip.Addr) (*Guard, error) {
	if s == nil {
		return nil, refused("guard an interface", errors.ErrUnsupported)
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, refused("find the interface", err)
	}
	g := &Guard{link: l}
	err = netlink.QdiscAdd(clsact(index))
	if g.ours = err == nil; err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, refused("make a place for programs on the interface", err)
	}
	if err = s.attach(g, netlink.HANDLE_MIN_INGRESS, addrs, arriving()); err == nil {
		err = s.attach(g, netlink.HANDLE_MIN_EGRESS, addrs, leaving())
	}
	if err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func clsact(index int) netlink.Qdisc {
	return &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

func (s *Silence) attach(g *Guard, parent uint32, addrs []netip.Addr, w way) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "revolve_silence", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: program(s.moment.FD(), addrs, w)})
	if err != nil {
		return refused("load a program into the kernel", err)
	}
	defer p.Close() // the interface holds it
	f := &netlink.BpfFilter{Fd: p.FD(), Name: place, DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: g.link.Attrs().Index, Parent: parent, Handle: handle, Priority: prior, Protocol: unix.ETH_P_ALL}}
	if err := netlink.FilterReplace(f); err != nil {
		return refused("put a program on the interface", err)
	}
	g.filters = append(g.filters, f)
	return nil
}

// Close takes the programs off, and their place if it was made for them and nobody else uses it. A nil Guard has none.
func (g *Guard) Close() {
	if g == nil {
		return
	}
	for _, f := range g.filters {
		_ = netlink.FilterDel(f) // gone with its interface, or taken off by others; without it the program is spent in a minute
	}
	if g.ours && g.alone() {
		_ = netlink.QdiscDel(clsact(g.link.Attrs().Index))
	}
}

func (g *Guard) alone() bool {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if list, err := netlink.FilterList(g.link, parent); err != nil || len(list) > 0 {
			return false
		}
	}
	return true
}

func refused(op string, err error) error {
	return &problem.Problem{Op: op, Kind: problem.Unavailable, Err: err, Hint: "it needs CAP_SYS_ADMIN; without it a frozen master is silent a second after its last turn"}
}
