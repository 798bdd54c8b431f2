package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// isolation reads what a node does that hears no other one, and who tells it then
// that it is not the one cut off.
func (c *checker) isolation(cfg *Config) {
	f, at := &cfg.Failover, "failover.isolation"
	f.Isolation = IsolationKeep
	if c.ok(at) {
		f.Isolation = string(c.doc.Failover.Isolation)
		c.oneOf(at, f.Isolation, IsolationKeep, IsolationRelease)
	}
	c.witness(cfg)
	c.references(cfg)
	release := f.Isolation == IsolationRelease
	hasWitness, hasReference := c.there("failover.witness"), c.there("failover.reference")
	if release && !hasWitness && len(c.doc.Failover.Reference) == 0 && !c.bad["failover.reference"] {
		c.add(at, "isolation: release without a witness or a reference: a node that is left alone would never serve",
			"name a machine that is no node: reference: [ the router's address ], or a witness: { address: ..., key_file: ... }")
	}
	if f.Engine == EngineExternal && (release || hasWitness || hasReference) {
		c.warn("failover.engine", "isolation, witness and reference have no effect with engine: external", "the engine decides who leads")
		return
	}
	switch {
	case hasReference && hasWitness:
		c.warn("failover.reference", "failover.reference has no effect beside a witness", "remove one of the two")
	case hasReference && !release:
		c.warn("failover.reference", "failover.reference has no effect with isolation: keep", "say isolation: release, or remove it")
	}
	if n := candidates(cfg); hasWitness && n > 2 {
		c.warn("failover.witness", fmt.Sprintf("a witness is asked by a node that hears no other one; of %d candidates, two that hear each other do not ask it", n),
			"it decides between two nodes; see docs/failover.md")
	}
}

// there reports whether the file has the key at place, right or wrong.
func (c *checker) there(place string) bool {
	_, there := c.lines[place]
	return there
}

func candidates(cfg *Config) (n int) {
	for _, node := range cfg.Nodes {
		if node.Candidate {
			n++
		}
	}
	return n
}

func (c *checker) witness(cfg *Config) {
	w := &cfg.Failover.Witness
	if at := "failover.witness.address"; c.ok(at) {
		w.Addr = c.host(at, string(c.doc.Failover.Witness.Address))
		if who := owner(cfg, w.Addr.Addr()); who != "" {
			c.add(at, fmt.Sprintf("the address %s is %s", w.Addr.Addr(), who), "a witness is a third machine: a router, a NAS, whatever stays when a node goes")
		}
	}
	if at := "failover.witness.key_file"; c.ok(at) && c.path(at, string(c.doc.Failover.Witness.KeyFile)) {
		w.KeyFile = string(c.doc.Failover.Witness.KeyFile)
	}
}

// owner says whose address that is in the cluster, "" if nobody's.
func owner(cfg *Config, addr netip.Addr) string {
	for _, n := range cfg.Nodes {
		if slices.ContainsFunc(n.Links, func(l Link) bool { return l.Addr == addr }) {
			return "that of node " + string(n.Name)
		}
	}
	if slices.ContainsFunc(cfg.VIPs, func(v VIP) bool { return v.Prefix.Addr() == addr }) {
		return "a VIP"
	}
	return ""
}

// host reads an address with or without a port.
func (c *checker) host(at, text string) netip.AddrPort {
	const hint = "write a literal address, with a port if it is not the usual one: 10.77.0.250, 10.77.0.250:7374, [fd77::250]:7374"
	host, err := netip.ParseAddrPort(text)
	if err != nil {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			c.add(at, fmt.Sprintf("%q is not an address", text), hint)
			return netip.AddrPort{}
		}
		host = netip.AddrPortFrom(addr, DefaultWitnessPort)
	}
	if host.Port() == 0 {
		c.add(at, "port 0 does not exist", hint)
		return netip.AddrPort{}
	}
	addr, fine := c.addr(at, host.Addr().String())
	if !fine {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, host.Port())
}

func (c *checker) references(cfg *Config) {
	const at = "failover.reference"
	if !c.ok(at) {
		return
	}
	c.count(at, "references", len(c.doc.Failover.Reference), MaxReferences)
	if len(c.doc.VIPs) == 0 {
		c.add(at, "a reference is asked on the links of the VIPs, and there is none", "list under vips: the addresses that move")
	}
	for i, text := range c.doc.Failover.Reference {
		place := fmt.Sprintf("%s[%d]", at, i)
		if !c.ok(place) {
			continue
		}
		addr, fine := c.neighbor(place, string(text))
		switch {
		case !fine:
		case owner(cfg, addr) != "":
			c.add(place, fmt.Sprintf("the address %s is %s", addr, owner(cfg, addr)), "a reference is a machine that is no node: the router")
		case slices.Contains(cfg.Failover.References, addr):
			c.add(place, fmt.Sprintf("the address %s is listed twice", addr), "remove one of the two")
		default:
			cfg.Failover.References = append(cfg.Failover.References, addr)
			c.nearby(place, addr, cfg)
		}
	}
}

// neighbor reads the address of a machine on the same link: a router's may be link-local.
func (c *checker) neighbor(at, text string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == "" {
		return addr, true
	}
	return c.addr(at, text)
}

// nearby warns of a reference that is in no network of a VIP: nobody answers for
// it on the link itself.
func (c *checker) nearby(at string, addr netip.Addr, cfg *Config) {
	known := false
	for _, v := range cfg.VIPs {
		if v.Prefix.IsSingleIP() || v.Prefix.Addr().Is4() != addr.Is4() {
			continue
		}
		if known = true; v.Prefix.Masked().Contains(addr) {
			return
		}
	}
	if known && !addr.IsLinkLocalUnicast() {
		c.warn(at, fmt.Sprintf("%s is in no network of a VIP", addr), "name a machine on the link itself; what is behind a router does not answer there")
	}
}
