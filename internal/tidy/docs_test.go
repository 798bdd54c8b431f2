package tidy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Relative links in the documentation lead somewhere, and every package of the
// house is in docs/ARCHITECTURE.md.
func TestDocumentation(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(pages, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range brokenLinks(filepath.Dir(name), string(data)) {
			t.Errorf("%s: the link %s leads nowhere", name, link)
		}
	}
	data, err := os.ReadFile(filepath.Join(root, "docs", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), "\n"); n >= 250 {
		t.Errorf("docs/ARCHITECTURE.md has %d lines; nobody reads more than 250", n)
	}
	for _, p := range repository(t) {
		name := p.dir
		if parent := filepath.Dir(name); parent == "internal/mirror" {
			name = filepath.Base(name) // "send", "apply" share a row
		}
		if !strings.Contains(string(data), "`"+name+"`") && !strings.Contains(string(data), "`"+p.dir+"`") {
			t.Errorf("docs/ARCHITECTURE.md does not say what %s is", p.dir)
		}
	}
}

func brokenLinks(dir, text string) (broken []string) {
	for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(dir, m[1])); err != nil {
			broken = append(broken, m[1])
		}
	}
	return broken
}

func TestBrokenLinksAreFound(t *testing.T) {
	dir := t.TempDir()
	if got := brokenLinks(dir, "[a](b.md) [c](https://example.org/x) [d](.)"); len(got) != 1 || got[0] != "b.md" {
		t.Errorf("got %v", got)
	}
}
