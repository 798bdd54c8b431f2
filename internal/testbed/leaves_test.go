package testbed

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// traces is what a stage with the temporary directory tmp leaves on the host.
func traces(t *testing.T, tmp string) string {
	t.Helper()
	var b strings.Builder
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, tmp) {
			fmt.Fprintf(&b, "mount: %s", line)
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if text, err := os.ReadFile(l); err == nil && bytes.Contains(text, []byte(tmp)) {
			fmt.Fprintf(&b, "%s: %s", l, text)
		}
	}
	temps, _ := filepath.Glob(tmp + "/revolve-*")
	for _, f := range temps {
		fmt.Fprintf(&b, "file: %s\n", f)
	}
	procs, err := os.ReadDir("/proc")
	must(t, err)
	for _, p := range procs {
		if env, err := os.ReadFile("/proc/" + p.Name() + "/environ"); err == nil && bytes.Contains(env, []byte(tmp)) {
			fmt.Fprintf(&b, "process: %s\n", p.Name())
		}
	}
	return b.String()
}

// TestScene is the body for TestLeavesNothing: a full bed that stays up until it is ended.
func TestScene(t *testing.T) {
	marker := os.Getenv("REVOLVE_TESTBED_MARKER")
	if marker == "" {
		t.Skip("runs only for TestLeavesNothing")
	}
	OnStage(t, AsSelf, func(s *Stage) {
		_, a, _ := twoNodes(t, s, Disk{})
		eventually(t, "an echo", func() bool { return hears(t, a, "10.77.0.12:7") })
		f, err := os.OpenFile(marker, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("up")
		must(t, err)
		if os.Getenv("REVOLVE_TESTBED_STAY") != "" {
			_ = unix.Pause()
		}
	})
}

func TestLeavesNothing(t *testing.T) {
	if _, on, _ := Current(); on {
		t.Skip("for the host only")
	}
	for _, who := range []struct {
		name string
		cred *syscall.Credential
	}{{"self", nil}, {"nobody", &syscall.Credential{Uid: nobodyID, Gid: nobodyID}}} {
		if who.cred != nil && os.Geteuid() != 0 {
			continue
		}
		for _, end := range []string{"orderly", "SIGTERM", "SIGKILL"} {
			t.Run(who.name+"/"+end, func(t *testing.T) { leaveNothing(t, who.cred, end) })
		}
	}
}

func leaveNothing(t *testing.T, cred *syscall.Credential, end string) {
	tmp, err := os.MkdirTemp("/tmp", "leaves-nothing-")
	must(t, err)
	defer os.RemoveAll(tmp)
	must(t, os.Chmod(tmp, 0o777))
	marker := filepath.Join(tmp, "marker")
	must(t, os.WriteFile(marker, nil, 0o666))
	must(t, os.Chmod(marker, 0o666))
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestScene$", "-test.v")
	cmd.Env = append(os.Environ(), "REVOLVE_TESTBED_MARKER="+marker, "TMPDIR="+tmp)
	if end != "orderly" {
		cmd.Env = append(cmd.Env, "REVOLVE_TESTBED_STAY=1")
	}
	cmd.Dir = "/"
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.WaitDelay = 20 * time.Second
	must(t, cmd.Start())
	eventually(t, "the scene is up", func() bool { b, _ := os.ReadFile(marker); return string(b) == "up" })
	if end != "orderly" {
		// The checks below can see what a stage is made of.
		if up := traces(t, tmp); !strings.Contains(up, "process:") || !strings.Contains(up, "file:") {
			t.Errorf("while it is up there is only:\n%s", up)
		}
	}
	switch end {
	case "SIGTERM":
		must(t, cmd.Process.Signal(unix.SIGTERM))
	case "SIGKILL":
		must(t, cmd.Process.Kill())
	}
	if err := cmd.Wait(); end == "orderly" && err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var left string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if left = traces(t, tmp); left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("left behind:\n" + left)
		}
	}
}
