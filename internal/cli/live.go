package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/problem"
)

// This file is what changes under a reader's eyes: status --watch.

const (
	// watchEvery is how often a live view looks: a person sees no more, and the agent answers from memory.
	watchEvery = time.Second
	// keyEvery bounds how long a signal to end may wait behind a key that is not pressed.
	keyEvery = 100 * time.Millisecond
)

// watchStatus shows the status until ctx ends or q is pressed; it outlives the agent.
func watchStatus(ctx context.Context, e *env) error {
	v := &view{e: e, screen: openScreen(e)}
	defer v.screen.close()
	client := control.Dial(e.state)
	for {
		s, err := client.Status(ctx)
		if ctx.Err() != nil {
			return exitWith(v.verdict())
		}
		if err := v.show(v.known(s, err, time.Now()), time.Now()); err != nil {
			return err
		}
		if !v.screen.wait(ctx) {
			return exitWith(v.verdict())
		}
	}
}

const noAnswerSince = "no answer since "

// view remembers what was shown.
type view struct {
	e        *env
	screen   *screen
	last     control.Status
	answered time.Time
	shown    string // what was printed last, without what changes all the time
}

func (v *view) verdict() string {
	if v.last.Verdict == "" {
		return control.Unknown
	}
	return v.last.Verdict
}

// known is the answer, or what was known last under a verdict that says so.
func (v *view) known(s control.Status, err error, now time.Time) control.Status {
	if err == nil {
		v.answered = now
		return s
	}
	s = noAnswer(err)
	if v.answered.IsZero() {
		return s
	}
	s.Reasons = slices.Insert(s.Reasons, 0, fmt.Sprintf(noAnswerSince+"%s (%s); what follows is what was known then", v.answered.Format(time.TimeOnly), ago(v.answered, now)))
	s.Cluster, s.Node, s.Term, s.Nodes, s.VIPs, s.Volumes = v.last.Cluster, v.last.Node, v.last.Term, v.last.Nodes, v.last.VIPs, v.last.Volumes
	return s
}

func (v *view) show(s control.Status, now time.Time) error {
	v.last = s
	switch {
	case v.e.json:
		return v.e.answer(s, "")
	case v.screen.out != nil:
		return v.screen.draw(statusText(s, now), s.Verdict)
	}
	if steady := steadyPart(s); steady != v.shown {
		between := ""
		if v.shown != "" {
			between = "\n"
		}
		v.shown = steady
		return v.e.answer(nil, between+now.Format(time.DateTime)+"  "+statusText(s, now))
	}
	return nil
}

// steadyPart is a status without what changes all the time: a new block is printed when it differs.
func steadyPart(s control.Status) string {
	type row struct{ A, B, C, D any }
	rows := []row{{A: s.Verdict, B: s.Master, C: s.Term}}
	for _, r := range s.Reasons {
		if !strings.HasPrefix(r, noAnswerSince) {
			rows = append(rows, row{A: r})
		}
	}
	for _, n := range s.Nodes {
		rows = append(rows, row{n.Name, n.State, n.Role, []any{n.InSync, n.Eligible, n.Hold, n.Maintenance, n.Links}})
	}
	for _, a := range s.VIPs {
		rows = append(rows, row{A: a.Address, B: a.Holder})
	}
	for _, v := range s.Volumes {
		for _, sb := range v.Standbys {
			rows = append(rows, row{v.Name, v.State, sb.Node, sb.State})
		}
	}
	b, _ := json.Marshal(rows) // strings, numbers and lists of them: it cannot fail
	return string(b)
}

// screen is a terminal that is drawn on. Its zero value is none: lines are printed then.
type screen struct {
	out     *os.File
	keys    *os.File // where q comes from, or nil
	before  *unix.Termios
	colours bool
}

// openScreen takes the terminal, if there is one that can be drawn on (terminfo(5): dumb cannot).
func openScreen(e *env) *screen {
	out, ok := e.stdout.(*os.File)
	if !ok || e.json || !isTerminal(out) || os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == "" {
		return &screen{}
	}
	s := &screen{out: out, colours: os.Getenv("NO_COLOR") == ""}
	if in, ok := e.stdin.(*os.File); ok {
		if t, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS); err == nil {
			raw := *t
			raw.Lflag &^= unix.ICANON | unix.ECHO // single keys, and Ctrl-C stays a signal (termios(3))
			if unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &raw) == nil {
				s.keys, s.before = in, t
			}
		}
	}
	_, _ = io.WriteString(out, "\x1b[?1049h\x1b[?25l") // the other screen, without a cursor: what was there comes back
	return s
}

// close gives the terminal back as it was.
func (s *screen) close() {
	if s.out == nil {
		return
	}
	_, _ = io.WriteString(s.out, "\x1b[?25h\x1b[?1049l")
	if s.keys != nil {
		_ = unix.IoctlSetTermios(int(s.keys.Fd()), unix.TCSETS, s.before)
	}
}

// draw replaces what is shown, in one write and without clearing first, so that nothing flickers.
func (s *screen) draw(text, verdict string) error {
	width, height := textWidth, 24
	if ws, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 1 {
		width, height = int(ws.Col), int(ws.Row)
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > height-1 {
		lines = append(lines[:height-2], fmt.Sprintf("… %d more lines: a larger window shows them", len(lines)-height+2))
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, time.Now().Format(time.TimeOnly)+"  q ends it")
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range lines {
		line = cut(line, width)
		if i == 0 && s.colours {
			colour := map[string]string{control.OK: "32", control.Warning: "33", control.Critical: "31"}[verdict]
			line = "\x1b[1;" + colour + "m" + line + "\x1b[m"
		}
		b.WriteString(line + "\x1b[K")
		if i < len(lines)-1 {
			b.WriteString("\r\n")
		}
	}
	if _, err := io.WriteString(s.out, b.String()); err != nil {
		return &problem.Problem{Op: "draw on the terminal", Kind: problem.Unavailable, Err: err, Hint: "without a terminal: revolve status --watch | cat"}
	}
	return nil
}

// wait lets time pass until the next look; false when it is to end.
func (s *screen) wait(ctx context.Context) bool {
	if s.keys == nil {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(watchEvery):
			return true
		}
	}
	for end := time.Now().Add(watchEvery); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(s.keys.Fd()), Events: unix.POLLIN}}
		n, _ := unix.Poll(fds, int(keyEvery.Milliseconds()))
		if ctx.Err() != nil {
			return false
		}
		if n <= 0 {
			continue
		}
		var key [16]byte
		got, err := unix.Read(int(s.keys.Fd()), key[:])
		if err != nil || got <= 0 || slices.ContainsFunc(key[:got], func(k byte) bool { return k == 'q' || k == 'Q' || k == 4 }) {
			return false // the terminal has gone, or q or Ctrl-D was pressed
		}
	}
	return true
}

// syncing shows on a terminal, and only there, how the standbys come on while the barrier waits.
func syncing(ctx context.Context, e *env, client *control.Client) (ms float64, err error) {
	out, ok := e.stderr.(*os.File)
	if e.json || !ok || !isTerminal(out) || os.Getenv("TERM") == "dumb" {
		return client.Sync(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		ms, err = client.Sync(ctx)
		return nil
	})
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			waiting = false
		case <-tick.C:
			if s, err := client.Status(ctx); err == nil {
				fmt.Fprintf(out, "\r%s\x1b[K", cut(waitingText(s), textWidth-1))
			}
		}
	}
	_ = g.Wait() // its error is err
	fmt.Fprint(out, "\r\x1b[K")
	return ms, err
}

// waitingText says what the standbys lack.
func waitingText(s control.Status) string {
	var parts []string
	for _, v := range s.Volumes {
		for _, sb := range v.Standbys {
			if p := standbyProgress(sb); p != "" {
				parts = append(parts, fmt.Sprintf("%s on %s: %s", v.Name, sb.Node, p))
			}
		}
	}
	if len(parts) == 0 {
		return "waiting for the standbys"
	}
	return strings.Join(parts, "; ")
}
