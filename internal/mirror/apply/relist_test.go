package apply

import (
	"os"
	"testing"
)

// What is kept aside is listed after a power cut, though the lines of the index had not reached the disk: none, some, or
// a part of one. A tree that was moved there as a whole stays one entry.
func TestWhatIsKeptIsListedAfterAPowerCut(t *testing.T) {
	for name, cut := range map[string]func(index []byte) []byte{
		"no line":        func([]byte) []byte { return nil },
		"a torn line":    func(b []byte) []byte { return b[:len(b)-7] },
		"all is on disk": func(b []byte) []byte { return b },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.write("d/f", "one")
			r.write("d/g", "other")
			r.write("whole/x/y", "tree")
			set := NewSet(r.o.Root, "node-b", 7, WhyForeign, r.now)
			for _, err := range []error{set.KeepAway("whole"), set.Keep("d"), set.Keep("d/f"), set.Keep("d/g")} {
				if err != nil {
					t.Fatal(err)
				}
			}
			index := r.abs(set.dir + "/" + indexName)
			b, err := os.ReadFile(index)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(index, cut(b), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // what is listed is not listed twice
				if _, err := Relist(r.o.Root); err != nil {
					t.Fatal(err)
				}
			}
			all, err := ListDivergent(r.o.Root)
			if err != nil {
				t.Fatal(err)
			}
			n := map[string]int{}
			for _, k := range all {
				n[k.Path]++
				if k.Set != set.Name() || k.Node != "node-b" || k.Term != 7 || k.Why != WhyForeign || !k.Time.Equal(r.now) {
					t.Errorf("listed as %+v", k)
				}
			}
			if n["d/f"] != 1 || n["d/g"] != 1 || n["whole"]+n["whole/x/y"] != 1 {
				t.Errorf("listed: %v", n)
			}
		})
	}
}
