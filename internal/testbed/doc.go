// Package testbed makes a small network of nodes on one machine, out of kernel
// namespaces, and does to them what happens to real ones: links are cut,
// processes are held or killed, the power goes off and comes back.
//
// It uses netlink and system calls only, no external tool except an optional
// mkfs. It works as root, and as an ordinary user where the kernel allows user
// namespaces; what an ordinary user cannot have (a real filesystem to lose
// power under) is counted in Bed.Fidelity. It knows nothing of revolve's own
// processes, reads none of its files and decides nothing about them.
//
// Everything lives on a stage: a process in its own mount, network and process
// namespaces (and a user namespace unless it is root). When the first process
// of the stage ends, for whatever reason, the kernel takes every other process,
// namespace, mount and loop device with it; nothing has to be cleaned up by a
// program that may no longer be there.
//
//	func main() {
//		if testbed.Reexecuted() {
//			os.Exit(testbed.Child())
//		}
//		stage, on, err := testbed.Current()
//		if !on {
//			status, err := testbed.Enter(ctx)   // runs this program again, on a stage
//			...
//		}
//		bed, err := testbed.NewBed(stage)
//		err = bed.AddLink("lan")
//		a, err := bed.AddNode(testbed.NodeSpec{ID: "a", ...})
//	}
//
// A Go test calls Reexecuted and Child first thing in TestMain, and runs its
// body through OnStage.
package testbed
