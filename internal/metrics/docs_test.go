package metrics

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// table is docs/metrics.md's list: every metric, its kind, its labels and what it says.
func table() string {
	var b strings.Builder
	page := string(Render(sample(), process{}))
	b.WriteString("| metric | kind | labels | what |\n|---|---|---|---|\n")
	for _, m := range regexp.MustCompile(`(?m)^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)\n(?:\S+?(?:\{(.*)\})? \S+\n)?`).FindAllStringSubmatch(page, -1) {
		var labels []string
		for _, l := range regexp.MustCompile(`([a-z]+)="`).FindAllStringSubmatch(m[4], -1) {
			labels = append(labels, l[1])
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m[1], m[3], strings.Join(labels, ", "), m[2])
	}
	return b.String()
}

const begins, ends = "<!-- generated: UPDATE_DOCS=1 go test ./internal/metrics -run DocsListEvery -->\n", "<!-- end -->\n"

// The documentation lists every metric as it is.
func TestDocsListEveryMetric(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "metrics.md")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), begins)
	listed, after, closed := strings.Cut(rest, ends)
	if !found || !closed {
		t.Fatal("docs/metrics.md has no generated part")
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(file, []byte(before+begins+table()+ends+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if listed != table() {
		t.Error("docs/metrics.md is not what there is: UPDATE_DOCS=1 go test ./internal/metrics -run DocsListEvery")
	}
}

// The examples ask for metrics that there are: a name that is wrong would be silent for ever.
func TestExamplesNameWhatThereIs(t *testing.T) {
	there := []string{"up"}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(string(Render(sample(), process{})), -1) {
		there = append(there, m[1])
	}
	for _, name := range []string{"prometheus/revolve.rules.yml", "prometheus/revolve.rules.test.yml", "grafana/revolve.json"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		asked := regexp.MustCompile(`\b(revolve|process|go)_[a-z0-9_]+`).FindAllString(string(b), -1)
		if len(asked) < 20 {
			t.Errorf("%s asks for %d metrics", name, len(asked))
		}
		for _, metric := range asked {
			if !slices.Contains(there, metric) {
				t.Errorf("%s asks for %s, which there is not", name, metric)
			}
		}
	}
}
