package apply

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"revolve/internal/mirror/tree"
)

// What is below a path is found as by looking through all, and a path with nothing below it is told without that.
func TestCopiesUnder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	path := func() (p string) {
		for range 1 + rnd.IntN(3) {
			p = tree.Join(p, fmt.Sprint(rnd.IntN(3)))
		}
		return p
	}
	var c copies
	for range 2000 {
		if p := path(); rnd.IntN(2) == 0 {
			c.add(p, &Set{})
		} else {
			c.drop(p)
		}
		for _, rel := range []string{"", path()} {
			var want []string
			below := 0
			for p := range c.sets {
				if tree.Below(p, rel) {
					want = append(want, p)
				}
				if p != rel && tree.Below(p, rel) {
					below++
				}
			}
			got := c.under(rel)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || c.above[rel] != below {
				t.Fatalf("under %q: %q, %d below; want %q, %d", rel, got, c.above[rel], want, below)
			}
		}
	}
	for range 3 * maxCopies {
		c.add("f", &Set{})
	}
	if n := len(c.sets["f"]); n != maxCopies {
		t.Errorf("%d sets are remembered for a path", n)
	}
}
