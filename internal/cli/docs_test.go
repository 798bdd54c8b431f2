package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Commands are found in the pages as a line of a block, and as a span inside a sentence.
var (
	blockLine = regexp.MustCompile(`^(?:    |\t)?(?:\S+# )?(?:sudo )?(?:go run \./cmd/|\./|dist/|\./dist/)?revolve ([a-z-].*)$`) //tidy:constant a pattern
	codeSpan  = regexp.MustCompile("`(?:sudo )?revolve ([a-z-][^`]*)`")                                                          //tidy:constant a pattern
)

// whatFollows is what belongs to the shell or to the reader, not to the command.
var whatFollows = regexp.MustCompile(`\s#.*|\s── .*| \| .*| > .*| && .*|; .*`) //tidy:constant a pattern

// Every command that the documentation says is one that the program takes, word for word. Those that
// bring up a cluster are run, too: test/packages follows README.md and docs/install.md, and types those of the other pages.
func TestCommandsOfTheDocumentation(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	must(t, err)
	takes := understanding(t)
	lines, spans := 0, 0
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md") {
		b, err := os.ReadFile(page)
		must(t, err)
		inBlock := false
		for i, line := range strings.Split(string(b), "\n") {
			inBlock = inBlock != strings.HasPrefix(strings.TrimSpace(line), "```")
			if m := blockLine.FindStringSubmatch(line); m != nil && (inBlock || strings.HasPrefix(line, "    ")) {
				lines++
				if err := takes(m[1], false); err != nil {
					t.Errorf("%s:%d: revolve %s: %v", filepath.Base(page), i+1, m[1], err)
				}
			}
			for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
				spans++
				if err := takes(m[1], true); err != nil {
					t.Errorf("%s:%d: revolve %s: %v", filepath.Base(page), i+1, m[1], err)
				}
			}
		}
	}
	t.Logf("%d lines and %d spans", lines, spans)
	if lines < 20 || spans < 100 {
		t.Errorf("only %d lines and %d spans with commands were found", lines, spans)
	}
}

// understanding is a function that is nil if the program takes the words. part: a sentence may leave out what a command needs.
func understanding(t *testing.T) func(words string, part bool) error {
	t.Helper()
	var all commands // one parser for all: it forgets what it parsed before
	parser, err := kong.New(&all, kong.Name("revolve"), vars(), kong.NoDefaultHelp(), kong.Exit(func(int) {}), kong.Help(func(kong.HelpOptions, *kong.Context) error { return nil }))
	must(t, err)
	return func(words string, part bool) error { return understood(parser, words, part) }
}

func understood(parser *kong.Kong, words string, part bool) error {
	words = strings.NewReplacer("[", "", "]", "", `"`, "", "'", "").Replace(whatFollows.ReplaceAllString(words, ""))
	_, err := parser.Parse(strings.Fields(words))
	if err == nil || part && leftOut(err) {
		return nil
	}
	if strings.Contains(err.Error(), errHelp.Error()) {
		return nil
	}
	return err
}

// leftOut says that the words are right as far as they go.
func leftOut(err error) bool {
	text := err.Error()
	return strings.HasPrefix(text, "expected ") || strings.HasPrefix(text, "missing flags") || strings.HasPrefix(text, "missing positional")
}

func TestCommandsThatAreNotTaken(t *testing.T) {
	takes := understanding(t)
	for _, words := range []string{"frobnicate", "status --wach", "hold on off", "config aply FILE"} {
		if takes(words, true) == nil {
			t.Errorf("revolve %s is taken", words)
		}
	}
	if err := takes("config apply FILE", false); err != nil {
		t.Error(err)
	}
	if takes("config apply", false) == nil {
		t.Error("revolve config apply is taken without a file")
	}
}
