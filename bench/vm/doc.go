// Command vm measures how long a point of a virtual machine takes to a copy, and
// what is read and sent for it, beside rsync --inplace and the way of the seed: a
// snapshot, then rsync.
//
// Two file systems on loop devices stand for two nodes' disks, read and written
// past the page cache of what they lie on. Every way starts from the same copy,
// of the same image with the same changes, with nothing in memory, and ends when
// the copy is durable: rsync's by fsync, ours published. What is read is counted
// at the disks. It changes nothing outside of its stage.
//
//	make bench-vm                       # every row, into bench/VM.md
//	ROWS=xfs4 RUNS=1 make bench-vm      # one row, printed only
package main
