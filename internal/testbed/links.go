package testbed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"revolve/internal/problem"
)

// netlinkTimeout bounds every request to the kernel. They take well under a
// millisecond; the removal of a device waits for an RCU grace period (tens of ms).
const netlinkTimeout = 5 * time.Second

// netlinks is a bounded netlink handle in one network namespace.
type netlinks struct{ h *netlink.Handle }

func openNetlink() (*netlinks, error) { return openNetlinkAt(netns.None()) }

func openNetlinkAt(ns netns.NsHandle) (*netlinks, error) {
	h, err := netlink.NewHandleAt(ns, syscall.NETLINK_ROUTE)
	if err == nil {
		err = h.SetSocketTimeout(netlinkTimeout)
	}
	if err != nil {
		return nil, netProblem("open netlink socket", "", err)
	}
	return &netlinks{h: h}, nil
}

func (n *netlinks) close() { n.h.Close() }

func netProblem(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	kind := problem.Unavailable
	hint := ""
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		hint = "the kernel lacks this kind of device: type `sudo modprobe bridge veth`"
	case errors.Is(err, syscall.EPERM):
		kind = problem.Permission
	case errors.Is(err, syscall.EEXIST):
		kind = problem.Conflict
	}
	return &problem.Problem{Op: op, Subject: subject, Kind: kind, Err: err, Hint: hint}
}

// loopbackUp brings lo up in the namespace of the calling process.
func loopbackUp() error {
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	return n.up("lo")
}

func (n *netlinks) up(name string) error {
	l, err := n.h.LinkByName(name)
	if err == nil {
		err = n.h.LinkSetUp(l)
	}
	return netProblem("bring up", name, err)
}

func (n *netlinks) down(name string) error {
	l, err := n.h.LinkByName(name)
	if err == nil {
		err = n.h.LinkSetDown(l)
	}
	return netProblem("take down", name, err)
}

// remove deletes a device; one that is already gone is fine.
func (n *netlinks) remove(name string) error {
	l, err := n.h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = n.h.LinkDel(l)
	}
	if errors.Is(err, syscall.ENODEV) {
		return nil // its namespace died between the two calls
	}
	return netProblem("remove", name, err)
}

func (n *netlinks) addBridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	off := false
	// The kernel's default is no spanning tree; without it a port forwards at
	// once whatever the forward delay is (bridge(8), stp_state).
	if err := n.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil {
		return netProblem("add bridge", name, err)
	}
	// The bridge itself is no station of the link.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	return n.up(name)
}

// wire is one cable: a port on a bridge, and an interface in a node.
type wire struct {
	port, bridge string           // on the stage
	name         string           // in the node
	mac          net.HardwareAddr // of the node's end; a real card keeps its own over a power cycle
	addrs        []netip.Prefix
}

// plug makes the wire between the stage and the namespace and configures both ends.
func (n *netlinks) plug(w wire, ns netns.NsHandle, inside *netlinks) error {
	br, err := n.h.LinkByName(w.bridge)
	if err != nil {
		return netProblem("find bridge", w.bridge, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = w.port, br.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: w.name, PeerHardwareAddr: w.mac, PeerNamespace: netlink.NsFd(ns)}
	if err := n.h.LinkAdd(veth); err != nil {
		return netProblem("add wire", w.port, err)
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+w.port+"/disable_ipv6", []byte("1"), 0)
	if err := n.up(w.port); err != nil {
		return err
	}
	if err := inside.up(w.name); err != nil {
		return err
	}
	l, err := inside.h.LinkByName(w.name)
	if err != nil {
		return netProblem("find interface", w.name, err)
	}
	for _, p := range w.addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{
			IP:   p.Addr().AsSlice(),
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		}}
		if p.Addr().Is6() {
			addr.Flags = syscall.IFA_F_NODAD
		}
		if err := inside.h.AddrAdd(l, addr); err != nil {
			return netProblem("add address", p.String(), err)
		}
	}
	return nil
}

// detach takes a port off its bridge: the node keeps its carrier and hears nobody.
func (n *netlinks) detach(port string) error {
	l, err := n.h.LinkByName(port)
	if err == nil {
		err = n.h.LinkSetNoMaster(l)
	}
	return netProblem("detach", port, err)
}

// mend puts a port back on its bridge, and up.
func (n *netlinks) mend(w wire) error {
	br, err := n.h.LinkByName(w.bridge)
	if err != nil {
		return netProblem("find bridge", w.bridge, err)
	}
	l, err := n.h.LinkByName(w.port)
	if err == nil {
		err = n.h.LinkSetMaster(l, br)
	}
	if err != nil {
		return netProblem("attach", w.port, err)
	}
	return n.up(w.port)
}

// addresses lists all addresses of a namespace.
func (n *netlinks) addresses() ([]netip.Prefix, error) {
	list, err := n.h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, netProblem("list addresses", "", err)
	}
	out := make([]netip.Prefix, 0, len(list))
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if !ok {
			return nil, netProblem("list addresses", "", fmt.Errorf("not an address: %v", a.IP))
		}
		out = append(out, netip.PrefixFrom(ip.Unmap(), ones))
	}
	return out, nil
}
