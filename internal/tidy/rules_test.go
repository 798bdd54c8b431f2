package tidy

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

const (
	maxFunction = 70  // lines: a screen
	maxFile     = 500 // lines
	module      = "revolve/"
)

type rule struct {
	name  string
	check func(*pack) []string
}

func rules() []rule {
	return []rule{
		{"imports go down", importsGoDown},
		{"pure packages are pure", pureIsPure},
		{"packages say what they are", packageDoc},
		{"exported names are documented", exportedDoc},
		{"no init and no package variables", noGlobals},
		{"functions fit on a screen", functionsFit},
		{"files have one subject", filesFit},
		{"packages are named for what they do", packageNames},
		{"nothing is left for later", noMarks},
		{"logs are passed in", noDefaultLog},
	}
}

// levels is the house, top to bottom: a package imports only from lower levels.
func levels() [][]string {
	return [][]string{
		{"cmd/revolve"},
		{"internal/cli"},
		{"internal/demo"},
		{"internal/agent", "internal/doctor"},
		{"internal/metrics", "internal/web", "internal/alarm/deliver"},
		{"internal/alarm"},
		{"internal/control", "internal/join"},
		{"internal/mirror/kept"},
		{"internal/roster"},
		{"internal/failover/beat", "internal/mirror", "internal/mirror/restore", "internal/vm"},
		{"internal/failover/witness", "internal/failover/whoanswers"},
		{"internal/failover/vip", "internal/failover/silence", "internal/failover/clients", "internal/failover/election", "internal/failover/history", "internal/mirror/send", "internal/mirror/apply", "internal/mirror/verify"},
		{"internal/mirror/journal", "internal/mirror/wire", "internal/mirror/watch", "internal/mirror/links"},
		{"internal/mirror/reconcile", "internal/mirror/tree", "internal/mirror/pace"},
		{"internal/service", "internal/power"},
		{"internal/vm/transfer"},
		{"internal/vm/points", "internal/vm/libvirt", "internal/vm/keep", "internal/vm/schedule", "internal/vm/tpm"},
		{"internal/setup/survey"},
		{"internal/block", "internal/snapshot"},
		{"internal/peer"},
		{"internal/testbed"},
		{"internal/setup"},
		{"internal/config"},
		{"internal/secret"},
		{"internal/cluster", "internal/problem", "internal/exclude", "internal/syswait", "internal/sdnotify", "internal/calendar", "internal/mounts"},
	}
}

// pure lists the packages that are values in, values out.
func pure() []string {
	return []string{"internal/failover/election", "internal/mirror/reconcile", "internal/mirror/pace", "internal/exclude", "internal/alarm", "internal/vm/keep", "internal/vm/schedule", "internal/calendar", "internal/setup"}
}

// longOnPurpose lists the exceptions: "dir/file.go" may be long, "dir/file.go Func" too.
func longOnPurpose() map[string]string {
	return map[string]string{}
}

func level(dir string) int {
	return slices.IndexFunc(levels(), func(l []string) bool { return slices.Contains(l, dir) })
}

func importsGoDown(p *pack) (found []string) {
	own := level(p.dir)
	for _, f := range p.files {
		if f.test {
			continue // tests may stand anywhere in the house
		}
		if own < 0 {
			return []string{fmt.Sprintf("%s is not in the house: give it a level in internal/tidy and docs/ARCHITECTURE.md", p.dir)}
		}
		for _, spec := range f.Imports {
			dep, ours := strings.CutPrefix(importPath(spec), module)
			if !ours {
				continue
			}
			switch other := level(dep); {
			case other < 0:
				found = append(found, fmt.Sprintf("%s: %s is not in the house", p.at(spec.Pos()), dep))
			case other <= own:
				found = append(found, fmt.Sprintf("%s: %s imports %s, which is not below it", p.at(spec.Pos()), p.dir, dep))
			case wing(p.dir) != "" && wing(dep) != "" && wing(p.dir) != wing(dep):
				found = append(found, fmt.Sprintf("%s: %s and %s never import one another", p.at(spec.Pos()), p.dir, dep))
			case p.dir == "internal/testbed" && dep != "internal/cluster" && dep != "internal/problem":
				found = append(found, fmt.Sprintf("%s: testbed knows nothing of the product, so not %s", p.at(spec.Pos()), dep))
			}
		}
	}
	return found
}

// wing is the part of the house that must not know the other.
func wing(dir string) string {
	for _, w := range []string{"internal/failover", "internal/mirror", "internal/vm"} {
		if dir == w || strings.HasPrefix(dir, w+"/") {
			return w
		}
	}
	return ""
}

func pureIsPure(p *pack) (found []string) {
	if !slices.Contains(pure(), p.dir) {
		return nil
	}
	banned := []string{"bufio", "context", "io", "log", "math/rand", "math/rand/v2", "crypto/rand", "net", "os", "runtime", "sync", "syscall", "golang.org/x"}
	clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"}
	for _, f := range p.files {
		if f.test {
			continue
		}
		for _, spec := range f.Imports {
			name := importPath(spec)
			for _, b := range banned {
				if name != "net/netip" && (name == b || strings.HasPrefix(name, b+"/")) {
					found = append(found, fmt.Sprintf("%s: a pure package imports %s", p.at(spec.Pos()), name))
				}
			}
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			what := ""
			switch n := n.(type) {
			case *ast.GoStmt:
				what = "starts a goroutine"
			case *ast.ChanType, *ast.SendStmt, *ast.SelectStmt:
				what = "uses a channel"
			case *ast.UnaryExpr:
				if n.Op == token.ARROW {
					what = "uses a channel"
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
					what = "looks at the clock: time." + n.Sel.Name
				}
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "fmt" && (strings.Contains(n.Sel.Name, "Print") && !strings.HasPrefix(n.Sel.Name, "Sp") || strings.Contains(n.Sel.Name, "Scan")) {
					what = "does I/O: fmt." + n.Sel.Name
				}
			}
			if what != "" {
				found = append(found, fmt.Sprintf("%s: a pure package %s", p.at(n.Pos()), what))
			}
			return true
		})
	}
	return found
}

// packageDoc wants a doc comment that says what the package is and what it never does.
func packageDoc(p *pack) []string {
	var doc strings.Builder
	for _, f := range p.files {
		if f.Doc != nil {
			doc.WriteString(f.Doc.Text())
		}
	}
	text := doc.String()
	switch {
	case text == "":
		return []string{p.dir + " has no package comment"}
	case strings.Count(text, ".") < 2:
		return []string{p.dir + ": the package comment is a single sentence: say what it is, what it never does, how it is used"}
	case !strings.Contains(strings.ToLower(text), "never") && !strings.Contains(text, " no ") && !strings.Contains(text, " not ") && !strings.Contains(text, "nothing"):
		return []string{p.dir + ": the package comment does not say what the package never does"}
	}
	return nil
}

func exportedDoc(p *pack) (found []string) {
	missing := func(pos token.Pos, name string) {
		found = append(found, fmt.Sprintf("%s: %s is exported and not documented", p.at(pos), name))
	}
	for _, f := range p.files {
		if f.test {
			continue
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || ast.IsExported(receiver(d))) {
					missing(d.Pos(), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						if s.Name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
							missing(s.Pos(), s.Name.Name)
						}
					case *ast.ValueSpec:
						for _, n := range s.Names {
							if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
								missing(n.Pos(), n.Name)
							}
						}
					}
				}
			}
		}
	}
	return found
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// noGlobals allows error sentinels, go:embed, compile-time checks of interfaces,
// and what a comment "tidy:constant REASON" declares to be a constant that the
// language cannot say.
func noGlobals(p *pack) (found []string) {
	for _, f := range p.files {
		if f.test {
			continue
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, fmt.Sprintf("%s: init runs before anybody asked", p.at(fn.Pos())))
			}
			gen, ok := d.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			for _, s := range gen.Specs {
				v := s.(*ast.ValueSpec)
				excused := marked(gen.Doc) || marked(v.Doc) || marked(v.Comment)
				for i, n := range v.Names {
					check := n.Name == "_" && v.Type != nil
					sentinel := i < len(v.Values) && isSentinel(v.Values[i])
					if !check && !sentinel && !excused {
						found = append(found, fmt.Sprintf("%s: package variable %s", p.at(n.Pos()), n.Name))
					}
				}
			}
		}
	}
	return found
}

// marked reports a comment that excuses a variable: go:embed, or tidy:constant with a reason.
func marked(c *ast.CommentGroup) bool {
	if c == nil {
		return false
	}
	for _, line := range c.List {
		if strings.HasPrefix(line.Text, "//go:embed ") || strings.HasPrefix(line.Text, "//tidy:constant ") {
			return true
		}
	}
	return false
}

// isSentinel reports errors.New(...) and &problem.Problem{...}.
func isSentinel(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CallExpr:
		return isSelector(e.Fun, "errors", "New")
	case *ast.UnaryExpr:
		lit, ok := e.X.(*ast.CompositeLit)
		return ok && isSelector(lit.Type, "problem", "Problem")
	}
	return false
}

func isSelector(e ast.Expr, x, sel string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != sel {
		return false
	}
	id, ok := s.X.(*ast.Ident)
	return ok && id.Name == x
}

func lines(p *pack, n ast.Node) int {
	return p.fset.Position(n.End()).Line - p.fset.Position(n.Pos()).Line + 1
}

func functionsFit(p *pack) (found []string) {
	for _, f := range p.files {
		if f.test {
			continue // tables of cases are long
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || longOnPurpose()[path.Join(p.dir, f.name)+" "+fn.Name.Name] != "" {
				continue
			}
			if n := lines(p, fn); n > maxFunction {
				found = append(found, fmt.Sprintf("%s: %s has %d lines, at most %d", p.at(fn.Pos()), fn.Name.Name, n, maxFunction))
			}
		}
	}
	return found
}

func filesFit(p *pack) (found []string) {
	for _, f := range p.files {
		if n := p.fset.File(f.FileStart).LineCount(); n > maxFile && longOnPurpose()[path.Join(p.dir, f.name)] == "" {
			found = append(found, fmt.Sprintf("%s/%s has %d lines, at most %d", p.dir, f.name, n, maxFile))
		}
	}
	return found
}

func packageNames(p *pack) (found []string) {
	for _, part := range strings.Split(p.dir, "/") {
		if slices.Contains([]string{"util", "utils", "common", "types", "pkg", "helper", "helpers", "misc", "shared", "base"}, part) {
			found = append(found, fmt.Sprintf("%s: %q says nothing about what it does", p.dir, part))
		}
	}
	return found
}

func noMarks(p *pack) (found []string) {
	for _, f := range p.files {
		for _, group := range f.Comments {
			for _, c := range group.List {
				for _, mark := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:", "HA" + "CK"} {
					if strings.Contains(c.Text, mark) {
						found = append(found, fmt.Sprintf("%s: %s; open an issue instead", p.at(c.Pos()), mark))
					}
				}
			}
		}
	}
	return found
}

func noDefaultLog(p *pack) (found []string) {
	for _, f := range p.files {
		if f.test {
			continue
		}
		for _, spec := range f.Imports {
			if importPath(spec) == "log" {
				found = append(found, fmt.Sprintf("%s: package log has one global logger; take a *slog.Logger", p.at(spec.Pos())))
			}
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			for _, name := range []string{"Default", "SetDefault", "Debug", "Info", "Warn", "Error", "Log"} {
				if e, ok := n.(ast.Expr); ok && isSelector(e, "slog", name) {
					found = append(found, fmt.Sprintf("%s: slog.%s is the global logger; take a *slog.Logger", p.at(n.Pos()), name))
				}
			}
			return true
		})
	}
	return found
}

func importPath(spec *ast.ImportSpec) string {
	name, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return spec.Path.Value
	}
	return name
}

func itoa(n int) string { return strconv.Itoa(n) }
