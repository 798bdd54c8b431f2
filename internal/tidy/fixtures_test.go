package tidy

import (
	"go/token"
	"strings"
	"testing"
)

// fixture is a small package; want is a part of what the rule must say about it,
// "" if the rule must be content.
type fixture struct {
	rule, dir, src, want string
}

const goodDoc = "// Package x is good. It never sleeps.\n"

func fixtures() []fixture {
	long := "func f() {\n" + strings.Repeat("\t_ = 1\n", maxFunction) + "}\n"
	return []fixture{
		{"imports go down", "internal/peer", "package peer\nimport _ \"revolve/internal/config\"", ""},
		{"imports go down", "internal/config", "package config\nimport _ \"revolve/internal/peer\"", "not below it"},
		{"imports go down", "internal/problem", "package problem\nimport _ \"revolve/internal/cluster\"", "not below it"},
		{"imports go down", "internal/mirror", "package mirror\nimport _ \"revolve/internal/failover/vip\"", "never import one another"},
		{"imports go down", "internal/testbed", "package testbed\nimport _ \"revolve/internal/config\"", "knows nothing of the product"},
		{"imports go down", "internal/attic", "package attic", "not in the house"},
		{"imports go down", "internal/cli", "package cli\nimport _ \"revolve/internal/attic\"", "not in the house"},

		{"pure packages are pure", "internal/failover/election", "package election\nimport \"time\"\nvar x time.Duration", ""},
		{"pure packages are pure", "internal/peer", "package peer\nfunc f() { go f() }", ""},
		{"pure packages are pure", "internal/failover/election", "package election\nimport \"time\"\nvar x = time.Now()", "time.Now"},
		{"pure packages are pure", "internal/failover/election", "package election\nimport \"sync\"\nvar x sync.Mutex", "imports sync"},
		{"pure packages are pure", "internal/failover/election", "package election\nimport _ \"sync/atomic\"", "imports sync/atomic"},
		{"pure packages are pure", "internal/failover/election", "package election\nimport _ \"context\"", "imports context"},
		{"pure packages are pure", "internal/failover/election", "package election\nimport _ \"log/slog\"", "imports log/slog"},
		{"pure packages are pure", "internal/failover/election", "package election\nimport _ \"math/rand/v2\"", "imports math/rand/v2"},
		{"pure packages are pure", "internal/failover/election", "package election\nimport _ \"os\"", "imports os"},
		{"pure packages are pure", "internal/failover/election", "package election\nimport _ \"net/netip\"", ""},
		{"pure packages are pure", "internal/failover/election", "package election\nfunc f() { go f() }", "goroutine"},
		{"pure packages are pure", "internal/mirror/reconcile", "package reconcile\nvar c chan int", "channel"},
		{"pure packages are pure", "internal/mirror/reconcile", "package reconcile\nimport \"fmt\"\nfunc f() { fmt.Println() }", "fmt.Println"},
		{"pure packages are pure", "internal/mirror/reconcile", "package reconcile\nimport \"fmt\"\nfunc f() { _ = fmt.Sprint() }", ""},

		{"packages say what they are", "internal/x", goodDoc + "package x", ""},
		{"packages say what they are", "internal/x", "package x", "no package comment"},
		{"packages say what they are", "internal/x", "// Package x is good.\npackage x", "single sentence"},
		{"packages say what they are", "internal/x", "// Package x is good. Use it.\npackage x", "never does"},

		{"exported names are documented", "internal/x", "package x\n// F does.\nfunc F() {}\nfunc g() {}\ntype t int\nfunc (t) M() {}", ""},
		{"exported names are documented", "internal/x", "package x\nfunc F() {}", "F is exported"},
		{"exported names are documented", "internal/x", "package x\n// T is.\ntype T int\nfunc (*T) M() {}", "M is exported"},
		{"exported names are documented", "internal/x", "package x\ntype T int", "T is exported"},
		{"exported names are documented", "internal/x", "package x\nconst C = 1", "C is exported"},

		{"no init and no package variables", "internal/x", "package x\nfunc init() {}", "init runs"},
		{"no init and no package variables", "internal/x", "package x\nvar count int", "package variable count"},
		{"no init and no package variables", "internal/x", "package x\nvar m = map[string]int{}", "package variable m"},
		{"no init and no package variables", "internal/x", "package x\nvar _ = f()", "package variable _"},
		{"no init and no package variables", "internal/x", "package x\nimport \"errors\"\nvar errA = errors.New(\"a\")\nvar _ error = errA", ""},
		{"no init and no package variables", "internal/x", "package x\nvar errB = &problem.Problem{Op: \"b\"}", ""},
		{"no init and no package variables", "internal/x", "package x\n//go:embed a.txt\nvar a string", ""},
		{"no init and no package variables", "internal/x", "package x\nvar re = 1 //tidy:constant a table that is never written", ""},
		{"no init and no package variables", "internal/x", "package x\nvar re = 1 //tidy:constant", "package variable re"},

		{"functions fit on a screen", "internal/x", "package x\nfunc f() {}", ""},
		{"functions fit on a screen", "internal/x", "package x\n" + long, "f has 72 lines"},
		{"files have one subject", "internal/x", "package x\n" + strings.Repeat("\n", maxFile), "lines, at most 500"},
		{"files have one subject", "internal/x", "package x\n", ""},
		{"packages are named for what they do", "internal/util", "package util", "says nothing"},
		{"packages are named for what they do", "internal/peer", "package peer", ""},
		{"nothing is left for later", "internal/x", "package x\n// TO" + "DO: more", "open an issue"},
		{"nothing is left for later", "internal/x", "package x\n/* FIX" + "ME */", "open an issue"},
		{"nothing is left for later", "internal/x", "package x\n// all done\nconst s = \"TO" + "DO\"", ""},
		{"logs are passed in", "internal/x", "package x\nimport _ \"log\"", "one global logger"},
		{"logs are passed in", "internal/x", "package x\nimport \"log/slog\"\nfunc f() { slog.Info(\"\") }", "slog.Info"},
		{"logs are passed in", "internal/x", "package x\nimport \"log/slog\"\nfunc f(l *slog.Logger) { l.Info(\"\") }", ""},
	}
}

func TestRulesFindWhatTheyForbid(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range fixtures() {
		p := &pack{dir: f.dir, fset: token.NewFileSet()}
		p.add(t, "x.go", []byte(f.src))
		for _, r := range rules() {
			if r.name != f.rule {
				continue
			}
			found := strings.Join(r.check(p), "\n")
			if f.want == "" && found != "" {
				t.Errorf("%s: content expected, found %s in\n%s", f.rule, found, f.src)
			}
			if f.want != "" && !strings.Contains(found, f.want) {
				t.Errorf("%s: want %q, found %q in\n%s", f.rule, f.want, found, f.src)
			}
			if f.want != "" {
				seen[r.name] = true
			}
		}
	}
	for _, r := range rules() {
		if !seen[r.name] {
			t.Errorf("no fixture breaks the rule %q", r.name)
		}
	}
}
