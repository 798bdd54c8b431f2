package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// power reads how a node is woken, and powers itself off.
func (c *checker) power(place string, d powerDocument) Power {
	p := Power{Mode: PowerAlways, On: d.On, Off: d.Off}
	if at := join(place, "mode"); c.ok(at) {
		p.Mode = string(d.Mode)
		c.oneOf(at, p.Mode, PowerAlways, PowerOnDemand)
	}
	var ways []string
	for _, key := range []string{"wake", "on", "ipmi"} {
		if c.there(join(place, key)) {
			ways = append(ways, key)
		}
	}
	if len(ways) > 1 {
		c.add(join(place, ways[1]), fmt.Sprintf("%s both say how it is woken", strings.Join(ways[:2], " and ")), "keep one of them")
	}
	for _, key := range []string{"on", "off"} {
		if at := join(place, key); c.ok(at) && strings.TrimSpace(map[string]string{"on": d.On, "off": d.Off}[key]) == "" {
			c.add(at, at+" is empty", "write a command, or leave the key out")
		}
	}
	if at := join(place, "wake"); c.ok(at) {
		p.Wake = string(d.Wake)
		mac, err := net.ParseMAC(p.Wake)
		switch {
		case err != nil || !regexp.MustCompile(macForm).MatchString(p.Wake):
			c.add(at, fmt.Sprintf("%q is not a MAC address", p.Wake), `write it as "02:00:00:00:00:0b"`)
		case mac[0]&1 != 0 || !slices.ContainsFunc(mac, func(b byte) bool { return b != 0 }): // IEEE 802: the lowest bit is for groups
			c.add(at, fmt.Sprintf("%q is the address of no single card", p.Wake), "write that of the node's card: ip link")
		}
	}
	if at := join(place, "ipmi"); c.ok(at) {
		p.IPMI = c.ipmi(at, d.IPMI)
	}
	if at := join(place, "off"); c.ok(at) && p.Mode == PowerAlways {
		c.warn(at, at+" has no effect: a node that is always on is never powered off", "say that off is a normal state of it: power: { mode: on-demand }")
	}
	return p
}

// cards looks whether two nodes are woken by one card: waking one would wake another.
func (c *checker) cards(nodes []Node) {
	owner := map[string]string{}
	for _, n := range nodes {
		mac, err := net.ParseMAC(n.Power.Wake)
		if err != nil {
			continue
		}
		if other, taken := owner[mac.String()]; taken {
			c.add(join(join(join("nodes", string(n.Name)), "power"), "wake"), fmt.Sprintf("%s is the card of node %s, too", mac, other), "write that of this node's card: ip link")
		}
		owner[mac.String()] = string(n.Name)
	}
}

func (c *checker) ipmi(place string, d ipmiDocument) (out IPMI) {
	if at := join(place, "address"); c.ok(at) {
		host := string(d.Address)
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err == nil {
			out.Address = netip.AddrPortFrom(addr, DefaultIPMIPort)
		} else if out.Address, err = netip.ParseAddrPort(host); err != nil {
			c.add(at, fmt.Sprintf("%q is not an address", host), "write a literal address, with a port if it is not 623: 10.77.1.12")
		}
		if a := out.Address.Addr(); err == nil && (a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || out.Address.Port() == 0) {
			c.add(at, fmt.Sprintf("%q is where no single management controller listens", host), "write its own address: 10.77.1.12")
		}
	}
	if at := join(place, "user"); c.ok(at) && (d.User == "" || len(d.User) > 16) {
		c.add(at, fmt.Sprintf("%q is no user of a management controller", d.User), "1 to 16 characters")
	}
	if at := join(place, "password_file"); c.ok(at) && c.path(at, string(d.PasswordFile)) {
		out.PasswordFile = string(d.PasswordFile)
	}
	out.User = d.User
	return out
}
