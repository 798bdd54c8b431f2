package demo

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"revolve/internal/cluster"
	"revolve/internal/testbed"
)

// The network of the demo. Private addresses (RFC 1918, RFC 4193) in namespaces
// of their own; nothing of them is seen outside.
const (
	linkLAN  = "lan"  // where the clients and the floating addresses are
	linkFast = "fast" // the other link
	vip4Text = "10.77.0.200/24"
	vip6Text = "fd77::200/64"
	client   = "client"
	// onlooker asks who answers for the addresses, apart from the client: what it learns no client knows.
	onlooker      = "onlooker"
	onlookerAddr6 = "fd77::101"
)

// The volumes.
const (
	volHome  = "home"
	volZones = "zones"
	zoneFile = "demo.zone"
)

// Bounds of --nodes: one node has nobody to take over; the ring has letters a-h.
const (
	minNodes = 2
	maxNodes = 8
)

// plan is who is who and where.
type plan struct {
	names      []string
	room       int // names that there will be: one joins
	vip4, vip6 netip.Prefix
	dir        string // on the stage
	self       string // each node's own disk, as the node sees it
}

func newPlan(nodes int, dir, self string) plan {
	p := plan{vip4: netip.MustParsePrefix(vip4Text), vip6: netip.MustParsePrefix(vip6Text), dir: dir, self: self, room: nodes + 1}
	for i := range nodes {
		p.names = append(p.names, string(rune('a'+i)))
	}
	return p
}

func (p plan) configFile() string { return filepath.Join(p.dir, "revolve.yaml") }

func (p plan) logFile(name, what string) string {
	return filepath.Join(p.dir, "logs", name+"."+what+".log")
}

// state is the node's state directory as the stage sees it.
func (p plan) state(name string) string { return filepath.Join(p.dir, name, "state") }

// volume is the node's copy of a volume as the stage sees it.
func (p plan) volume(name, vol string) string { return filepath.Join(p.dir, name, vol) }

// config is the configuration that all nodes read: the ordinary format, each
// path the same on every node as on real machines.
func (p plan) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster: demo\nnodes:\n")
	for i, n := range p.names {
		fmt.Fprintf(&b, "  %s: { links: { %s: 10.77.0.%d, %s: 10.78.0.%d } }\n", n, linkLAN, 11+i, linkFast, 11+i)
	}
	fmt.Fprintf(&b, "vips:\n  - { address: %s, link: %s }\n  - { address: %q, link: %s }\n", p.vip4, linkLAN, p.vip6, linkLAN)
	fmt.Fprintf(&b, "failover: { engine: builtin, profile: default }\nvolumes:\n")
	for _, v := range []string{volHome, volZones} {
		fmt.Fprintf(&b, "  %s: { path: %s }\n", v, filepath.Join(p.self, v))
	}
	return b.String()
}

func (p plan) spec(i int, name string) testbed.NodeSpec {
	return testbed.NodeSpec{ID: cluster.NodeID(name), Links: []testbed.Attachment{
		{Link: linkLAN, Addrs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", 11+i)),
			netip.MustParsePrefix(fmt.Sprintf("fd77::%d/64", 11+i)),
		}},
		{Link: linkFast, Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.78.0.%d/24", 11+i))}},
	}}
}

func (p plan) clientSpec() testbed.NodeSpec {
	return testbed.NodeSpec{ID: client, Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{
		{Link: linkLAN, Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.100/24"), netip.MustParsePrefix("fd77::100/64")}},
	}}
}

func (p plan) onlookerSpec() testbed.NodeSpec {
	return testbed.NodeSpec{ID: onlooker, Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{
		{Link: linkLAN, Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.101/24"), netip.MustParsePrefix(onlookerAddr6 + "/64")}},
	}}
}

func zoneText(serial uint32) string {
	return fmt.Sprintf("; mirrored with the volume zones\n%s A 10.77.0.80\n%s TXT %d\n", askName, serialName, serial)
}
