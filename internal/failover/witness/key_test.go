package witness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/problem"
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "w.key")
	if err := MakeKey(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	keys, err := ReadKeys(path)
	if err != nil || len(keys) != 1 || keys[0] == (Key{}) {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	if err := MakeKey(path); problem.KindOf(err) != problem.Conflict {
		t.Errorf("a key in the place of another: %v", err)
	}
	if _, err := ReadKeys(filepath.Join(t.TempDir(), "none")); problem.KindOf(err) != problem.NotFound || problem.HintOf(err) == "" {
		t.Errorf("no file: %v", err)
	}
	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeys(path); problem.KindOf(err) != problem.Permission || problem.HintOf(err) != "chmod 600 "+path {
		t.Errorf("readable by everybody: %v", err)
	}
}

func TestParseKeys(t *testing.T) {
	const good = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	for text, want := range map[string]int{good: 1, "# one\n\n" + good + "\r\n" + good + "\n": 2, strings.Repeat(good+"\n", maxKeys): maxKeys} {
		if keys, err := parseKeys([]byte(text)); err != nil || len(keys) != want {
			t.Errorf("%q: %d keys, %v", text, len(keys), err)
		}
	}
	for _, bad := range []string{"", "# none\n", good[1:], good + good, strings.Repeat(good+"\n", maxKeys+1), strings.Repeat("#", maxKeyFile+1), good[:40] + "*AQ="} {
		if _, err := parseKeys([]byte(bad)); err == nil {
			t.Errorf("%.60q is taken for a key", bad)
		} else if strings.Contains(err.Error(), "AQEB") {
			t.Errorf("the error tells of the key: %v", err)
		}
	}
}
