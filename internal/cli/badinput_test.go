package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"revolve/internal/problem"
)

// badWords are what a hand that slips, a script with an empty variable, or somebody who tries gives.
func badWords() []string {
	return []string{"", "99999999999999999999999", "\x00", "\xff\x1b[2J\na", "../x", strings.Repeat("x", 5000)}
}

// answersAnything are the commands that need no node, or for which no word is wrong (man writes into any directory). The demo makes a cluster, and libvirt
// gives its hook any words, which must not keep it from a machine of others; what they refuse is in TestEveryFailureHasAHint and vm.txtar.
func answersAnything(command string) bool {
	return slices.Contains([]string{"version", "demo", "config schema", "man", "vm hook"}, command)
}

// Every flag and every argument of every command is given what it is not made for: it is refused with a
// next step, nothing is answered as if it were right, and what is printed does not take the terminal over.
func TestBadWordsInEveryFlag(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: bad words in every flag (-short)")
	}
	dir := filepath.Join(t.TempDir(), "below")
	must(t, os.Mkdir(dir, 0o700))
	t.Chdir(dir) // what is a path to a command is made here
	none := filepath.Join(t.TempDir(), "none")
	model, err := commandModel()
	must(t, err)
	tried := 0
	for _, leaf := range model.Leaves(true) { // without what is hidden: nobody types it
		command := strings.TrimSpace(strings.TrimPrefix(leaf.Path(), "revolve"))
		if answersAnything(command) {
			continue
		}
		for _, bad := range badWords() {
			for _, line := range badLines(leaf, bad) {
				line = append(strings.Fields(command), line...)
				refusedWords(t, append([]string{"revolve", "--state", none}, line...))
				tried++
			}
		}
	}
	t.Logf("%d command lines", tried)
	if tried < 600 {
		t.Errorf("only %d command lines were tried", tried)
	}
}

// badLines are the command's words with the bad one in each flag in turn, and in all that it needs.
func badLines(leaf *kong.Node, bad string) (lines [][]string) {
	var needs, args []string
	for _, p := range leaf.Positional {
		args = append(args, bad)
		if p.IsCumulative() {
			args = append(args, bad)
		}
	}
	for _, f := range leaf.Flags {
		if f.Required {
			needs = append(needs, "--"+f.Name+"="+bad)
		}
	}
	tail := append([]string{"--"}, args...)
	lines = append(lines, slices.Concat(needs, tail))
	for _, f := range leaf.Flags {
		if !f.Hidden && !f.Required {
			lines = append(lines, slices.Concat(needs, []string{"--" + f.Name + "=" + bad}, tail))
		}
	}
	return lines
}

func refusedWords(t *testing.T, line []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out, errs strings.Builder
	status := Main(ctx, line, strings.NewReader("\x00no\n"), &out, &errs)
	switch {
	case ctx.Err() != nil:
		t.Errorf("%.200q goes on", line)
	case status == 0 || status == problem.Internal.ExitStatus():
		t.Errorf("%.200q: exit %d\n%.500s%.500s", line, status, out.String(), errs.String())
	case out.Len() == 0 && !strings.Contains(errs.String(), "hint: "):
		t.Errorf("%.200q: exit %d, and no hint: %.500q", line, status, errs.String())
	}
	if text := out.String() + errs.String(); strings.ContainsAny(text, "\x00\x1b") || !utf8.ValidString(text) {
		t.Errorf("%.200q: the terminal gets %.500q", line, text)
	}
}

func TestVisible(t *testing.T) {
	if got, want := visible("é\tü\n\x1b[2J\x9b1m\u009b\u202e\x00"), "é\tü\n\\x1b[2J\\x9b1m\\u009b\\u202e\\x00"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

// Only the whole word agrees, and an input without an end is not read to it.
func TestAgreed(t *testing.T) {
	for answer, want := range map[string]bool{"yes\n": true, " yes ": true, "yes\r\n": true, "": false, "\n": false, "y\n": false, "YES\n": false, "no\nyes\n": false, "yes please\n": false, "\x00yes\n": false,
		"yes\x1b[2J\n": false, "\xffyes": false, "yes" + strings.Repeat(" ", maxAnswer): false} {
		if got := (&env{stdin: strings.NewReader(answer), stderr: io.Discard}).agreed("?"); got != want {
			t.Errorf("%q: %v", answer, got)
		}
	}
	endless := strings.NewReader(strings.Repeat("y", 1<<20))
	(&env{stdin: endless, stderr: io.Discard}).agreed("?")
	if read := 1<<20 - endless.Len(); read > maxAnswer {
		t.Errorf("%d bytes of an answer were read", read)
	}
}
