package alarm

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every alarm has its section in the documentation, with something to do in it; no section is of an alarm that there is not; and what the rules
// of Prometheus point to is there.
func TestEveryAlarmIsExplained(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	text, onlyPrometheus, found := strings.Cut(string(b), "\n## Only in Prometheus\n")
	if !found {
		t.Fatal("the last chapter is missing")
	}
	var sections []string
	for _, part := range strings.Split(text, "\n### ")[1:] {
		name, body, _ := strings.Cut(part, "\n")
		sections = append(sections, name)
		if len(strings.TrimSpace(body)) < 100 {
			t.Errorf("%s is not explained", name)
		}
		if _, known := KindOf(name); !known {
			t.Errorf("there is no alarm %s", name)
		}
	}
	for _, k := range Kinds() {
		if !slices.Contains(sections, k.Name) {
			t.Errorf("%s has no section", k.Name)
		}
	}
	rules, err := os.ReadFile(filepath.Join("..", "..", "examples", "prometheus", "revolve.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	points := regexp.MustCompile(`operations\.md#([a-z-]+)`).FindAllStringSubmatch(string(rules), -1)
	if len(points) < 20 {
		t.Errorf("%d rules point to the documentation", len(points))
	}
	for _, m := range points {
		if !slices.Contains(sections, m[1]) && !strings.Contains(onlyPrometheus, "### "+m[1]+"\n") {
			t.Errorf("a rule points to %s, which has no section", m[1])
		}
	}
}
