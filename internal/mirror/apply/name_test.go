package apply

import (
	"encoding/json"
	"testing"
)

func FuzzKeptNames(f *testing.F) {
	for _, s := range []string{"", "a/b", "ä/ü", "new\nline", "\xff\xfe", `back\slash`, `\xff`, `\\xff`, "mixed \xc3( \\ ü \ufffd", "<&>\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := json.Marshal(Kept{Path: s, Old: s + "/x", File: ".revolve/" + s, What: "changed"})
		if err != nil {
			t.Fatal(err)
		}
		var k Kept
		if err := json.Unmarshal(b, &k); err != nil {
			t.Fatal(err)
		}
		if k.Path != s || k.Old != s+"/x" || k.File != ".revolve/"+s || k.What != "changed" {
			t.Fatalf("%q came back as %+v", s, k)
		}
		unescapeName(s) // anything may stand in a file
	})
}

func TestOrdinaryNamesStandAsTheyAre(t *testing.T) {
	for _, s := range []string{"a/b c", "Fotos/Ürlaub ☃.jpg", "new\nline", "\ufffd"} {
		if got := escapeName(s); got != s {
			t.Errorf("%q is written %q", s, got)
		}
	}
	if got := escapeName("caf\xe9"); got != `caf\xe9` {
		t.Errorf("%q", got)
	}
}
