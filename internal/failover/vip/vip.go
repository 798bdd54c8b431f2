// Package vip holds floating addresses by kernel lease: it adds, refreshes and
// removes them over netlink, announces them, and asks an old holder's network
// card whether it still answers for them.
//
// It never decides who should hold an address, never starts a goroutine and
// uses nothing but the standard library and x/sys, because the real-time process
// goes through it at every turn. Nothing that it does in a steady state allocates.
//
//	c, err := vip.Dial()
//	l := vip.NewLease(netip.MustParsePrefix("10.77.0.200/24"), index, true)
//	err = c.Hold(l) // again every 200 ms; the kernel removes the address 1.0-1.3 s after the last time
//	err = c.Drop(l)
package vip

import (
	"net/netip"
	"slices"
)

// LifetimeSeconds is how long the kernel keeps a VIP that is not refreshed. One
// second is the finest that IFA_CACHEINFO knows (struct ifa_cacheinfo, in seconds).
const LifetimeSeconds = 1

// Scrub removes every one of addrs that this network namespace holds, on whatever
// interface, and says how many there were. It is the start of a node (rule R12)
// and the last resort of the agent when its beat process died.
func Scrub(addrs []netip.Addr) (removed int, err error) {
	c, err := Dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	held, err := c.Addrs()
	if err != nil {
		return 0, err
	}
	for _, h := range held {
		if !slices.Contains(addrs, h.Prefix.Addr()) {
			continue
		}
		if err := c.Drop(NewLease(h.Prefix, h.Index, false)); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// Held is an address on an interface.
type Held struct {
	Prefix netip.Prefix
	Index  int  // of the interface
	Usable bool // neither tentative nor failed in duplicate address detection
}

// Covered reports whether interface index has an address of its own, none of
// vips, whose subnet contains addr: then the VIP needs no route, and must not
// bring one, because that route would go away with it and until then make the
// VIP the source of the node's own traffic.
func Covered(held []Held, index int, addr netip.Addr, vips []netip.Addr) bool {
	for _, h := range held {
		if h.Index == index && !slices.Contains(vips, h.Prefix.Addr()) && h.Prefix.Masked().Contains(addr) {
			return true
		}
	}
	return false
}
