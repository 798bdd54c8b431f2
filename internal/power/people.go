package power

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// LoggedIn are the people who are logged in on this machine: sessions that systemd-logind knows, and terminals
// on which something runs. A shell that was left running in a terminal counts. An error says that it cannot be seen.
func LoggedIn() ([]string, error) { return loggedIn("/run/systemd/sessions", "/proc") }

func loggedIn(sessions, proc string) (list []string, err error) {
	known, err := sessionsOf(sessions)
	none := errors.Is(err, fs.ErrNotExist) // no logind: every terminal counts, not only those of windows and the network
	if err != nil && !none {
		return nil, err
	}
	terminals, err := terminalsOf(proc, none)
	list = append(known, terminals...)
	slices.Sort(list)
	return slices.Compact(list), err
}

// sessionsOf reads what logind writes, as libsystemd does (sd-login(3)). Only people's count: not cron's, not that of who asks for a password.
func sessionsOf(dir string) (list []string, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if strings.HasSuffix(n.Name(), ".ref") || !n.Type().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil {
			return nil, err
		}
		is := map[string]string{}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			is[key] = value
		}
		if c := is["CLASS"]; c == "" || c == "user" || strings.HasPrefix(c, "user-") { // also one that is closing: what was left running in it goes on

			list = append(list, who(is["USER"], is["UID"])+" (session "+n.Name()+")")
		}
	}
	return list, nil
}

func who(name, uid string) string {
	if name == "" {
		return "user " + uid
	}
	return name
}

// terminalsOf looks for processes with a terminal (proc(5), stat: tty_nr). Without consoles only those of windows and of the network.
func terminalsOf(proc string, consoles bool) (list []string, err error) {
	names, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if _, err := strconv.Atoi(n.Name()); err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(proc, n.Name(), "stat"))
		if err != nil {
			continue // it has just ended
		}
		if t := terminal(string(b), consoles); t != "" {
			list = append(list, t)
		}
	}
	return list, nil
}

// Major numbers of terminals (Documentation/admin-guide/devices.txt of the kernel).
const (
	firstPTS = 136
	lastPTS  = 143
)

// terminal is that of one process; "": it has none, or waits there for somebody to log in.
func terminal(stat string, consoles bool) string {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return ""
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 5 {
		return ""
	}
	tty, err := strconv.ParseUint(fields[4], 10, 32)
	if err != nil || tty == 0 {
		return ""
	}
	switch stat[open+1 : end] {
	case "agetty", "getty", "mingetty", "login":
		return ""
	}
	major, minor := tty>>8&0xfff, tty&0xff|tty>>12&0xfff00
	if major >= firstPTS && major <= lastPTS {
		return "somebody (terminal pts/" + strconv.FormatUint((major-firstPTS)<<8|minor, 10) + ")"
	}
	if !consoles {
		return ""
	}
	return "somebody (terminal " + strconv.FormatUint(major, 10) + ":" + strconv.FormatUint(minor, 10) + ")"
}
