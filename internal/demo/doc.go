// Package demo tells the story of a revolving cluster on one machine, and
// measures it: nodes on a testbed run the real program with a real
// configuration, a client asks a DNS service through the floating address, a
// writer changes files on whoever is master, and then machines fail.
//
// It drives the public commands of this same binary and judges only by what an
// outsider sees: addresses on interfaces, the cards that answer for them, `status --json`, the trees on the
// disks, the answers that the client got. It never imports the agent, reads no
// file below a state directory, and nothing in the product knows of it.
//
//	report, err := demo.Tell(ctx, stage, demo.Options{Nodes: 4, Out: os.Stderr})
//
// Serve, Ask, Cards and Write are the bodies of the hidden commands that run on the
// nodes, in the client and in the onlooker: the DNS service, the client, who asks the
// cards, and the writer.
package demo
