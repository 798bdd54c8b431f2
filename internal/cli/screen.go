package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/control"
	"revolve/internal/problem"
)

// keyEvery bounds how long a signal to end may wait behind a key that is not pressed.
const keyEvery = 100 * time.Millisecond

// screen is a terminal that is drawn on. Its zero value is none: lines are printed then.
type screen struct {
	out     *os.File
	keys    *os.File // where q comes from, or nil
	before  *unix.Termios
	colours bool

	from int  // the first line that is shown, below the verdict
	page int  // how many are
	held bool // what is shown stays
	help bool // the keys are shown instead
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
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range s.lines(text, height) {
		line = cut(line, width)
		if i == 0 && s.colours {
			colour := map[string]string{control.OK: "32", control.Warning: "33", control.Critical: "31"}[verdict]
			line = "\x1b[1;" + colour + "m" + line + "\x1b[m"
		}
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + "\x1b[K")
	}
	if _, err := io.WriteString(s.out, b.String()); err != nil {
		return &problem.Problem{Op: "draw on the terminal", Kind: problem.Unavailable, Err: err, Hint: "without a terminal: revolve status --watch | cat"}
	}
	return nil
}

// keysHelp is what the keys do.
const keysHelp = `
  q, Ctrl-C          end
  j, k, arrows       a line down, up
  space, b           a page down, up (Page Down, Page Up)
  g, G               the beginning, the end (Home, End)
  p                  hold what is shown, and go on
  ?                  the keys, and back

  alive, in-sync, yes    as it should be
  unknown                not known: never taken for well
  2/2                    the links of two nodes over which they hear each other`

// lines are what fits: the verdict always, of the rest the part that was scrolled to, and the keys.
func (s *screen) lines(text string, height int) []string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	rest := all[1:]
	if s.help {
		rest = strings.Split(keysHelp, "\n")
	}
	s.page = max(0, height-2)
	foot := time.Now().Format(time.TimeOnly)
	if s.held {
		foot = "held"
	}
	foot += "  q ends it, ? keys"
	if len(rest) > s.page {
		s.page = max(0, s.page-1)
	}
	s.from = max(0, min(s.from, len(rest)-s.page))
	shown := append([]string{all[0]}, rest[s.from:min(len(rest), s.from+s.page)]...)
	if below := len(rest) - s.from - s.page; below > 0 {
		shown = append(shown, fmt.Sprintf("… %d more lines: j or space shows them", below))
	} else if s.from > 0 {
		shown = append(shown, fmt.Sprintf("… the end; %d lines above: k or b shows them", s.from))
	}
	for len(shown) < height-1 {
		shown = append(shown, "")
	}
	return append(shown, foot)
}

// wait lets time pass until the next look, or until a key changes what is shown; false when it is to end.
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
		var key [64]byte
		got, err := unix.Read(int(s.keys.Fd()), key[:])
		if err != nil || got <= 0 {
			return false // the terminal has gone
		}
		changed, end := s.press(key[:got])
		if end || changed {
			return !end
		}
	}
	return true
}

// press does what keys say, several if they were pressed faster than they were read.
func (s *screen) press(keys []byte) (changed, end bool) {
	for len(keys) > 0 {
		key := keys[:1]
		for _, known := range []string{"\x1b[A", "\x1b[B", "\x1b[5~", "\x1b[6~", "\x1b[H", "\x1b[F", "\x1bOA", "\x1bOB"} { // console_codes(4), and xterm's
			if bytes.HasPrefix(keys, []byte(known)) {
				key = keys[:len(known)]
			}
		}
		keys = keys[len(key):]
		before := *s
		switch string(key) {
		case "q", "Q", "\x04":
			return changed, true
		case "j", "\x1b[B", "\x1bOB", "\r":
			s.from++
		case "k", "\x1b[A", "\x1bOA":
			s.from--
		case " ", "\x1b[6~":
			s.from += s.page
		case "b", "\x1b[5~":
			s.from -= s.page
		case "g", "\x1b[H":
			s.from = 0
		case "G", "\x1b[F":
			s.from = 1 << 20 // lines gives it its bound
		case "p":
			s.held = !s.held
		case "?", "h":
			s.help, s.from = !s.help, 0
		}
		s.from = max(0, s.from)
		changed = changed || *s != before
	}
	return changed, false
}
