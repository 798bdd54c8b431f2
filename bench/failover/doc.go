// Command failover measures what a client sees while the address moves, beside
// the programs that people use for it today: keepalived at the same detection
// time and at its smallest sensible one, and Pacemaker with Corosync.
//
// Three nodes and a client in network namespaces are built anew for every engine,
// cause and load. The client asks a UDP echo through the address each 5 ms; the
// kernels say who has the address. A trial strikes the holder, waits, repairs, and
// waits until the engine is whole again. The harness never times a test, and
// changes nothing outside of its stage.
//
//	make bench-failover                                        # everything, 20 repetitions, bench/FAILOVER.md (hours)
//	ROWS=power-cut RUNS=5 ENGINES=default,fast make bench-failover
//	LONG=1 ROWS=steady make bench-failover                     # 10 minutes under load each
//	WRITE=1 ROWS=planned RUNS=5 make bench-failover            # and merge into bench/FAILOVER.md
package main
