package send

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
)

// Whatever was renamed, each file is found under the name that it had before.
func TestFormerly(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := func() string {
		var names []string
		for range 1 + rnd.IntN(4) {
			names = append(names, string(rune('a'+rnd.IntN(3))))
		}
		return strings.Join(names, "/")
	}
	for round := range 2000 {
		var f formerly
		files := map[string]string{} // what they are called now -> before
		for range 15 {
			p := path()
			files[p] = p
		}
		var log []string
		for range rnd.IntN(30) {
			old, to := path(), path()
			if tree.Below(to, old) || tree.Below(old, to) {
				continue // no rename brings a directory into itself, or into the place of one that it is in
			}
			moved := map[string]string{}
			for p, was := range files {
				if tree.Below(p, old) {
					moved[tree.Moved(p, old, to)] = was
					delete(files, p)
				}
			}
			if len(moved) == 0 {
				continue // nothing is there
			}
			maps.DeleteFunc(files, func(p, _ string) bool { return tree.Below(p, to) })
			maps.Copy(files, moved)
			log = append(log, old+" -> "+to)
			f.rename(old, to)
		}
		for p, was := range files {
			if got := f.before(p); got != was {
				t.Fatalf("seed %d, round %d: %s was %s, want %s; after %v", seed, round, p, got, was, log)
			}
		}
	}
}

// A path that is looked up costs no more because of the renames elsewhere: only nodes on the way to it are there to be walked.
func TestFormerlyIsBounded(t *testing.T) {
	var f formerly
	for i := range 100_000 {
		f.rename(fmt.Sprintf("mail/tmp/%d", i%1000), fmt.Sprintf("mail/new/%d", i%1000))
		f.rename(fmt.Sprintf("mail/new/%d", i%1000), fmt.Sprintf("mail/tmp/%d", i%1000))
	}
	if n := len(f.kids["mail"].kids["tmp"].kids) + len(f.kids["mail"].kids["new"].kids); n != 1000 {
		t.Errorf("%d names are known, want 1000", n)
	}
	if got := f.before("mail/tmp/7"); got != "mail/tmp/7" {
		t.Error(got)
	}
}

// The volume's own directory is told by no mark: no follower would take it.
func TestRootIsNotForetold(t *testing.T) {
	var u unreceived
	u.add([]journal.Record{{Kind: journal.Dirty, Below: true}, {Kind: journal.Dirty, Below: true, Path: "f"}})
	if !slices.Equal(u.names, []string{"f"}) {
		t.Errorf("%q", u.names)
	}
}
