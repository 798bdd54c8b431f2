// Package witness is the third machine of a cluster of two: a tiny process that
// keeps one lease in its memory, so that of two nodes which cannot hear each other
// only one leads.
//
// It never chooses who leads, never keeps anything on a disk, never sends a packet
// that was not asked for, and answers nobody without a key. What it says counts
// only for a node that hears no other one (election.Config.Witness).
//
//	keys, err := witness.ReadKeys("/etc/revolve/witness.key")
//	err = witness.Serve(ctx, witness.Options{Listen: addr, Keys: keys, Log: log}) // until ctx ends
//	answer, err := witness.Look(ctx, addr, keys[0], witness.Who{Cluster: "homelab", Node: "a", Dead: dead})
package witness
