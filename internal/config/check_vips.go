package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"revolve/internal/cluster"
)

func (c *checker) vips(nodes []Node) []VIP {
	c.count("vips", "vips", len(c.doc.VIPs), MaxVIPs)
	var vips []VIP
	taken := map[netip.Addr]string{}
	for _, n := range nodes {
		for _, l := range n.Links {
			taken[l.Addr] = fmt.Sprintf("node %s on link %s", n.Name, l.Name)
		}
	}
	for i, d := range c.doc.VIPs {
		place := fmt.Sprintf("vips[%d]", i)
		prefix, fine := c.vipAddress(join(place, "address"), string(d.Address))
		if fine {
			if who, dup := taken[prefix.Addr()]; dup {
				c.add(join(place, "address"), fmt.Sprintf("the address %s belongs to %s", prefix.Addr(), who), "a VIP needs an address of its own")
				fine = false
			} else {
				taken[prefix.Addr()] = fmt.Sprintf("the VIP on line %d", c.lineAt(join(place, "address")))
			}
		}
		known := c.vipLink(join(place, "link"), string(d.Link))
		if fine && known {
			v := VIP{Prefix: prefix, Link: cluster.LinkID(d.Link)}
			c.vipNetwork(place, v, nodes)
			vips = append(vips, v)
		}
	}
	return vips
}

func (c *checker) vipAddress(at, text string) (netip.Prefix, bool) {
	if !c.ok(at) {
		return netip.Prefix{}, false
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		hint := "write an address with the length of its network, such as 10.77.0.200/24"
		if addr, e := netip.ParseAddr(text); e == nil && addr.Zone() == "" {
			hint = fmt.Sprintf("add the length of its network, such as %s/%d", addr, map[bool]int{true: 24, false: 64}[addr.Is4()])
		}
		c.add(at, fmt.Sprintf("%q is not an address with a length", text), hint)
		return netip.Prefix{}, false
	}
	addr := prefix.Addr()
	switch {
	case addr.Is4In6():
		c.add(at, fmt.Sprintf("%s is an IPv4 address in IPv6 clothes", text), "write it as IPv4")
	case addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || addr.IsLinkLocalUnicast():
		c.add(at, fmt.Sprintf("%s cannot be a VIP", addr), "use an address that clients can reach")
	case prefix.Bits() < addr.BitLen()-1 && prefix.Masked().Addr() == addr:
		c.add(at, fmt.Sprintf("%s is the address of the network itself", addr), "use one of its hosts' addresses")
	case addr.Is4() && prefix.Bits() < 31 && broadcast(prefix) == addr:
		c.add(at, fmt.Sprintf("%s is the broadcast address of its network", addr), "use one of its hosts' addresses")
	default:
		return prefix, true
	}
	return netip.Prefix{}, false
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

func (c *checker) vipLink(at, link string) bool {
	if !c.ok(at) {
		return false
	}
	if len(c.links) > 0 && !slices.Contains(c.links, link) {
		c.add(at, fmt.Sprintf("unknown link %q", link), didYouMean(link, c.links))
		return false
	}
	return true
}

// vipNetwork checks that the VIP's network is the one that the link's nodes are
// in. Where the nodes have no address of its family there (an IPv6 VIP beside
// IPv4 nodes), or the VIP is a network of its own (/32, /128), there is nothing
// to compare.
func (c *checker) vipNetwork(place string, v VIP, nodes []Node) {
	var without, outside []string
	inside := 0
	for _, n := range nodes {
		addr, has := n.Addr(v.Link)
		switch {
		case !has:
			if n.Candidate && c.ok(join("nodes", string(n.Name))) {
				without = append(without, string(n.Name))
			}
		case addr.Is4() != v.Prefix.Addr().Is4() || v.Prefix.IsSingleIP():
		case v.Prefix.Contains(addr):
			inside++
		default:
			outside = append(outside, fmt.Sprintf("%s (%s)", n.Name, addr))
		}
	}
	if len(outside) > 0 && inside == 0 {
		c.add(join(place, "address"), fmt.Sprintf("%s is not in the network of link %s, where %s is", v.Prefix, v.Link, outside[0]), "take an address of the link's network, or name another link")
	} else if len(outside) > 0 {
		c.warn(join(place, "address"), fmt.Sprintf("nodes outside of %s: %s", v.Prefix.Masked(), strings.Join(outside, ", ")), "give all nodes of the link addresses of one network")
	}
	for _, name := range without {
		c.warn(join("nodes", name), fmt.Sprintf("node %s has no link %s, so it cannot hold %s and never leads", name, v.Link, v.Prefix.Addr()), "add the link, or say candidate: false")
	}
}

// reach warns of nodes that cannot hear each other.
func (c *checker) reach(cfg *Config) {
	for i, a := range cfg.Nodes {
		for _, b := range cfg.Nodes[i+1:] {
			common := false
			for _, l := range a.Links {
				if addr, ok := b.Addr(l.Name); ok && addr.Is4() == l.Addr.Is4() {
					common = true
				}
			}
			if !common && len(a.Links) > 0 && len(b.Links) > 0 {
				c.warn(join("nodes", string(b.Name)), fmt.Sprintf("nodes %s and %s have no link in common, so neither hears the other", a.Name, b.Name), "give both an address on the same link")
			}
		}
	}
}
