package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/config"
	"revolve/internal/doctor"
	"revolve/internal/problem"
	"revolve/internal/setup"
	"revolve/internal/setup/survey"
)

// This file is how the answers come together from which init makes a configuration: flags first, then a person.

const opMake = "make configuration"

// anew makes a cluster whose configuration does not exist yet.
func (c *initCommand) anew(ctx context.Context, e *env) error {
	if !c.Print {
		if err := c.mayMake(e); err != nil {
			return err
		}
	}
	machine, err := survey.Machine(e.state)
	if err != nil {
		return err
	}
	d := &dialogue{e: e, form: setup.New(machine), given: c.given(), facts: factsOf}
	if err := c.answers(ctx, d); err != nil {
		return err
	}
	text := d.form.Answers.File()
	cfg, err := config.Parse(c.Out, []byte(text))
	if err != nil {
		return &problem.Problem{Op: opMake, Kind: problem.Internal, Subject: c.Out, Err: err, Hint: "report it, with what revolve init --print says; or write the file by hand: man revolve.yaml"}
	}
	c.Node = d.form.Answers.Node
	if c.Print {
		return e.answer(map[string]string{"config": text}, text)
	}
	if d.asked {
		if err := d.agree(ctx, c.Out); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return interrupted()
	}
	return c.make(e, cfg, text, d.form)
}

// given are the flags, by their topics.
func (c *initCommand) given() map[setup.Topic][]string {
	given := map[setup.Topic][]string{}
	for t, text := range map[setup.Topic]string{setup.Cluster: c.Cluster, setup.Node: c.Node, setup.Interface: c.Interface, setup.VIP: c.VIP, setup.Directory: c.Volume} {
		if text != "" {
			given[t] = []string{text}
		}
	}
	if len(c.Other) > 0 {
		given[setup.Others] = c.Other
	}
	return given
}

// answers brings them together: of flags and, on a terminal, of a person.
func (c *initCommand) answers(ctx context.Context, d *dialogue) error {
	in, terminal := d.e.stdin.(*os.File)
	terminal = terminal && isTerminal(in) && isTerminal(d.e.stderr) && !d.e.json
	if c.Yes || !terminal || d.complete() {
		return d.fromFlags()
	}
	d.line = terminalLine(in)
	return d.ask(ctx)
}

// dialogue fills a form.
type dialogue struct {
	e     *env
	form  *setup.Form
	given map[setup.Topic][]string
	facts func(*setup.Form, setup.Topic, string) setup.Facts
	line  func(context.Context) (string, error) // what a person typed
	asked bool
}

// complete reports whether the flags say all that must be known.
func (d *dialogue) complete() bool {
	for _, t := range d.form.Missing() {
		if len(d.given[t]) == 0 {
			return false
		}
	}
	return true
}

// fromFlags takes what the flags say. Everything that is wrong or missing is said at once.
func (d *dialogue) fromFlags() error {
	var wrong, missing []string
	for _, t := range setup.Topics() {
		if len(d.given[t]) == 0 {
			if t != setup.Others {
				missing = append(missing, t.Flag()+"="+t.Form())
			}
			continue
		}
		if len(missing)+len(wrong) > 0 && t > setup.Interface && !d.known(setup.Interface) {
			continue // it is checked against the interface
		}
		for _, text := range d.given[t] {
			if err := d.form.Take(t, text, d.facts(d.form, t, text)); err != nil {
				wrong = append(wrong, t.Flag()+" "+err.Error())
			}
		}
	}
	if len(missing) > 0 {
		wrong = append(wrong, "missing flags: "+strings.Join(missing, ", "))
	}
	if len(wrong) == 0 {
		return nil
	}
	hint := "correct what is named; without --yes, on a terminal, revolve init asks for it"
	if words := d.proposed(); words != "" {
		hint = "for example" + words + "; on a terminal revolve init asks"
	}
	return &problem.Problem{Op: opMake, Kind: problem.Invalid, Err: errors.New(strings.Join(wrong, "\n")), Hint: hint}
}

func (d *dialogue) known(t setup.Topic) bool {
	for _, m := range d.form.Missing() {
		if m == t {
			return false
		}
	}
	return true
}

// proposed are the flags that are missing, with what could be said.
func (d *dialogue) proposed() (words string) {
	for _, t := range d.form.Missing() {
		text := d.form.Propose(t, nil).Text
		if t == setup.Interface {
			_ = d.form.Take(t, text, setup.Facts{}) // the address below is one of it
		}
		if text == "" {
			text = t.Form()
		}
		words += " " + t.Flag() + " " + text
	}
	return words
}

// factsOf finds out what an answer has to be checked against.
func factsOf(f *setup.Form, t setup.Topic, text string) (facts setup.Facts) {
	switch t {
	case setup.VIP:
		if addr, _, err := setup.ParseVIP(strings.TrimSpace(text)); err == nil && addr.Zone() == "" {
			facts.Holder, _ = doctor.WhoHas(f.Answers.Card, addr) // without privileges nobody is asked
		}
	case setup.Directory:
		if _, dir := setup.SplitVolume(strings.TrimSpace(text)); strings.HasPrefix(dir, "/") {
			facts.Place = survey.Look(dir)
		}
	}
	return facts
}

// ask asks a person for what no flag says, each until the answer can be taken.
func (d *dialogue) ask(ctx context.Context) error {
	d.say("This makes a new cluster, of which this machine is the first node. What it finds here is proposed in [ ]: Enter takes it. Ctrl-C ends it, and nothing is made.\n")
	for _, t := range setup.Topics() {
		for _, text := range d.given[t] {
			if err := d.form.Take(t, text, d.facts(d.form, t, text)); err != nil {
				return &problem.Problem{Op: opMake, Kind: problem.Invalid, Err: errors.New(t.Flag() + " " + err.Error()), Hint: "correct " + t.Flag() + ", or leave it out: then it is asked for"}
			}
		}
		if len(d.given[t]) > 0 {
			continue
		}
		for more, again := true, false; more; again = true {
			var err error
			if more, err = d.question(ctx, t, again); err != nil {
				return err
			}
		}
	}
	for _, note := range d.form.Advice() {
		d.say("note: " + note + "\n")
	}
	return nil
}

// question asks once, and reports whether to ask again: the answer was wrong, or there may be another.
func (d *dialogue) question(ctx context.Context, t setup.Topic, again bool) (more bool, err error) {
	d.asked = true
	p := d.propose(t, again)
	prompt := t.Question()
	if p.Text != "" {
		prompt += " [" + p.Text + "]"
	}
	d.say(prompt + ": ")
	text, err := d.line(ctx)
	if err != nil {
		return false, err
	}
	text = strings.TrimSpace(text)
	if text == "" && t == setup.Others {
		return false, nil
	}
	if text == "" {
		text = p.Text
	}
	var wrong *setup.Mistake
	if err := d.form.Take(t, text, d.facts(d.form, t, text)); errors.As(err, &wrong) {
		d.say("  " + wrong.What + "\n  " + wrong.Right + "\n")
		return true, nil
	}
	return t == setup.Others, nil
}

// propose also shows, the first time, what there is to choose from.
func (d *dialogue) propose(t setup.Topic, again bool) setup.Proposal {
	taken := func(a netip.Addr) bool {
		return d.facts(d.form, t, a.String()).Holder != ""
	}
	p := d.form.Propose(t, taken)
	if again {
		return p
	}
	var lines []string
	switch t {
	case setup.Interface:
		for _, c := range d.form.Cards() {
			lines = append(lines, c.Text())
		}
	case setup.Directory:
		lines = d.form.Places()
	}
	for _, l := range lines {
		d.say("  " + l + "\n")
	}
	return p
}

func (d *dialogue) say(text string) { fmt.Fprint(d.e.stderr, visible(text)) }

// agree asks once more before anything is made.
func (d *dialogue) agree(ctx context.Context, out string) error {
	d.say("Write " + out + " and make the cluster? [yes]: ")
	text, err := d.line(ctx)
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "", "y", "yes":
		return nil
	}
	return &problem.Problem{Op: opMake, Kind: problem.Invalid, Err: errors.New("not agreed to; nothing was made"), Hint: "revolve init asks anew; --print shows the file before"}
}

func interrupted() error {
	return &problem.Problem{Op: opMake, Kind: problem.Invalid, Err: errors.New("it was interrupted; nothing was made"), Hint: "revolve init begins anew"}
}

// maxLine is more than a terminal gives as one line (N_TTY_BUF_SIZE, termios(3)).
const maxLine = 4096

// terminalLine reads a line of a terminal; the wait for it ends with ctx.
func terminalLine(in *os.File) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		var line []byte
		for !bytes.HasSuffix(line, []byte("\n")) && len(line) < maxLine {
			fds := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}
			n, _ := unix.Poll(fds, int(keyEvery.Milliseconds()))
			if ctx.Err() != nil {
				return "", interrupted()
			}
			if n <= 0 {
				continue
			}
			var b [maxLine]byte
			got, err := in.Read(b[:])
			if err != nil && !errors.Is(err, io.EOF) || got == 0 {
				return "", &problem.Problem{Op: opMake, Kind: problem.Invalid, Err: errors.New("the input ended before all was answered; nothing was made"), Hint: "revolve init begins anew; in a script give the flags: revolve init --help"}
			}
			line = append(line, b[:got]...)
		}
		return string(line), nil
	}
}
