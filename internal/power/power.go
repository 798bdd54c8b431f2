// Package power wakes machines: by Wake-on-LAN, by their management controller
// (IPMI), or by a command. It never takes power from one: a machine is powered off
// by its own agent, in order, which begins the command here and sees who is logged in.
//
//	err := power.On(ctx, power.Way{Wake: mac}, []netip.Addr{own})
//
// That it returns without an error says that the machine was told, not that it runs.
package power

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"revolve/internal/problem"
)

// Way is how one machine is woken: one of them is set.
type Way struct {
	Wake    net.HardwareAddr // of the card that listens while the machine is off
	Command string           // for sh -c
	IPMI    *IPMI
}

// None reports whether there is no way.
func (w Way) None() bool { return len(w.Wake) == 0 && w.Command == "" && w.IPMI == nil }

const (
	// wakePort is discard (RFC 863): nobody listens, and a card looks for the pattern anywhere in a frame.
	wakePort = 9
	// wakeTimes is how often a packet is sent: nothing acknowledges it.
	wakeTimes = 3
	wakePause = 100 * time.Millisecond
)

// On tells a machine to power on. from are this node's addresses on the links that it shares with it.
func On(ctx context.Context, node string, w Way, from []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	var err error
	hint := ""
	switch {
	case w.None():
		return &problem.Problem{Op: "power on", Kind: problem.Invalid, Subject: node, Err: errors.New("nothing says how"), Hint: "say it in the configuration: nodes." + node + `.power: { wake: "02:00:00:00:00:0b" }, or on: COMMAND, or ipmi`}
	case w.IPMI != nil:
		err, hint = w.IPMI.on(ctx), "look at power.ipmi of the node: address, user, password_file; is IPMI over LAN enabled there?"
	case w.Command != "":
		err, hint = run(ctx, w.Command), "try the command by hand, as root, on this node"
	default:
		err, hint = wake(ctx, w.Wake, from), "type it on a node that is on the same link"
	}
	if err != nil {
		return &problem.Problem{Op: "power on", Kind: problem.Unavailable, Subject: node, Err: err, Hint: hint}
	}
	return nil
}

// magic is the packet that wakes a card (AMD's white paper 20213, "Magic Packet Technology": six bytes FF, then the address sixteen times).
func magic(mac net.HardwareAddr) []byte {
	return append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(mac, 16)...)
}

// wake sends the packet to everybody on every link. One link that takes it is enough.
func wake(ctx context.Context, mac net.HardwareAddr, from []netip.Addr) error {
	if len(mac) != 6 {
		return fmt.Errorf("%q is no address of a card", mac)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	var failed []error
	sent := 0
	for _, own := range from {
		to, err := everybody(interfaces, own)
		if err == nil {
			err = send(ctx, own, to, magic(mac))
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("from %s: %w", own, err))
			continue
		}
		sent++
	}
	if sent == 0 {
		return errors.Join(append(failed, errors.New("no link of this node took the packet"))...)
	}
	return nil
}

// everybody is the address of all machines on the link of one of this node's addresses.
func everybody(interfaces []net.Interface, own netip.Addr) (*net.UDPAddr, error) {
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if ip, valid := netip.AddrFromSlice(n.IP); !ok || !valid || ip.Unmap() != own.Unmap() {
				continue
			}
			if own.Unmap().Is6() {
				return &net.UDPAddr{IP: net.IPv6linklocalallnodes, Port: wakePort, Zone: i.Name}, nil
			}
			to := make(net.IP, 4)
			for k, b := range n.IP.To4() {
				to[k] = b | ^n.Mask[len(n.Mask)-4+k]
			}
			return &net.UDPAddr{IP: to, Port: wakePort}, nil
		}
	}
	return nil, errors.New("no interface has this address")
}

func send(ctx context.Context, own netip.Addr, to *net.UDPAddr, packet []byte) error {
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: own.AsSlice(), Zone: zoneOf(own, to)}, to) // package net allows broadcasts on every socket
	if err != nil {
		return err
	}
	defer c.Close()
	for range wakeTimes {
		if _, err := c.Write(packet); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wakePause):
		}
	}
	return nil
}

// zoneOf is the interface of an address that means something only there.
func zoneOf(own netip.Addr, to *net.UDPAddr) string {
	if own.IsLinkLocalUnicast() && own.Is6() {
		return to.Zone
	}
	return ""
}
