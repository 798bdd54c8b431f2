package power

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// exists waits until a file is there.
func exists(t *testing.T, file string) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); time.Now().Before(late); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
	}
	t.Fatalf("%s is not there", file)
}

// A command that leaves something running has done its work: it is no failure, and what it left goes on.
func TestCommandInTheBackground(t *testing.T) {
	for what, do := range map[string]func(string) error{
		"on":  func(c string) error { return On(t.Context(), "b", Way{Command: c}, nil) },
		"off": func(c string) error { return Begin(t.Context(), c) },
	} {
		file := filepath.Join(t.TempDir(), "went-on")
		if err := do("(sleep 1.5; echo > '" + file + "') & exit 0"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		exists(t, file)
	}
}

// A command that powers off and takes long is not killed in the middle: it is begun.
func TestOffThatTakesLong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "went-on")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // instead of all the time that it has to fail
	defer cancel()
	if err := Begin(ctx, "sleep 0.6; echo said; echo > '"+file+"'"); err != nil {
		t.Error(err)
	}
	exists(t, file)
}

// One that fails says so, and what it said; one that is killed has failed, too.
func TestOffThatFails(t *testing.T) {
	for command, says := range map[string]string{
		"echo no such unit >&2; exit 3":                       "exit status 3: no such unit",
		"kill -9 $$":                                          "exit status 137",
		"no-such-command-at-all":                              "exit status 127",
		"yes | head -c 100000; exit 1":                        "exit status 1: y\ny",
		"echo 0 >&3; exit 4":                                  "exit status",
		"exec 3>&-; echo 'it'\"'\"'s \"$HOME\" `id`'; exit 1": "exit status 1: it's",
	} {
		if err := Begin(t.Context(), command); err == nil || !strings.Contains(err.Error(), says) || len(err.Error()) > 2*saidMost {
			t.Errorf("%s: %v", command, err)
		}
	}
	if err := Begin(t.Context(), "true"); err != nil {
		t.Error(err)
	}
}

// A command that does not end in time is ended with all that it began.
func TestOnThatHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	var pid string
	for allowed := 200 * time.Millisecond; pid == ""; allowed *= 2 { // until the machine is quick enough to begin it
		ctx, cancel := context.WithTimeout(t.Context(), allowed)
		err := On(ctx, "b", Way{Command: "sh -c 'echo $$ > " + file + "; exec sleep 1000' ; true"}, nil)
		cancel()
		if err == nil || !strings.Contains(err.Error(), "did not end") {
			t.Fatalf("%v", err)
		}
		b, err := os.ReadFile(file)
		if pid = strings.TrimSpace(string(b)); pid == "" && allowed > time.Minute {
			t.Fatal("it never began:", err)
		}
	}
	for late := time.Now().Add(20 * time.Second); time.Now().Before(late); time.Sleep(10 * time.Millisecond) {
		comm, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if err != nil || len(comm) == 0 { // it is gone, or waits for somebody to take note of that
			return
		}
	}
	t.Errorf("process %s goes on", pid)
}

// Who is logged in: people's sessions, and terminals on which something runs.
func TestLoggedIn(t *testing.T) {
	dir := t.TempDir()
	sessions, proc := filepath.Join(dir, "sessions"), filepath.Join(dir, "proc")
	must(t, os.MkdirAll(filepath.Join(proc, "7"), 0o700))
	stat := func(comm, tty string) {
		must(t, os.WriteFile(filepath.Join(proc, "7", "stat"), []byte("7 ("+comm+") S 1 7 7 "+tty+" -1 4194560"), 0o600))
	}
	session := func(text string) {
		must(t, os.MkdirAll(sessions, 0o700))
		must(t, os.WriteFile(filepath.Join(sessions, "12"), []byte(text), 0o600))
	}
	for _, c := range []struct{ session, comm, tty, want string }{
		{"", "sh", "0", ""},
		{"", "sh", "34816", "somebody (terminal pts/0)"},
		{"", "a ) b (", "34819", "somebody (terminal pts/3)"},
		{"", "sh", "1025", "somebody (terminal 4:1)"},
		{"", "agetty", "1025", ""},
		{"UID=0\nUSER=root\nSTATE=active\nCLASS=user\n", "sh", "0", "root (session 12)"},
		{"UID=5\nSTATE=online\nCLASS=user-early\n", "Xorg", "1031", "user 5 (session 12)"},
		{"UID=5\nUSER=x\nSTATE=closing\nCLASS=user\n", "sh", "0", "x (session 12)"},
		{"UID=5\nUSER=gdm\nSTATE=active\nCLASS=greeter\n", "Xorg", "1031", ""},
		{"UID=0\nUSER=root\nSTATE=active\nCLASS=background\n", "cron", "0", ""},
		{"UID=5\nUSER=x\nSTATE=active\nCLASS=manager\n", "sh", "0", ""},
		{"STATE=active\n", "sh", "0", "user  (session 12)"},
	} {
		stat(c.comm, c.tty)
		must(t, os.RemoveAll(sessions))
		if c.session != "" {
			session(c.session)
		}
		got, err := loggedIn(sessions, proc)
		if err != nil || strings.Join(got, ", ") != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	if _, err := loggedIn(sessions, filepath.Join(dir, "none")); err == nil {
		t.Error("that nothing can be seen is not told")
	}
	must(t, os.RemoveAll(sessions))
	must(t, os.WriteFile(sessions, nil, 0o600))
	if _, err := loggedIn(sessions, proc); err == nil {
		t.Error("that sessions cannot be read is not told")
	}
}
