package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"revolve/internal/config"
)

// stage makes room for a systemd as the first process of its own namespaces:
// nothing of the machine is touched, and everything ends with that process.
const stage = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo 0123456789abcdef0123456789abcdef > /run/machine-id
[ ! -e /etc/machine-id ] || mount --bind /run/machine-id /etc/machine-id
mkdir -p /run/units
unit() { printf '[Unit]\nDefaultDependencies=no\n%b' "$2" > "/run/units/$1"; }
unit default.target ''
unit shutdown.target ''
unit steady.service '[Service]\nExecStart=/bin/sleep 1000\n'
unit again.service '[Service]\nExecStart=/bin/sleep 1000\nRestart=always\nRestartSec=0\n'
unit broken.service '[Service]\nExecStart=/bin/false\n'
unit slow.service '[Service]\nType=notify\nExecStart=/bin/sleep 1000\n'
export container=revolve SYSTEMD_UNIT_PATH=/run/units
exec systemd --system --log-target=null
`

// around gives the systemd a control group of its own, and takes it away behind it. $1 is an empty directory, $2 the stage.
const around = `set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1"
own=$1$(sed -n 's/^0:://p' /proc/self/cgroup)/revolve-test-$$
mkdir "$own"
sh -c 'echo $$ > "$1/cgroup.procs"; exec unshare --mount --pid --fork --cgroup --kill-child --mount-proc sh -c "$2"' sh "$own" "$2" &
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

// insideEnv marks this test binary when it runs beside a real systemd.
const insideEnv = "REVOLVE_TEST_INSIDE"

// TestRealSystemd runs TestInsideSystemd where a real systemd is the first process.
func TestRealSystemd(t *testing.T) {
	skip := func(why any) { t.Skipf("SKIPPED PART: units of a real systemd (%v)", why) }
	t.Setenv("PATH", os.Getenv("PATH")+":/lib/systemd:/usr/lib/systemd:/usr/sbin:/sbin")
	if os.Geteuid() != 0 {
		skip("it needs root")
	}
	for _, p := range []string{"systemd", "unshare", "nsenter"} {
		if _, err := exec.LookPath(p); err != nil {
			skip(err)
		}
	}
	var log strings.Builder
	cmd := exec.Command("unshare", "--mount", "sh", "-c", around, "sh", t.TempDir(), stage)
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
	pid := 0
	for late := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		pid = childOf(childOf(cmd.Process.Pid))
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/systemd/private", pid)); pid > 0 && err == nil {
			break
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
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	inside := exec.Command("nsenter", "--target", strconv.Itoa(pid), "--mount", "--pid", self, "-test.run", "^TestInsideSystemd$", "-test.v")
	inside.Env = append(os.Environ(), insideEnv+"=1")
	out, err := inside.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestInsideSystemd") {
		t.Errorf("%v\n%s", err, out)
	}
}

func childOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// TestInsideSystemd: a unit is started and watched, and never stopped.
func TestInsideSystemd(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		return // TestRealSystemd runs it
	}
	var c *dbus.Conn
	eventually(t, "systemd to listen", func() (ok bool) {
		var err error
		c, err = dbus.NewWithContext(t.Context())
		return err == nil
	})
	defer c.Close()
	o := optionsFor(t.TempDir(), config.Service{Name: "steady", Unit: "steady.service", Required: true}, config.Service{Name: "again", Unit: "again.service"},
		config.Service{Name: "broken", Unit: "broken.service", Exec: "sleep 1000"}, config.Service{Name: "missing", Unit: "missing.service"},
		config.Service{Name: "slow", Unit: "slow.service"})
	s, stop := running(t, o)
	<-s.Settled()
	report := func(i int) Report { return s.Reports()[i] }
	says := func(i int, state State, text string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s to be %s: %s", report(i).Name, state, text), func() bool {
			r := report(i)
			return r.State == state && strings.Contains(r.LastError, text)
		})
	}
	says(0, Healthy, "")
	if how := report(0).How; how != "unit steady.service" {
		t.Errorf("run as %q", how)
	}
	says(1, Healthy, "")
	says(2, Ill, "has failed (exit-code)")
	says(3, Ill, "not found")
	says(3, Ill, "install what brings it")
	says(4, Ill, "") // systemd waits for its word for longer than we do
	main := func(unit string) int { return mainPID(t, c, unit) }

	first := main("steady.service")
	kill(t, first)
	says(0, Ill, "has failed (signal)")
	says(0, Healthy, "")
	if second := main("steady.service"); second == first || report(0).Restarts != 1 {
		t.Errorf("main process %d, was %d; %+v", second, first, report(0))
	}
	kill(t, main("again.service")) // systemd itself starts it again
	eventually(t, "the restart by systemd to be counted", func() bool { return report(1).Restarts == 1 })
	says(1, Healthy, "")

	if _, err := c.StopUnitContext(t.Context(), "steady.service", "replace", nil); err != nil {
		t.Fatal(err)
	}
	says(0, Ill, "somebody stopped it")
	if main("steady.service") != 0 {
		t.Error("what somebody stopped was started again")
	}
	if _, err := c.StartUnitContext(t.Context(), "steady.service", "replace", nil); err != nil {
		t.Fatal(err)
	}
	says(0, Healthy, "")
	for unit, want := range map[string]string{"steady.service": "loaded", "missing.service": "not-found"} {
		if got, err := Loaded(t.Context(), unit); got != want || err != nil {
			t.Errorf("%s is %q, %v", unit, got, err)
		}
	}
	stop()
	if main("steady.service") == 0 {
		t.Error("the unit ended with the agent")
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func mainPID(t *testing.T, c *dbus.Conn, unit string) int {
	t.Helper()
	p, err := c.GetUnitTypePropertiesContext(t.Context(), unit, "Service")
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := p["MainPID"].(uint32)
	return int(pid)
}

// silent is a systemd that is there and cannot be asked.
type silent struct{}

func (silent) present() bool { return true }
func (silent) connect(context.Context) (units, error) {
	return nil, errors.New("no such bus")
}

// TestSystemdIsSilent: without systemd's word nothing is known, and nothing follows from it.
func TestSystemdIsSilent(t *testing.T) {
	o := optionsFor(t.TempDir(), config.Service{Name: "steady", Unit: "steady.service", Required: true})
	o.manager = silent{}
	s, _ := running(t, o)
	<-s.Settled()
	if r := s.Reports()[0]; r.State != Unknown || s.Ill() || !strings.Contains(r.LastError, "systemd cannot be asked: no such bus") {
		t.Errorf("%+v, ill: %v", r, s.Ill())
	}
}
