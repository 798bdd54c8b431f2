package packages

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hub is the switch between the machines, in a network namespace of its own.
type hub struct {
	t   *testing.T
	pid int
}

func newHub(t *testing.T) *hub {
	t.Helper()
	cmd := exec.Command("unshare", "--net", "--kill-child", "--fork", "sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	h := &hub{t: t}
	for h.pid = 0; h.pid == 0; {
		h.pid = onlyChild(cmd.Process.Pid)
	}
	h.in("ip", "link", "add", "br0", "type", "bridge")
	h.in("ip", "link", "set", "br0", "up")
	h.in("ip", "link", "set", "lo", "up")
	return h
}

// in runs a command beside it.
func (h *hub) in(argv ...string) {
	h.t.Helper()
	output(h.t, append([]string{"nsenter", "--target", strconv.Itoa(h.pid), "--net"}, argv...)...)
}

// plug gives a machine eth0 with its address.
func (h *hub) plug(m *machine) {
	h.t.Helper()
	port := "to-" + m.name
	h.in("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(m.pid))
	h.in("ip", "link", "set", port, "master", "br0", "up")
	m.run("ip", "addr", "add", m.addr+"/24", "dev", "eth0")
	m.run("ip", "link", "set", "eth0", "up")
}

// EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32), and EXT4_GOING_FLAGS_NOLOGFLUSH
// (fs/ext4/ext4.h): stop as if the power had gone.
const (
	ioctlShutdown = 0x8004587d
	noLogFlush    = 2
)

func shutdownDisk(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	how := uint32(noLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlShutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		return fmt.Errorf("shut down %s: %w", path, errno)
	}
	return nil
}
