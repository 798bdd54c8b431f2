package mirror

import (
	"fmt"
	"testing"
)

// TestTwinsOfAbsence: files of one size and one time that change places while a standby is off, and that only a comparison sees.
func TestTwinsOfAbsence(t *testing.T) {
	base := memoryDir(t)
	twin := func(path string, n uint64) stormOp { return stormOp{"twin", path, "", n} }
	at := func(what, a, b string) stormOp { return stormOp{What: what, A: a, B: b} }
	for name, changes := range map[string][]stormOp{
		"exchanged":                           {at("exchange", "a/x", "b/x")},
		"exchanged in one directory":          {at("exchange", "a/x", "a/y")},
		"one takes the place of another":      {at("rename", "b/x", "a/x")},
		"the same, and another comes":         {at("rename", "b/x", "a/x"), at("save", "b/x", "")},
		"one goes, another takes its place":   {at("rename", "a/x", "c"), at("rename", "b/x", "a/x")},
		"the directory of the other is gone":  {at("rename", "b/x", "a/x"), at("rmtree", "b", "")},
		"linked over":                         {at("remove", "a/x", ""), at("link", "b/x", "a/x")},
		"linked over by one in its directory": {at("remove", "a/y", ""), at("link", "a/x", "a/y")},
		"with a second name":                  {at("link", "a/x", "c"), at("exchange", "a/x", "b/x")},
		"their directories change places":     {at("exchange", "a/d", "a/e")},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(12) {
				large := 2 * (seed / 4 % 2) // of the contents' numbers: small ones travel with the operation
				ops := []stormOp{at("mkdir", "a", ""), at("mkdir", "b", ""), at("mkdir", "a/d", ""), at("mkdir", "a/e", "")}
				for i, path := range []string{"a/x", "b/x", "a/y", "a/d/x", "a/e/x"} {
					ops = append(ops, twin(path, 3*uint64(i+1)+large))
				}
				ops = append(ops, at("calm", "", ""), at("calm", "", ""))
				if seed%2 == 1 { // where they came from is forgotten, and they are not young any more
					ops = append(ops, at("crash", "", ""))
					for range 7 {
						ops = append(ops, at("calm", "", ""))
					}
				}
				ops = append(append(ops, at("leave", "", "")), changes...)
				if seed >= 8 { // the comparison breaks, and begins anew
					ops = append(ops, stormOp{"emit", "", "", 11}, stormOp{"emit", "", "", 11}, stormOp{"cut-later", "", "", 4 * (seed - 7)}, at("wait", "", ""))
				}
				if diff := runStorm(t, base, seed, ops); diff != "" {
					t.Error(fmt.Sprintf("seed %d: ", seed) + diff)
				}
			}
		})
	}
}

// Look-alikes that are what they look like do not come again: their sums are compared, where the master knows that.
func TestLookalikesAreComparedBySums(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.steps(t, stormOp{"mkdir", "d", "", 0})
		for i := range uint64(100) {
			w.steps(t, stormOp{"twin", fmt.Sprint("d/", i), "", 3 * i})
		}
		must(t, w.emit(len(w.src.events)))
		for range 7 { // they are not young any more
			w.steps(t, stormOp{What: "calm"})
		}
		must(t, w.crash())
		w.steps(t, stormOp{"exchange", "d/1", "d/2", 0}, stormOp{"save", "d/new", "", 5})
		w.compare = true
		must(t, w.emit(len(w.src.events)))
		w.ends(t)
		if n := w.o.applier.Stats().Files; n > 10 {
			t.Errorf("%d files came, of which one is new and two have changed places", n)
		}
	})
}
