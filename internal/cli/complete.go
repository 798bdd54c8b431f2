package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"revolve/internal/alarm"
	"revolve/internal/control"
	"revolve/internal/problem"
)

type completionCommand struct {
	Shell string `arg:"" help:"bash, zsh or fish."`
}

// Help is printed under the usage.
func (completionCommand) Help() string {
	return "Prints what makes the shell complete commands, flags, nodes, volumes and sets: eval \"$(revolve completion bash)\" in ~/.bashrc; the same with zsh in ~/.zshrc; for fish: revolve completion fish > ~/.config/fish/completions/revolve.fish"
}

// completionScript asks the program itself for every word: it knows its commands best.
func completionScript(shell string) (string, bool) {
	const bash = `_revolve() {
  local IFS=$'\n'
  COMPREPLY=($(revolve complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  [ ${#COMPREPLY[@]} -gt 0 ] || compopt -o default 2>/dev/null
}
complete -F _revolve revolve
`
	switch shell {
	case "bash":
		return bash, true
	case "zsh":
		return "autoload -U +X bashcompinit && bashcompinit\n" + bash, true
	case "fish":
		return "complete -c revolve -a '(revolve complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'\n", true
	}
	return "", false
}

// Run prints the script.
func (c *completionCommand) Run(_ context.Context, e *env) error {
	script, ok := completionScript(c.Shell)
	if !ok {
		return &problem.Problem{Op: "complete for", Kind: problem.Invalid, Subject: c.Shell, Err: errors.New("unknown shell"), Hint: "bash, zsh or fish"}
	}
	return e.answer(map[string]string{"script": script}, script)
}

type completeCommand struct {
	Words []string `arg:"" optional:"" passthrough:"" help:"The words so far; the last one is being typed."`
}

// completeWithin bounds how long the agent may be asked: a person waits for the key.
const completeWithin = 300 * time.Millisecond

// Run prints what the last word may become, one a line. It never fails: a shell has nowhere to say so.
func (c *completeCommand) Run(ctx context.Context, e *env) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if len(words) == 0 {
		words = []string{""}
	}
	var all commands
	parser, err := kong.New(&all, kong.Name("revolve"), vars(), kong.NoDefaultHelp())
	if err != nil {
		return err
	}
	node, args, state := walked(parser.Model.Node, words[:len(words)-1])
	if state != "" {
		e.state = state
	}
	last := words[len(words)-1]
	for _, word := range candidates(ctx, e, node, args, last) {
		if strings.HasPrefix(word, last) {
			fmt.Fprintln(e.stdout, word)
		}
	}
	return nil
}

// walked follows the words to the command that they name; args are the
// positional ones behind it.
func walked(node *kong.Node, words []string) (at *kong.Node, args []string, state string) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w == "--state" && i+1 < len(words) {
			state = words[i+1]
		}
		if strings.HasPrefix(w, "-") {
			if f := flagOf(node, w); f != nil && !f.IsBool() && !strings.Contains(w, "=") {
				i++ // its value
			}
			continue
		}
		k := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == w && !n.Hidden })
		if k < 0 {
			args = append(args, w)
			continue
		}
		node = node.Children[k]
	}
	return node, args, state
}

func flagOf(node *kong.Node, word string) *kong.Flag {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if f.Name == name {
				return f
			}
		}
	}
	return nil
}

func candidates(ctx context.Context, e *env, node *kong.Node, args []string, last string) (words []string) {
	if strings.HasPrefix(last, "-") {
		for n := node; n != nil; n = n.Parent {
			for _, f := range n.Flags {
				if !f.Hidden {
					words = append(words, "--"+f.Name)
				}
			}
		}
		return words
	}
	for _, n := range node.Children {
		if !n.Hidden {
			words = append(words, n.Name)
		}
	}
	if len(args) < len(node.Positional) {
		ctx, cancel := context.WithTimeout(ctx, completeWithin)
		defer cancel()
		words = append(words, named(ctx, e, node.Positional[len(args)].Name)...)
	}
	return words
}

// named are the things that the running agent knows of a kind.
func named(ctx context.Context, e *env, kind string) (words []string) {
	if kind == "command" {
		pages, err := manPages()
		if err != nil {
			return nil
		}
		for _, p := range pages {
			words = append(words, strings.TrimPrefix(p.Name, "revolve-"))
		}
		return words
	}
	if kind == "shell" {
		return []string{"bash", "zsh", "fish"}
	}
	if kind == "alarm" {
		for _, k := range alarm.Kinds() {
			words = append(words, k.Name)
		}
		return append(words, alarm.All)
	}
	if kind == "switch" {
		return []string{"on", "off"}
	}
	if kind == "set" {
		list, err := control.Dial(e.state).Divergent(ctx)
		if err != nil {
			return nil
		}
		for _, d := range list {
			if !slices.Contains(words, d.Set) {
				words = append(words, d.Set)
			}
		}
		return words
	}
	if kind != "node" && kind != "volume" {
		return nil
	}
	st, err := control.Dial(e.state).Status(ctx)
	if err != nil {
		return nil
	}
	if kind == "volume" {
		for _, v := range st.Volumes {
			words = append(words, string(v.Name))
		}
		return words
	}
	for _, n := range st.Nodes {
		words = append(words, string(n.Name))
	}
	return words
}
