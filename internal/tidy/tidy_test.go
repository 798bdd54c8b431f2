// Package tidy is the house rules as a test: what a machine can check of
// CONTRIBUTING.md is checked here at every change, so that reviews are about the
// rest. It only reads source; it never changes or runs any of it.
//
//	go test ./internal/tidy
//
// A rule is a function from a package to findings; every rule has a small bad
// package in fixtures_test.go that it must find something in.
package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// pack is the parsed source of one directory.
type pack struct {
	dir   string // from the root of the repository, with slashes
	fset  *token.FileSet
	files []file
}

type file struct {
	name string
	test bool
	*ast.File
}

func (p *pack) at(pos token.Pos) string {
	position := p.fset.Position(pos)
	return path.Join(p.dir, position.Filename) + ":" + itoa(position.Line)
}

// add parses one file into the package.
func (p *pack) add(t *testing.T, name string, src []byte) {
	t.Helper()
	f, err := parser.ParseFile(p.fset, name, src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	p.files = append(p.files, file{name, strings.HasSuffix(name, "_test.go"), f})
}

// repository parses every package below cmd and internal.
func repository(t *testing.T) []*pack {
	t.Helper()
	packs := map[string]*pack{}
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.Contains(name, "/testdata/") {
				return err
			}
			rel, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			src, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			dir := filepath.ToSlash(filepath.Dir(rel))
			if packs[dir] == nil {
				packs[dir] = &pack{dir: dir, fset: token.NewFileSet()}
			}
			packs[dir].add(t, filepath.Base(name), src)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var list []*pack
	for _, p := range packs {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *pack) int { return strings.Compare(a.dir, b.dir) })
	return list
}

func TestHouseRules(t *testing.T) {
	packs := repository(t)
	if len(packs) < 5 {
		t.Fatalf("found %d packages only", len(packs))
	}
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			for _, p := range packs {
				for _, finding := range r.check(p) {
					t.Error(finding)
				}
			}
		})
	}
}

// An exception that nothing needs any more is a lie about the house.
func TestExceptionsAreNeeded(t *testing.T) {
	used := map[string]bool{}
	for _, p := range repository(t) {
		for _, f := range p.files {
			used[path.Join(p.dir, f.name)] = true
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && lines(p, fn) > maxFunction {
					used[path.Join(p.dir, f.name)+" "+fn.Name.Name] = true
				}
			}
		}
	}
	for name := range longOnPurpose() {
		if !used[name] {
			t.Errorf("the exception %q is no longer needed", name)
		}
	}
}
