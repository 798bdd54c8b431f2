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
		for _, key := range []string{"critical", "keep"} {
			if at := join(at, key); c.there(at) {
				c.warn(at, at+": accepted, not acted on by this version", "")
			}
		}
		cfg.VMs = append(cfg.VMs, vm)
	}
}
