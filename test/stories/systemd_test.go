package stories

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// systemdStage makes room for a systemd as the first process of namespaces of its
// own, with the unit that examples/systemd has; $REVOLVE_UNITS is where it lies.
const systemdStage = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
echo 0123456789abcdef0123456789abcdef > /run/machine-id
[ ! -e /etc/machine-id ] || mount --bind /run/machine-id /etc/machine-id
export container=revolve SYSTEMD_UNIT_PATH="$REVOLVE_UNITS"
exec systemd --system --log-target=null
`

// systemdAround gives it a control group of its own, and takes that away behind it. $1 is an empty directory, $2 the stage.
const systemdAround = `set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1"
own=$1$(sed -n 's/^0:://p' /proc/self/cgroup)/revolve-stories-$$
mkdir "$own"
sh -c 'echo $$ > "$1/cgroup.procs"; exec unshare --mount --pid --net --fork --cgroup --kill-child --mount-proc sh -c "$2"' sh "$own" "$2" &
child=$!
trap 'kill -KILL $child' TERM
wait || true
wait || true
for i in 1 2 3 4 5 6 7 8 9 10; do
	find "$own" -depth -type d -exec rmdir {} + 2>/dev/null && exit 0
	sleep 0.2
done
echo "left behind: $own"
`

// systemd is a running one.
type systemd struct {
	t   *testing.T
	pid int // of its first process
}

// startSystemd starts one with these units, or skips.
func startSystemd(t *testing.T, units map[string]string) *systemd {
	t.Helper()
	skip := func(why any) { t.Skipf("SKIPPED PART: the agent under a real systemd (%v)", why) }
	t.Setenv("PATH", os.Getenv("PATH")+":/lib/systemd:/usr/lib/systemd:/usr/sbin:/sbin")
	if os.Geteuid() != 0 {
		skip("it needs root")
	}
	for _, p := range []string{"systemd", "systemctl", "unshare", "nsenter", "ip"} {
		if _, err := exec.LookPath(p); err != nil {
			skip(err)
		}
	}
	dir := t.TempDir()
	for name, text := range units {
		put(t, filepath.Join(dir, name), text)
	}
	var log strings.Builder
	cmd := exec.Command("unshare", "--mount", "sh", "-c", systemdAround, "sh", t.TempDir(), systemdStage)
	cmd.Env = append(os.Environ(), "REVOLVE_UNITS="+dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		skip(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if strings.Contains(log.String(), "left behind") {
			t.Error(log.String())
		}
	})
	s := &systemd{t: t}
	for late := time.Now().Add(patience); ; time.Sleep(lookEvery) {
		s.pid = onlyChild(onlyChild(cmd.Process.Pid))
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/systemd/private", s.pid)); s.pid > 0 && err == nil {
			return s
		}
		select {
		case err := <-ended:
			ended <- err
			skip(fmt.Sprintf("it does not start in namespaces here: %v: %s", err, log.String()))
		default:
		}
		if time.Now().After(late) {
			skip("it does not start in namespaces here")
		}
	}
}

func onlyChild(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// run runs a command beside it.
func (s *systemd) run(argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*commandFor) // a start waits until the agent says that it is ready
	defer cancel()
	args := append([]string{"--target", strconv.Itoa(s.pid), "--mount", "--pid", "--net"}, argv...)
	out, err := exec.CommandContext(ctx, "nsenter", args...).CombinedOutput()
	return string(out), err
}

func (s *systemd) must(argv ...string) string {
	s.t.Helper()
	out, err := s.run(argv...)
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return out
}

// show is properties of the agent's unit.
func (s *systemd) show(name string) string {
	s.t.Helper()
	return strings.TrimSpace(s.must("systemctl", "show", "--property="+name, "--value", "revolve.service"))
}

// TestWatchdog: the unit of examples/systemd is started when the agent is ready; an
// agent that hangs, or whose beat process does, is ended and started again; one that is stopped ends in order.
func TestWatchdog(t *testing.T) {
	if _, on, _ := testbed.Current(); on {
		return
	}
	unit, err := os.ReadFile("../../examples/systemd/revolve.service")
	must(t, err)
	dir := t.TempDir()
	state, config := filepath.Join(dir, "state"), filepath.Join(dir, "revolve.yaml")
	must(t, os.Mkdir(filepath.Join(dir, "home"), 0o755))
	put(t, config, fmt.Sprintf("cluster: stories\nnodes: { a: { links: { lan: 127.0.0.1 } } }\nvolumes: { home: { path: %s/home } }\n", dir))
	bin := os.Getenv(envBin)
	out, err := exec.Command(bin, "init", "--config", config, "--node", "a", "--state", state).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text := string(unit)
	for old, new := range map[string]string{
		"/usr/local/bin/revolve agent ": fmt.Sprintf("%s agent --config %s --state %s ", bin, config, state),
		"Type=notify\n":                 fmt.Sprintf("Type=notify\nStandardError=append:%s/log\n", dir),
		"/var/lib/revolve/identity":     state + "/identity",
		"WatchdogSec=10":                "WatchdogSec=4",
		"[Unit]\n":                      "[Unit]\nDefaultDependencies=no\n",
	} {
		if !strings.Contains(text, old) {
			t.Fatalf("the unit has no %q", old)
		}
		text = strings.Replace(text, old, new, 1)
	}
	t.Cleanup(func() {
		if b, err := os.ReadFile(filepath.Join(dir, "log")); t.Failed() {
			t.Logf("%v\n%s", err, b[:min(len(b), 20000)])
		}
	})
	s := startSystemd(t, map[string]string{"revolve.service": text, "default.target": "[Unit]\nDefaultDependencies=no\n", "shutdown.target": "[Unit]\nDefaultDependencies=no\n", "network.target": "[Unit]\nDefaultDependencies=no\n"})
	s.must("systemctl", "start", "revolve.service") // returns when the agent has said that it is ready
	serves := func(after string) {
		t.Helper()
		for late := time.Now().Add(patience); ; time.Sleep(askEvery) {
			if out, err := s.run(bin, "status", "--state", state); err == nil {
				return
			} else if time.Now().After(late) {
				t.Fatalf("after %s: %v\n%s", after, err, out)
			}
		}
	}
	serves("its start")
	main := s.show("MainPID")
	time.Sleep(9 * time.Second) // more than twice the time without a sign
	if s.show("MainPID") != main || s.show("NRestarts") != "0" {
		t.Fatalf("an agent that lives was ended: %s restarts", s.show("NRestarts"))
	}
	for i, c := range []struct {
		what string
		who  func() string
	}{
		{"the agent", func() string { return s.show("MainPID") }},
		{"its beat process", func() string { return strings.TrimSpace(s.must("pgrep", "-P", s.show("MainPID"), "-f", "beat$")) }},
	} {
		before := s.show("MainPID")
		s.must("kill", "-STOP", c.who())
		t.Logf("--- %s hangs", c.what)
		for late := time.Now().Add(patience); s.show("NRestarts") != strconv.Itoa(i+1) || s.show("ActiveState") != "active"; time.Sleep(askEvery) {
			if time.Now().After(late) {
				t.Fatalf("%s hangs, and the unit is %s, with %s restarts", c.what, s.show("ActiveState"), s.show("NRestarts"))
			}
		}
		if s.show("MainPID") == before {
			t.Errorf("%s hung: the same agent goes on", c.what)
		}
		serves(c.what + " hung")
	}
	s.must("systemctl", "stop", "revolve.service")
	if got := s.show("Result"); got != "success" {
		t.Errorf("a stop ends with %s", got)
	}
	if err := unix.Access(filepath.Join(state, "control.sock"), unix.F_OK); err == nil {
		t.Error("the agent has left its socket behind")
	}
}
