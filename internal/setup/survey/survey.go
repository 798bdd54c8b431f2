// Package survey looks at a machine for internal/setup: its network cards, its
// default routes and its filesystems. It decides nothing and changes nothing that
// lasts: whether files can share blocks it tries with two files that have no name.
// A filesystem of other machines, which may hang, is never touched.
//
//	machine, err := survey.Machine("/var/lib/revolve")
package survey

import (
	"cmp"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/mounts"
	"revolve/internal/problem"
	"revolve/internal/setup"
)

// Machine is what this one has. state is where the node will keep what is its own.
func Machine(state string) (setup.Machine, error) {
	m := setup.Machine{State: state}
	if abs, err := filepath.Abs(state); err == nil {
		m.State = abs
	}
	m.Host, _ = os.Hostname() // a proposal; without it there is none
	var err error
	if m.Cards, m.Gateways, err = cards(); err != nil {
		return m, &problem.Problem{Op: "look at the network", Kind: problem.Unavailable, Err: err, Hint: "write the file by hand: man revolve.yaml has an example; then revolve init --config FILE --node NAME"}
	}
	if m.Filesystems, err = filesystems(); err != nil {
		return m, &problem.Problem{Op: "look at the filesystems", Kind: problem.Unavailable, Err: err, Hint: "write the file by hand: man revolve.yaml has an example; then revolve init --config FILE --node NAME"}
	}
	return m, nil
}

// whole asks again: a list that changed while it was read is not whole (NLM_F_DUMP_INTR, netlink(7)).
func whole[T any](list func() ([]T, error)) (got []T, err error) {
	for range dumpTries {
		if got, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return got, err
}

// dumpTries bounds how often a list is asked for that changes all the time.
const dumpTries = 5

// cards are the network interfaces in the kernel's order, and the routers of the default routes.
func cards() (list []setup.Card, gateways []netip.Addr, err error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, err
	}
	far := map[int]int{} // by the number of the card
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		if gw, ok := netip.AddrFromSlice(r.Gw); ok {
			gateways = append(gateways, gw.Unmap())
		}
		if at := r.Priority + 1; r.LinkIndex > 0 && (far[r.LinkIndex] == 0 || at < far[r.LinkIndex]) {
			far[r.LinkIndex] = at
		}
	}
	for _, l := range links {
		a := l.Attrs()
		addrs, err := addresses(l)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, setup.Card{Name: a.Name, Kind: l.Type(), MTU: a.MTU, Carrier: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOWER_UP != 0,
			Loop: a.RawFlags&unix.IFF_LOOPBACK != 0, NoARP: a.RawFlags&unix.IFF_NOARP != 0, Port: a.MasterIndex != 0, Default: far[a.Index], Addrs: addrs})
	}
	return list, gateways, nil
}

// unfit are the flags of addresses that are not a machine's own for long (rtnetlink(7)): those for
// privacy that change each day (of IPv4 the same bit says that it came second in its network, as another program's
// floating addresses do), those that are no more to be used, and those that another has.
const unfit = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED

// addresses are those of a card that others reach, IPv4 first.
func addresses(l netlink.Link) (list []setup.CardAddr, err error) {
	all, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		bits, _ := a.Mask.Size()
		if !ok || !addr.IsGlobalUnicast() || a.Flags&unfit != 0 || a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		if p := netip.PrefixFrom(addr, bits); !p.IsSingleIP() { // a network of its own has no room for a floating address
			list = append(list, setup.CardAddr{Prefix: p, Leased: a.Flags&unix.IFA_F_PERMANENT == 0})
		}
	}
	slices.SortStableFunc(list, func(a, b setup.CardAddr) int { return cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()) })
	return list, nil
}

// filesystems are all that are mounted; the room of those on this machine's disks.
func filesystems() (list []setup.Filesystem, err error) {
	all, err := mounts.List()
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		fs := setup.Filesystem{At: m.At, Kind: m.Kind, Source: m.Source, ReadOnly: slices.Contains(m.Options, "ro")}
		if on, _ := mounts.Under(all, m.At); setup.OnDisk(m.Kind) && on.Source == m.Source {
			var st unix.Statfs_t
			if unix.Statfs(m.At, &st) == nil && st.Bsize > 0 {
				fs.Free = st.Bavail * uint64(st.Bsize)
			}
			fs.Reflink = !fs.ReadOnly && shares(m.At)
		}
		list = append(list, fs)
	}
	return list, nil
}

// shares tries whether files can share blocks below a directory, with two that never have a name (O_TMPFILE, open(2)).
func shares(dir string) bool {
	open := func() *os.File {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil
		}
		return os.NewFile(uintptr(fd), dir)
	}
	a, b := open(), open()
	if a != nil {
		defer a.Close()
	}
	if b != nil {
		defer b.Close()
	}
	if a == nil || b == nil {
		return false
	}
	if _, err := a.Write(make([]byte, trial)); err != nil {
		return false
	}
	return block.CanClone(b, a) == nil
}

// trial is at least a block of any filesystem.
const trial = 64 << 10

// Look is what a path is. A symbolic link that leads nowhere is no directory.
func Look(path string) (p setup.Place) {
	info, err := os.Stat(path)
	_, there := os.Lstat(path)
	p.Exists, p.Dir = there == nil, err == nil && info.IsDir()
	parent, err := os.Stat(filepath.Dir(path))
	p.Parent = err == nil && parent.IsDir()
	for rest, at := "", path; ; rest, at = filepath.Join(filepath.Base(at), rest), filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			p.Real = strings.TrimSuffix(filepath.Join(real, rest), "/")
			return p
		}
		if at == filepath.Dir(at) {
			return p
		}
	}
}
