package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"revolve/internal/config"
	"revolve/internal/problem"
)

type manCommand struct {
	Command []string `arg:"" optional:"" help:"The command; revolve.yaml for the configuration; without one, revolve itself."`
	Out     string   `placeholder:"DIR" help:"Write all pages there instead."`
}

// Help is printed under the usage.
func (manCommand) Help() string {
	return "Prints a manual page, made from what --help shows: revolve man status | man -l -. With --out they can be installed: revolve man --out /usr/local/share/man"
}

// manAnswer is a page with --json.
type manAnswer struct {
	Name    string `json:"name"`
	Section int    `json:"section"`
	Roff    string `json:"roff"`
}

// Run prints a page, or writes all.
func (c *manCommand) Run(_ context.Context, e *env) error {
	pages, err := manPages()
	if err != nil {
		return err
	}
	if c.Out != "" {
		return writePages(e, c.Out, pages)
	}
	name := strings.Join(append([]string{"revolve"}, c.Command...), "-")
	if len(c.Command) == 1 && c.Command[0] == configPage {
		name = configPage
	}
	i := slices.IndexFunc(pages, func(p manAnswer) bool { return p.Name == name })
	if i < 0 && len(c.Command) > 1 { // a part of a command is on its page
		i = slices.IndexFunc(pages, func(p manAnswer) bool { return p.Name == "revolve-"+c.Command[0] })
	}
	if i < 0 {
		return &problem.Problem{Op: "print the manual of", Kind: problem.NotFound, Subject: strings.Join(c.Command, " "), Err: errors.New("there is no such command"), Hint: "revolve --help lists them"}
	}
	return e.answer(pages[i], pages[i].Roff)
}

func writePages(e *env, dir string, pages []manAnswer) error {
	written := []string{}
	for _, p := range pages {
		sub := filepath.Join(dir, fmt.Sprintf("man%d", p.Section))
		path := filepath.Join(sub, fmt.Sprintf("%s.%d", p.Name, p.Section))
		err := os.MkdirAll(sub, 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(p.Roff), 0o644)
		}
		if err != nil {
			kind := problem.Unavailable
			if errors.Is(err, fs.ErrPermission) {
				kind = problem.Permission
			}
			return &problem.Problem{Op: "write manual page", Kind: kind, Subject: path, Err: err, Hint: "name a directory that you may write to: --out DIR"}
		}
		written = append(written, path)
	}
	return e.answer(map[string][]string{"written": written}, strings.Join(written, "\n"))
}

const (
	configPage = "revolve.yaml"
	// manDate is that of the texts; what a page says is of its program's version.
	manDate = "2026-11-26"
)

// manPages are all pages: revolve, each of its commands, the configuration.
func manPages() ([]manAnswer, error) {
	model, err := commandModel()
	if err != nil {
		return nil, err
	}
	pages := []manAnswer{{"revolve", 1, programPage(model)}}
	for _, n := range model.Children {
		if !n.Hidden {
			pages = append(pages, manAnswer{"revolve-" + n.Name, 1, commandPage(n)})
		}
	}
	text, err := configurationPage(config.Schema())
	return append(pages, manAnswer{configPage, 5, text}), err
}

// commandModel is the command line as kong understands it.
func commandModel() (*kong.Node, error) {
	var all commands
	parser, err := kong.New(&all, kong.Name("revolve"), kong.Description(description), vars(), kong.NoDefaultHelp())
	if err != nil {
		return nil, &problem.Problem{Op: "build the command line", Kind: problem.Internal, Err: err, Hint: "report it"}
	}
	return parser.Model.Node, nil
}

// roff is a page in the making, in man(7).
type roff struct{ b strings.Builder }

func newPage(name string, section int, what string) *roff {
	p := &roff{}
	fmt.Fprintf(&p.b, ".TH %s %d %s revolve \"Revolve Manual\"\n", strings.ToUpper(escaped(name)), section, manDate)
	p.section("NAME")
	fmt.Fprintf(&p.b, "%s \\- %s\n", escaped(name), escaped(strings.TrimSuffix(what, ".")))
	return p
}

func (p *roff) section(name string)    { fmt.Fprintf(&p.b, ".SH %s\n", name) }
func (p *roff) subsection(name string) { fmt.Fprintf(&p.b, ".SS %s\n", name) }

func (p *roff) text(s string) { p.b.WriteString(escaped(s) + "\n") }

// item is a term, in bold, and what it means.
func (p *roff) item(term, meaning string) {
	fmt.Fprintf(&p.b, ".TP\n\\fB%s\\fR\n%s\n", escaped(term), escaped(cmp.Or(meaning, "No more is said.")))
}

// escaped is text that roff takes for nothing but text (roff(7)).
func escaped(s string) string {
	s = strings.NewReplacer("\\", "\\e", "-", "\\-", "\n", " ").Replace(strings.TrimSpace(s))
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = "\\&" + s
	}
	return s
}

func programPage(n *kong.Node) string {
	p := newPage("revolve", 1, "a few machines, one cluster that keeps serving")
	p.section("SYNOPSIS")
	p.b.WriteString("\\fBrevolve\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n")
	p.section("DESCRIPTION")
	p.text(n.Help)
	p.section("COMMANDS")
	for _, c := range n.Children {
		if !c.Hidden {
			p.item("revolve "+c.Name, c.Help)
		}
	}
	p.section("OPTIONS")
	p.flags(n.Flags)
	p.statuses(nil)
	p.section("FILES")
	p.item(defaultState, "The state directory: identity, term, journal, the socket of the agent.")
	p.item("VOLUME/.revolve", "Staging, trash and divergent changes of a volume. Never mirrored.")
	p.section("ENVIRONMENT")
	p.item("NO_COLOR", "No colours, if it is set.")
	p.item("TERM", "If it is dumb, a live view prints a block for every change instead of drawing.")
	p.also(n, "")
	return p.b.String()
}

func commandPage(n *kong.Node) string {
	p := newPage("revolve-"+n.Name, 1, n.Help)
	p.section("SYNOPSIS")
	leaves := n.Leaves(true)
	if n.Leaf() {
		leaves = []*kong.Node{n}
	}
	for i, l := range leaves {
		if i > 0 {
			p.b.WriteString(".br\n")
		}
		p.text("revolve " + synopsis(l))
	}
	p.section("DESCRIPTION")
	p.text(cmp.Or(n.Detail, n.Help))
	for _, l := range leaves {
		if l != n {
			p.subsection(escaped(l.Path()))
			p.text(strings.TrimSpace(l.Help + " " + l.Detail))
		}
		for _, a := range l.Positional {
			p.item(strings.ToUpper(a.Name), a.Help)
		}
		if l != n {
			p.flags(l.Flags)
		}
	}
	p.section("OPTIONS")
	if n.Leaf() {
		p.flags(n.Flags)
	}
	p.flags(n.Parent.Flags)
	p.statuses(leaves)
	p.also(n.Parent, n.Name)
	return p.b.String()
}

// synopsis is a command on one line.
func synopsis(n *kong.Node) string {
	words := []string{n.Path()}
	for _, f := range n.Flags {
		switch text := flagText(f); {
		case f.Hidden:
		case f.Required:
			words = append(words, text)
		default:
			words = append(words, "["+text+"]")
		}
	}
	for _, a := range n.Positional {
		name := strings.ToUpper(a.Name)
		if a.IsSlice() {
			name += "..."
		}
		if !a.Required {
			name = "[" + name + "]"
		}
		words = append(words, name)
	}
	return strings.Join(words, " ")
}

func flagText(f *kong.Flag) string {
	if f.IsBool() {
		return "--" + f.Name
	}
	return fmt.Sprintf("--%s=%s", f.Name, cmp.Or(f.PlaceHolder, strings.ToUpper(f.Name)))
}

func (p *roff) flags(flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		text := flagText(f)
		if f.Short != 0 {
			text = fmt.Sprintf("-%c, %s", f.Short, text)
		}
		p.item(text, f.Help)
	}
}

func (p *roff) statuses(leaves []*kong.Node) {
	p.section("EXIT STATUS")
	rows := exitStatuses()
	for _, l := range leaves {
		if own, ok := l.Target.Addr().Interface().(verdicts); ok {
			rows = append(rows[:1:1], append(own.exitStatuses(), rows[1:]...)...)
		}
	}
	for _, r := range rows {
		p.item(fmt.Sprint(r.status), r.meaning)
	}
}

// also names the other pages.
func (p *roff) also(program *kong.Node, but string) {
	p.section("SEE ALSO")
	var names []string
	if but != "" {
		names = append(names, "revolve(1)")
	}
	for _, c := range program.Children {
		if !c.Hidden && c.Name != but {
			names = append(names, "revolve-"+c.Name+"(1)")
		}
	}
	p.text(strings.Join(append(names, configPage+"(5)"), ", "))
}
