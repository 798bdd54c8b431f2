package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"revolve/internal/config"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func optionsFor(dir string, list ...config.Service) Options {
	for i := range list {
		list[i].Interval, list[i].Timeout, list[i].Rise, list[i].Fall = 20*time.Millisecond, testTimeout, 2, 3
	}
	return Options{Services: list, Dir: dir, Env: func() []string { return []string{"REVOLVE_NODE=a"} }, Log: quiet()}
}

// running runs services; stop ends them and waits.
func running(t *testing.T, o Options) (s *Services, stop func()) {
	t.Helper()
	s = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return s, stop
}

func (s *Services) is(want State) func() bool {
	return func() bool { return s.Reports()[0].State == want }
}

func runs(pid int) bool { _, err := look(pid); return err == nil }

func pidIn(t *testing.T, file string) (pid int) {
	t.Helper()
	eventually(t, "a process id in "+file, func() bool {
		b, err := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil && pid > 0
	})
	return pid
}

// daemon is a command that writes its id, and does until it is told to end.
func daemon(file string) string { return "echo $$ > " + file + "; exec sleep 1000" }

// TestChildLives: it is started before the node listens, again when it is killed, and ends with the agent.
func TestChildLives(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pid")
	s, stop := running(t, optionsFor(filepath.Join(dir, "services"), config.Service{Name: "d", Exec: daemon(file), Required: true,
		Check: config.Check{Kind: config.CheckExec, Command: "test -e " + file + " && kill -0 $(cat " + file + ")", Text: "x"}}))
	<-s.Settled()
	if r := s.Reports()[0]; r.State != Healthy || r.How != "exec" || s.Ill() {
		t.Fatalf("settled as %+v", r)
	}
	first := pidIn(t, file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end to make it ill", s.Ill)
	second := pidIn(t, file)
	eventually(t, "it to be healthy again", s.is(Healthy))
	if r := s.Reports()[0]; r.Restarts != 1 || !strings.Contains(r.LastError, "signal: killed") {
		t.Errorf("%+v", r)
	}
	if runs(first) || !runs(second) {
		t.Errorf("the first runs: %v, the second: %v", runs(first), runs(second))
	}
	stop()
	if runs(second) {
		t.Error("it outlived the agent")
	}
}

// TestChildThatDoesNotListen: what ignores SIGTERM is killed, with all that it started.
func TestChildThatDoesNotListen(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED PART: a child that ignores SIGTERM (it takes the whole grace)")
	}
	file := filepath.Join(t.TempDir(), "pid")
	_, stop := running(t, optionsFor(t.TempDir(), config.Service{Name: "d", Exec: "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > " + file + "; while :; do sleep 1; done' & wait"}))
	pid := pidIn(t, file)
	stop()
	if runs(pid) {
		t.Error("it outlived the agent")
	}
}

// TestFoundAgain: an agent that is killed leaves its child running; the next one ends it and starts its own.
func TestFoundAgain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pid")
	// Stands for the crashed agent: it starts the child as run does, and is gone.
	c := child{name: "d", command: daemon(file), dir: filepath.Join(dir, "services"), log: quiet()}
	for _, how := range []string{"remembered", "only marked"} {
		cmd := exec.Command("/bin/sh", "-c", c.command)
		cmd.Env = append(os.Environ(), c.mark())
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		reaped := make(chan error, 1)
		go func() { reaped <- cmd.Wait() }()
		old := pidIn(t, file)
		if how == "remembered" {
			if err := c.remember(old); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		_, stop := running(t, optionsFor(c.dir, config.Service{Name: "d", Exec: c.command}))
		<-reaped
		if now := pidIn(t, file); now == old || runs(old) {
			t.Errorf("%s: the old one (%d) runs: %v; the new one is %d", how, old, runs(old), now)
		}
		stop()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNumberOfAnother: a process that only has the number of the child is left alone.
func TestNumberOfAnother(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	c := child{name: "d", dir: t.TempDir(), log: quiet()}
	for _, m := range []memory{{Group: cmd.Process.Pid, Start: 1, Boot: bootID()}, {Group: cmd.Process.Pid, Start: 0, Boot: "another"}, {Group: -1, Boot: bootID()}, {Group: 1, Boot: bootID(), Start: 1 << 62}} {
		if err := os.WriteFile(c.file(), fmt.Appendf(nil, `{"group":%d,"start":%d,"boot":%q}`, m.Group, m.Start, m.Boot), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := c.endOld(); n != 0 || err != nil || !runs(cmd.Process.Pid) {
			t.Errorf("%+v: ended %d, %v", m, n, err)
		}
	}
}

// TestNeverWell: a service that is never well keeps the node waiting for a bounded time.
func TestNeverWell(t *testing.T) {
	s, _ := running(t, optionsFor(t.TempDir(), config.Service{Name: "d", Exec: "sleep 1000", Required: true,
		Check: config.Check{Kind: config.CheckExec, Command: "echo not yet; false", Text: "exec:"}}))
	<-s.Settled()
	eventually(t, "it to be ill", s.is(Ill))
	if r := s.Reports()[0]; !s.Ill() || !strings.Contains(r.LastError, "not yet") {
		t.Errorf("%+v", r)
	}
}

// TestEndsAtOnce: a command that goes into the background, or fails, is told as such, with its last words.
func TestEndsAtOnce(t *testing.T) {
	for command, want := range map[string]string{"echo bye; true": "a service stays in the foreground): bye", "echo no zone >&2; exit 3": "exit status 3: no zone"} {
		s, stop := running(t, optionsFor(t.TempDir(), config.Service{Name: "d", Exec: command, Required: true}))
		<-s.Settled()
		if r := s.Reports()[0]; r.State != Ill || !strings.Contains(r.LastError, want) {
			t.Errorf("%q: %+v", command, r)
		}
		stop()
	}
}

// TestWithoutCheck: the process alone is the judge.
func TestWithoutCheck(t *testing.T) {
	s, _ := running(t, optionsFor(t.TempDir(), config.Service{Name: "d", Exec: "sleep 1000", Required: true}))
	<-s.Settled()
	if r := s.Reports()[0]; r.State != Healthy {
		t.Errorf("%+v", r)
	}
}

// TestCheckOnly: what others run is asked, and ill if it does not answer.
func TestCheckOnly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "well")
	s, _ := running(t, optionsFor(t.TempDir(), config.Service{Name: "d", Check: config.Check{Kind: config.CheckExec, Command: "test -e " + file, Text: "x"}}))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it to be healthy", s.is(Healthy))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it to be ill", s.is(Ill))
	if s.Ill() {
		t.Error("it is not required, and makes the node ill")
	}
}

func TestNoSystemdIsSaid(t *testing.T) {
	if Booted() {
		t.Skip("SKIPPED PART: a unit without systemd (systemd runs here)")
	}
	s, _ := running(t, optionsFor(t.TempDir(), config.Service{Name: "d", Unit: "named.service", Required: true}))
	<-s.Settled()
	if r := s.Reports()[0]; r.State != Ill || !strings.Contains(r.LastError, "systemd does not run") || !strings.Contains(r.LastError, "exec:") {
		t.Errorf("%+v", r)
	}
	both, _ := running(t, optionsFor(t.TempDir(), config.Service{Name: "d", Unit: "named.service", Exec: "sleep 1000"}))
	eventually(t, "exec in the place of the unit", both.is(Healthy))
}

func TestLinesAreBounded(t *testing.T) {
	var out strings.Builder
	l := newLines(slog.New(slog.NewTextHandler(&out, nil)))
	l.at = time.Now().Add(time.Hour) // no tokens come in
	for range 10 * linesAtOnce {
		fmt.Fprint(l, strings.Repeat("x", 10*maxLine), "\n")
	}
	fmt.Fprint(l, "no end \xff")
	l.flush()
	if n := strings.Count(out.String(), "\n"); n > linesAtOnce+1 || len(out.String()) > (linesAtOnce+1)*(maxLine+200) {
		t.Errorf("%d lines, %d bytes", n, out.Len())
	}
	if len(l.last) != lastLines || l.last[lastLines-1] != "no end ?" || l.dropped == 0 {
		t.Errorf("last %.20q, %d dropped", l.last, l.dropped)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) { _, _ = parseStat(1, s) })
}
