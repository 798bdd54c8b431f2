package exclude

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Git is the judge: for every file below, it and we say the same.
func TestAsGitDoes(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("SKIPPED PART: gitignore's own words (git is not installed)")
	}
	files := []string{"a.tmp", "keep.tmp", "d/a.tmp", "d/e/b.tmp", "build/x", "d/build/x", "d/e/build/y/z", "log/x.log", "d/log/x.log", "a/b", "a/x/b", "a/x/y/b", "a/x/c",
		"foo/bar/baz", "foo/keep", "#x", "!x", "x y", "é", "[a]", "d/ab", "d/b", "d/cb", "z/z/z/z/z", "cache/k/x", "cache/x"}
	for _, patterns := range []string{
		"*.tmp", "*.tmp\n!keep.tmp", "build/", "/build/", "/build", "build", "d/build", "**/build", "log/*.log", "**/log/*.log", "a/**/b", "a/**", "a/*", "foo/*\n!foo/keep",
		"foo/\n!foo/keep", "\\#x", "\\!x", "x\\ y", "[a]", "\\[a\\]", "d/[!a]b", "d/?b", "*", "/*\n!/a", "**/z", "z/**/z/z", "**", "**/x", "*/x", "d/**/x", "cache/*\n!cache/k/", "cache/**\n!cache/k/\n!cache/k/x", "a.tmp ", "é",
	} {
		dir := t.TempDir()
		run := func(in string, args ...string) string {
			cmd := exec.Command("git", args...)
			cmd.Dir, cmd.Stdin = dir, strings.NewReader(in)
			cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
			out, err := cmd.Output()
			if _, none := err.(*exec.ExitError); err != nil && !none {
				t.Fatal(err)
			}
			return string(out)
		}
		run("", "init", "-q")
		for _, f := range files {
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, ".git/info/exclude"), []byte(patterns+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		theirs := map[string]bool{}
		for _, f := range strings.Split(run(strings.Join(files, "\x00"), "check-ignore", "-z", "--stdin", "--no-index"), "\x00") {
			theirs[f] = true
		}
		l, err := Parse(strings.Split(patterns, "\n"))
		if err != nil {
			t.Errorf("%q: %v", patterns, err)
		}
		for _, f := range files {
			if got := l.Match(f); got != theirs[f] {
				t.Errorf("%q: %q is excluded: %v, by git: %v", patterns, f, got, theirs[f])
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for _, text := range []string{"", "#x", "/", "!", "a//b", "../x", "a/./b", "[", `a\`, "///"} {
		if _, err := ParseOne(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// What is below something excluded is excluded: walks do not go there.
func FuzzBelow(f *testing.F) {
	f.Add("*.tmp\n!a/", "x.tmp", "a/b")
	f.Add("a/**/b\n!*", "a/b", "c")
	f.Add("d/\n!d", "d", "e")
	f.Fuzz(func(t *testing.T, patterns, dir, below string) {
		l, err := Parse(strings.Split(patterns, "\n"))
		if err != nil || filepath.Clean("/"+dir) != "/"+dir || filepath.Clean("/"+below) != "/"+below || dir == "" || below == "" {
			return
		}
		if l.Match(dir) && !l.Match(dir+"/"+below) {
			t.Fatalf("%q excludes %q and not %q below", patterns, dir, below)
		}
	})
}
