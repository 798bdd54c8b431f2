// Command soak lives a day of a cluster in half an hour: four nodes in network
// namespaces, clients on the floating address all the time, and one random fault
// after the other, of every kind that a bed of namespaces can make.
//
// It checks that no acknowledged record is lost, that memory and descriptors stay
// flat, that every change of master has its record in the history, and that no alarm
// stands at the end. It prints its seed, and changes nothing outside of its stage.
//
//	make soak                 # half an hour, bench/SOAK.md and its pictures
//	SOAK=3m make soak         # a part: prints, and writes nothing
//	SEED=7 SOAK=3m make soak  # the same faults in the same order
package main
