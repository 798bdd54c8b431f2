package packages

import (
	"bytes"
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
)

// How long things may take before a test gives up. They are no promises: the
// machine may be busy with other work, and only a hang is to be told from it.
const (
	patience   = 60 * time.Second
	commandFor = 60 * time.Second
	askEvery   = 200 * time.Millisecond
)

// around gives a machine mounts and a control group of its own and takes them away
// behind it. $1 is its directory, $2 the base, $3 its name, $4 the stage.
const around = `set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1/cgroup"
own=$1/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/revolve-packages-$$
mkdir "$own"
sh -c 'echo $$ > "$1/cgroup.procs"; shift; exec unshare --mount --pid --net --uts --ipc --fork --cgroup --kill-child --mount-proc sh -c "$4" sh "$1" "$2" "$3"' sh "$own" "$1" "$2" "$3" "$4" &
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

// boot makes the machine's root and becomes its first process. /srv is plain ext4, as on a machine. /sys and /proc/sys are
// the host's, so they can only be read (but for the network's, which are its own).
const boot = `set -e
mount --make-rprivate /
mount -o loop "$1/disk" "$1/mnt"
mkdir -p "$1/mnt/upper" "$1/mnt/work" "$1/mnt/srv"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/mnt/upper,workdir=$1/mnt/work" "$1/root"
cd "$1/root"
mount --bind "$1/mnt/srv" srv
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for d in null zero full random urandom tty; do touch dev/$d; mount --bind /dev/$d dev/$d; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs run
mkdir -p run/mnt host
echo "$3" >etc/hostname
hostname "$3"
ip link set lo up
mount --bind "$1/mnt" run/mnt
pivot_root . host
umount -l /host
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=revolve /lib/systemd/systemd --system --log-target=null
`

// machine is a bare Debian system.
type machine struct {
	t               *testing.T
	name, addr, dir string
	base            string
	hub             *hub
	cmd             *exec.Cmd
	log             bytes.Buffer
	ended           chan error
	pid             int // of its first process; 0 while it is off
}

// newMachine makes one that is off.
func newMachine(t *testing.T, h *hub, base, name, addr string) *machine {
	t.Helper()
	m := &machine{t: t, name: name, addr: addr, dir: filepath.Join(t.TempDir(), name), base: base, hub: h}
	for _, d := range []string{"cgroup", "mnt", "root"} {
		must(t, os.MkdirAll(filepath.Join(m.dir, d), 0o755))
	}
	disk := filepath.Join(m.dir, "disk")
	must(t, os.WriteFile(disk, nil, 0o600))
	must(t, os.Truncate(disk, 1<<30))
	output(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", disk)
	t.Cleanup(m.end)
	return m
}

// on boots it and plugs its cable in.
func (m *machine) on() {
	m.t.Helper()
	m.log.Reset()
	m.cmd = exec.Command("unshare", "--mount", "sh", "-c", around, "sh", m.dir, m.base, m.name, boot)
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	m.cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // the machine goes with the test, however that ends
	must(m.t, m.cmd.Start())
	m.ended = make(chan error, 1)
	cmd, ended := m.cmd, m.ended
	go func() { ended <- cmd.Wait() }()
	m.until("boots", func() error {
		select {
		case err := <-ended:
			ended <- err
			m.t.Fatalf("%s does not start: %v\n%s", m.name, err, m.log.String())
		default:
		}
		pid := onlyChild(onlyChild(cmd.Process.Pid))
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/systemd/private", pid))
		if pid > 0 && err == nil {
			m.pid = pid
		}
		return err
	})
	m.hub.plug(m)
	m.until("is up", func() error {
		out, err := m.try("", "systemctl", "is-system-running")
		if s := strings.TrimSpace(out); s == "running" || s == "degraded" {
			return nil
		}
		return fmt.Errorf("%s %v", out, err)
	})
}

// cut takes the power away: what was not synced is lost, every process is gone.
func (m *machine) cut() {
	m.t.Helper()
	must(m.t, shutdownDisk(fmt.Sprintf("/proc/%d/root/run/mnt", m.pid)))
	must(m.t, syscall.Kill(m.pid, syscall.SIGKILL))
	must(m.t, m.gone())
}

// end takes what is left of it away.
func (m *machine) end() {
	if m.pid == 0 && m.cmd == nil {
		return
	}
	if m.t.Failed() && m.pid != 0 {
		out, _ := m.try("", "journalctl", "--no-pager", "--lines=120")
		m.t.Logf("--- %s\n%s", m.name, out)
	}
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	if err := m.gone(); err != nil {
		m.t.Error(err)
	}
}

// gone waits until nothing of it runs.
func (m *machine) gone() error {
	if m.cmd == nil {
		return nil
	}
	<-m.ended
	m.cmd, m.pid = nil, 0
	if strings.Contains(m.log.String(), "left behind") {
		return fmt.Errorf("%s: %s", m.name, m.log.String())
	}
	return nil
}

// try runs a command in it.
func (m *machine) try(stdin string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	args := append([]string{"--target", strconv.Itoa(m.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--wdns=/root",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *machine) run(argv ...string) string {
	m.t.Helper()
	out, err := m.try("", argv...)
	if err != nil {
		m.t.Fatalf("%s: %v: %v\n%s", m.name, argv, err, out)
	}
	return out
}

// sh runs a line of shell.
func (m *machine) sh(line string) string { m.t.Helper(); return m.run("sh", "-ec", line) }

// until waits for a condition.
func (m *machine) until(what string, holds func() error) {
	m.t.Helper()
	for late := time.Now().Add(patience); ; time.Sleep(askEvery) {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(late) {
			m.t.Fatalf("%s: not yet: %s: %v", m.name, what, err)
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// output runs a program of this machine.
func output(t *testing.T, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}
