// Package stories tells, for each promise of the design, a story that tries to
// break it: real nodes in namespaces, the real binary, and a judge that looks
// only at what an outsider sees: addresses on the interfaces, `status --json`,
// and the trees.
//
// It holds no product code and reaches into no running agent. Each test is
// named after the promise that it attacks. Root sees all of it; an ordinary
// user what the kernel allows, the rest says SKIPPED PART.
//
//	go test ./test/stories                      # builds the binary once
//	REVOLVE_BIN=dist/revolve go test ./test/stories -run TestP4
//	REVOLVE_STORIES_SEED=7 go test ./test/stories -run TestP1
package stories
