// Package silence makes the kernel fall silent for floating addresses as soon as the
// process that holds them is late, whatever keeps it: two small programs on the
// interface drop what comes to the addresses, and what leaves from them, once the
// time that the process has last written is over. A frozen master is as quiet
// as a dead one then, milliseconds after its last turn, while the addresses stay for
// their whole second (package vip).
//
//	s, err := silence.New()
//	g, err := s.Guard("home/lan", index, addrs)
//	s.Until(silence.Now() + fence)   // at each turn while the addresses are held
//	s.Open()                         // none are held
//
// The programs stay when the process is killed, so that a killed master is silent too;
// twenty seconds after its last moment they let everything pass. They need CAP_SYS_ADMIN, or
// CAP_BPF and CAP_NET_ADMIN. Where the kernel refuses, the lifetime of the addresses is what remains.
//
// It never decides who should speak, and never touches the addresses.
package silence

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
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
		return nil, refused("make a map for programs in the kernel", err)
	}
	page, err := unix.Mmap(m.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.Close()
		return nil, refused("share memory with programs in the kernel", err)
	}
	s := &Silence{moment: m, page: page, after: (*uint64)(unsafe.Pointer(&page[0]))}
	if err := s.try(); err != nil {
		s.Close()
		return nil, err
	}
	s.Open()
	return s, nil
}

// try lets the kernel run a program on a packet, in and out of time. In a time namespace the
// kernel's clock is not this process's: every moment would be over, or none.
func (s *Silence) try() error {
	p, err := s.load([]netip.Addr{netip.AddrFrom4([4]byte{})}, arriving())
	if err != nil {
		return err
	}
	defer p.Close()
	packet := make([]byte, ether+28)
	binary.BigEndian.PutUint16(packet[typeAt:], unix.ETH_P_ARP)
	for at, want := range map[time.Duration]int32{Now() - time.Second: drop, Now() + time.Hour: pass} {
		s.Until(at)
		got, err := p.Run(&ebpf.RunOptions{Data: packet})
		if err != nil {
			return refused("try a program in the kernel", err)
		}
		if int32(got) != want {
			return refused("try a program in the kernel", errors.New("its clock is another one: a time namespace?"))
		}
	}
	return nil
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
	name string
	link netlink.Link
	ours bool // the place for programs (clsact) was made here
}

// The programs' place among those of others (tc-bpf(8)).
const (
	place = "revolve"
	prior = 3 // an early one; only programs at tcx come before all of them
)

// handle keeps the programs of one name apart from those of others on the same interface.
func handle(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // it never fails
	return h.Sum32() | 1
}

// Clear takes programs off that a killed process of this name has left on interface index.
func Clear(name string, index int) {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		_ = netlink.FilterDel(filter(name, index, parent)) // mostly there is none
	}
}

func filter(name string, index int, parent uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{Name: place, DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: index, Parent: parent, Handle: handle(name), Priority: prior, Protocol: unix.ETH_P_ALL}}
}

// Guard puts the programs on interface index of the calling thread's network namespace, in
// the place of those that a killed process of the same name has left.
func (s *Silence) Guard(name string, index int, addrs []netip.Addr) (*Guard, error) {
	if s == nil {
		return nil, refused("guard an interface", errors.ErrUnsupported)
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, refused("find the interface", err)
	}
	g := &Guard{name: name, link: l}
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

func (s *Silence) load(addrs []netip.Addr, w way) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "revolve_silence", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: program(s.moment.FD(), addrs, w)})
	if err != nil {
		return nil, refused("load a program into the kernel", err)
	}
	return p, nil
}

func (s *Silence) attach(g *Guard, parent uint32, addrs []netip.Addr, w way) error {
	p, err := s.load(addrs, w)
	if err != nil {
		return err
	}
	defer p.Close() // the interface holds it
	f := filter(g.name, g.link.Attrs().Index, parent)
	f.Fd = p.FD()
	if err := netlink.FilterReplace(f); err != nil {
		return refused("put a program on the interface", err)
	}
	return nil
}

// Close takes the programs off, and their place if it was made for them and nobody else uses it. A nil Guard has none.
func (g *Guard) Close() {
	if g == nil {
		return
	}
	Clear(g.name, g.link.Attrs().Index) // or gone with its interface, or taken off by others
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
