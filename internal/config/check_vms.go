package config

import (
	"fmt"

	"revolve/internal/cluster"
)

// vms reads the virtual machines.
func (c *checker) vms(cfg *Config) {
	if c.there("vm_storage") && c.ok("vm_storage") && c.path("vm_storage", string(c.doc.VMStorage)) {
		cfg.VMStorage = string(c.doc.VMStorage)
	}
	if len(c.order["vms"]) > 0 && !c.there("vm_storage") {
		cfg.VMStorage = DefaultVMStorage
	}
	for _, name := range c.order["vms"] {
		doc, at := c.doc.VMs[name], join("vms", name)
		vm := VM{Name: name, Consistency: ConsistencySuspend}
		for i, node := range doc.Nodes {
			if at := fmt.Sprintf("%s.nodes[%d]", at, i); c.ok(at) {
				if _, known := c.doc.Nodes[string(node)]; !known {
					c.add(at, fmt.Sprintf("unknown node %q", node), didYouMean(string(node), c.order["nodes"]))
				}
				vm.Nodes = append(vm.Nodes, cluster.NodeID(node))
			}
		}
		if at := join(at, "consistency"); c.there(at) && c.ok(at) {
			c.oneOf(at, string(doc.Consistency), ConsistencyLive, ConsistencySuspend, ConsistencyFreeze, ConsistencyShutdown)
			vm.Consistency = string(doc.Consistency)
		}
		vm.Keep = c.keep(join(at, "keep"), doc.Keep)
		vm.Critical = doc.Critical
		cfg.VMs = append(cfg.VMs, vm)
	}
}

// maxKept bounds a rule: a node would be full long before.
const maxKept = 10_000

// keep reads which points of a machine stay.
func (c *checker) keep(at string, d keepDocument) Keep {
	if !c.there(at) || !c.ok(at) {
		return Keep{}
	}
	sum := 0
	for key, n := range map[string]int{"last": d.Last, "daily": d.Daily, "weekly": d.Weekly, "monthly": d.Monthly} {
		if at := join(at, key); c.there(at) && c.ok(at) && (n < 0 || n > maxKept) {
			c.add(at, fmt.Sprintf("%d points", n), fmt.Sprintf("say 0 to %d", maxKept))
		}
		sum += max(n, 0)
	}
	if sum == 0 {
		c.warn(at, at+": nothing is counted, so every point stays", "say how many: keep: { last: 3, weekly: 4 }")
	}
	return Keep(d)
}
