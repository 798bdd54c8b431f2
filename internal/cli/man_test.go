package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"revolve/internal/config"
)

func pagesOf(t *testing.T) map[string]string {
	t.Helper()
	pages, err := manPages()
	must(t, err)
	texts := map[string]string{}
	for _, p := range pages {
		texts[p.Name] = p.Roff
	}
	return texts
}

// A real reader of manual pages has nothing to say about ours.
func TestManualPagesAreCorrect(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("SKIPPED PART: no mandoc on this machine")
	}
	dir := t.TempDir()
	for name, roff := range pagesOf(t) {
		path := filepath.Join(dir, name+".man")
		must(t, os.WriteFile(path, []byte(roff), 0o600))
		// The style level asks for mdoc(7) instead of man(7), and for the base system's conventions.
		if out, err := exec.Command(mandoc, "-T", "lint", "-W", "warning", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if out, err := exec.Command(mandoc, "-T", "ascii", path).CombinedOutput(); err != nil || !strings.Contains(string(out), "DESCRIPTION") && !strings.Contains(string(out), "D\bDE") {
			t.Errorf("%s does not show: %v\n%s", name, err, out)
		}
	}
}

// Every command, argument, flag and exit status is in the pages; what is hidden is not.
func TestManualPagesAreComplete(t *testing.T) {
	pages := pagesOf(t)
	model, err := commandModel()
	must(t, err)
	want := func(page, text string) {
		t.Helper()
		if !strings.Contains(pages[page], escaped(text)) {
			t.Errorf("%s does not have %q", page, text)
		}
	}
	for _, top := range model.Children {
		page := "revolve-" + top.Name
		if _, there := pages[page]; there == top.Hidden {
			t.Errorf("%s: hidden %v, has a page %v", page, top.Hidden, there)
		}
		if top.Hidden {
			continue
		}
		want("revolve", "revolve "+top.Name)
		for _, l := range append(top.Leaves(true), top) {
			want(page, strings.TrimSuffix(l.Help, "."))
			want(page, l.Detail)
			for _, f := range append(append([]*kong.Flag{}, l.Flags...), model.Flags...) {
				want(page, "--"+f.Name)
				want(page, f.Help)
			}
			for _, a := range l.Positional {
				want(page, a.Help)
			}
			if own, ok := l.Target.Addr().Interface().(verdicts); ok {
				for _, r := range own.exitStatuses() {
					want(page, r.meaning)
				}
			}
		}
		for _, r := range exitStatuses() {
			want(page, fmt.Sprintf("%d", r.status))
			want(page, r.meaning)
		}
	}
}

// Every key of the schema is in the page, and its example passes the check.
func TestManualOfTheConfiguration(t *testing.T) {
	page := pagesOf(t)[configPage]
	var walk func(schema map[string]any)
	walk = func(schema map[string]any) {
		if props, ok := schema["properties"].(map[string]any); ok {
			for name, p := range props {
				if !strings.Contains(page, escaped(name)+"\\fR") {
					t.Errorf("no key %s", name)
				}
				walk(p.(map[string]any))
			}
		}
		for _, key := range []string{"anyOf", "oneOf"} {
			if ways, ok := schema[key].([]any); ok {
				for _, way := range ways {
					walk(way.(map[string]any))
				}
			}
		}
		for _, key := range []string{"items", "additionalProperties"} {
			if below, ok := schema[key].(map[string]any); ok {
				walk(below)
			}
		}
	}
	var schema map[string]any
	must(t, json.Unmarshal(config.Schema(), &schema))
	walk(schema)
	path := filepath.Join(t.TempDir(), "revolve.yaml")
	must(t, os.WriteFile(path, []byte(exampleConfig), 0o600))
	if _, err := config.Load(path); err != nil {
		t.Errorf("the example: %v", err)
	}
}
