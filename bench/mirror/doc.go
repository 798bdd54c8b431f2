// Command mirror measures how fast and at what cost a volume reaches its
// standbys, beside the programs that people use for it today: lsyncd with rsync,
// a plain loop of inotifywait and rsync, and an rsync daemon by hand.
//
// Three nodes (more or fewer where cost is to grow) in network namespaces, each with a disk of its own, are built anew
// for every engine and every repeat, and the engines take turns, so that a busy
// machine hurts all alike. What is measured is the built program, from outside:
// the harness writes into the master's directory and looks at the standbys'.
// It never times a test, and changes nothing outside of its stage.
//
//	make bench-mirror                                    # every row, 3 repeats, bench/RESULTS.md
//	ROWS=latency200 RUNS=1 make bench-mirror             # one row, printed only
//	ROWS=create,delete PEERS=none make bench-mirror      # ours alone
//	WRITE=1 ROWS=idle make bench-mirror                  # and put into bench/RESULTS.md
//	ROWS=none make bench-mirror                          # the page and its pictures anew, from bench/results.json
//	make bench-growth                                    # how cost grows with files and standbys
package main
