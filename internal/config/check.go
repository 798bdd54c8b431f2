package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"revolve/internal/cluster"
)

// nameForm is what clusters, nodes, links and volumes may be called: it fits a
// DNS label, a certificate's name, a directory and a metric label unchanged.
const nameForm = `^[a-z0-9][a-z0-9-]{0,31}$`

// maxPriority fits one byte of a heartbeat.
const maxPriority = 255

// checker turns a document into a Config and collects what contradicts what. It
// skips what the reader has reported already.
type checker struct {
	*reader
	doc      *document
	warnings []Mistake
	links    []string // known link names, in file order
	volumes  []string // known volume names, in file order
}

func (c *checker) warn(place, what, hint string) {
	c.warnings = append(c.warnings, Mistake{File: c.file, Line: c.lineAt(place), What: what, Hint: hint})
}

func (c *checker) build() *Config {
	cfg := &Config{Cluster: string(c.doc.Cluster), Port: DefaultPort}
	if c.ok("cluster") {
		c.name("cluster", cfg.Cluster)
	}
	if c.ok("port") {
		if c.doc.Port < 1 || c.doc.Port > 65535 {
			c.add("port", fmt.Sprintf("port %d does not exist", c.doc.Port), "choose one from 1 to 65535")
		}
		cfg.Port = uint16(c.doc.Port)
	}
	c.volumes = c.order["volumes"]
	cfg.Nodes = c.nodes()
	cfg.VIPs = c.vips(cfg.Nodes)
	cfg.Failover = c.failover()
	cfg.Bandwidth = c.bandwidth()
	c.isolation(cfg)
	cfg.Volumes = c.volumeList()
	cfg.Services = c.serviceList()
	cfg.Web = c.web(cfg.Port)
	c.alarms(cfg)
	c.nesting(cfg)
	c.reach(cfg)
	c.vms(cfg)
	c.schedules(cfg)
	return cfg
}

// IsName reports whether a node, link, volume or service may be called that.
func IsName(name string) bool { return regexp.MustCompile(nameForm).MatchString(name) }

// name reports a name that breaks nameForm.
func (c *checker) name(place, name string) {
	if !IsName(name) {
		c.add(place, fmt.Sprintf("%q is not a name", name), "use 1 to 32 lower-case letters, digits and dashes, beginning with a letter or digit")
	}
}

// count reports a list that is longer than its limit.
func (c *checker) count(place, what string, n, limit int) {
	if n > limit {
		c.add(place, fmt.Sprintf("%d %s", n, what), fmt.Sprintf("at most %d are supported", limit))
	}
}

func (c *checker) nodes() []Node {
	if !c.ok("nodes") {
		return nil
	}
	names := c.order["nodes"]
	c.count("nodes", "nodes", len(names), MaxNodes)
	if len(names) == 0 {
		c.add("nodes", "there is no node", "name at least one, such as a: { links: { lan: 10.77.0.11 } }")
	}
	var nodes []Node
	owner := map[netip.Addr]string{}
	candidates := 0
	for _, name := range names {
		place := join("nodes", name)
		c.name(place, name)
		n := c.node(place, name, owner)
		if n.Candidate {
			candidates++
		}
		nodes = append(nodes, n)
	}
	c.cards(nodes)
	if candidates == 0 && len(nodes) > 0 {
		c.add("nodes", "no node is a candidate, so none can ever lead", "remove candidate: false from at least one")
	}
	return nodes
}

func (c *checker) node(place, name string, owner map[netip.Addr]string) Node {
	d := c.doc.Nodes[name]
	n := Node{Name: cluster.NodeID(name), Priority: DefaultPriority, Candidate: true, Power: Power{Mode: PowerAlways}}
	n.Links = c.nodeLinks(place, d, owner)
	if at := join(place, "priority"); c.ok(at) {
		if n.Priority = d.Priority; d.Priority < 0 || d.Priority > maxPriority {
			c.add(at, fmt.Sprintf("priority %d is out of range", d.Priority), fmt.Sprintf("choose one from 0 to %d", maxPriority))
		}
	}
	if c.ok(join(place, "candidate")) {
		n.Candidate = d.Candidate
	}
	paths := join(place, "paths")
	for _, vol := range c.order[paths] {
		at := join(paths, vol)
		if !slices.Contains(c.volumes, vol) {
			c.add(at, fmt.Sprintf("unknown volume %q in %s", vol, paths), didYouMean(vol, c.volumes))
		}
		if c.ok(at) && c.path(at, string(d.Paths[vol])) {
			if n.Paths == nil {
				n.Paths = map[cluster.VolumeID]string{}
			}
			n.Paths[cluster.VolumeID(vol)] = string(d.Paths[vol])
		}
	}
	if at := join(place, "source"); c.ok(at) {
		c.oneOf(at, string(d.Source), SourceCluster, SourceFile)
		n.OwnFile = d.Source == SourceFile
	}
	n.Power = c.power(join(place, "power"), d.Power)
	return n
}

func (c *checker) nodeLinks(place string, d nodeDocument, owner map[netip.Addr]string) []Link {
	at := join(place, "links")
	if !c.ok(at) {
		return nil
	}
	names := c.order[at]
	c.count(at, "links of one node", len(names), MaxLinks)
	if len(names) == 0 {
		c.add(at, at+" is empty", "give the node at least one address, such as { lan: 10.77.0.11 }")
	}
	var links []Link
	for _, name := range names {
		at := join(at, name)
		c.name(at, name)
		if !slices.Contains(c.links, name) {
			c.links = append(c.links, name)
		}
		if !c.ok(at) {
			continue
		}
		addr, fine := c.addr(at, string(d.Links[name]))
		if !fine {
			continue
		}
		if other, taken := owner[addr]; taken {
			c.add(at, fmt.Sprintf("address %s is that of %s already", addr, other), "give every node its own address on every link")
			continue
		}
		owner[addr] = at
		links = append(links, Link{Name: cluster.LinkID(name), Addr: addr})
	}
	return links
}

// addr reads a node's own address.
func (c *checker) addr(at, text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil && strings.Contains(text, "/"):
		c.add(at, fmt.Sprintf("%q is not an address", text), "leave the length out; only VIPs have one")
	case err != nil:
		c.add(at, fmt.Sprintf("%q is not an address", text), "write a literal IPv4 or IPv6 address; names are not resolved")
	case addr.Is4In6():
		c.add(at, fmt.Sprintf("%s is an IPv4 address in IPv6 clothes", text), "write "+addr.Unmap().String())
	case addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		c.add(at, fmt.Sprintf("%s is not the address of a machine", addr), "write the node's own address on this link")
	case addr.Is6() && addr.IsLinkLocalUnicast(), addr.Zone() != "":
		c.add(at, fmt.Sprintf("%s means something only on its own interface", addr), "write an address that all nodes can reach; a unique local one (fd00::/8) will do")
	default:
		return addr, true
	}
	return netip.Addr{}, false
}

func (c *checker) failover() Failover {
	f := Failover{Engine: EngineBuiltin, Profile: ProfileDefault}
	if c.ok("failover.engine") {
		f.Engine = string(c.doc.Failover.Engine)
		c.oneOf("failover.engine", f.Engine, EngineBuiltin, EngineExternal)
		if f.Engine == EngineExternal && len(c.doc.VIPs) == 0 {
			c.add("failover.engine", "engine: external without a VIP: there is nothing to see who leads by", "list under vips: the addresses that the engine places")
		}
	}
	if at := "failover.eligible"; c.ok(at) && c.path(at, string(c.doc.Failover.Eligible)) {
		f.Eligible = string(c.doc.Failover.Eligible)
		if f.Engine != EngineExternal {
			c.warn(at, at+" has no effect with engine: builtin", "")
		}
	}
	if c.ok("failover.profile") {
		f.Profile = string(c.doc.Failover.Profile)
		c.oneOf("failover.profile", f.Profile, ProfileDefault, ProfileFast, ProfilePatient)
	}
	f.Failback = c.movingWindow("failover.failback.window", c.doc.Failover.Failback.Window, f.Engine)
	f.Rehearsal = c.movingWindow("failover.rehearsal.window", c.doc.Failover.Rehearsal.Window, f.Engine)
	return f
}

// movingWindow reads a time in which the addresses may move; left out, it is never.
func (c *checker) movingWindow(at string, text windowText, engine string) (w Window) {
	if !c.ok(at) || text == "" {
		return w
	}
	if engine == EngineExternal {
		c.warn(at, at+" has no effect with engine: external", "the engine decides who leads")
	}
	return c.window(at, string(text))
}

// window reads a time that comes again.
func (c *checker) window(at, text string) Window {
	w, fine := parseWindow(text)
	if !fine {
		c.add(at, fmt.Sprintf("%q is not a window", text), `write "Sun 03:00-05:00", "Mon-Fri 22:00-06:00" or "daily 03:00-04:00"`)
	}
	return w
}

// oneOf reports a value that is none of the words.
func (c *checker) oneOf(at, got string, words ...string) {
	if !slices.Contains(words, got) {
		c.add(at, fmt.Sprintf("%s is %q", at, got), didYouMean(got, words))
	}
}
