package packages

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
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
	for _, bridge := range []string{"br0", "br1"} {
		h.in("ip", "link", "add", bridge, "type", "bridge")
		h.in("ip", "link", "set", bridge, "up")
	}
	h.in("ip", "link", "set", "lo", "up")
	return h
}

// in runs a command beside it.
func (h *hub) in(argv ...string) {
	h.t.Helper()
	output(h.t, append([]string{"nsenter", "--target", strconv.Itoa(h.pid), "--net"}, argv...)...)
}

// plug gives a machine eth0 with its address, and eth1 on a network of its own (10.78 instead of 10.77).
func (h *hub) plug(m *machine) {
	h.t.Helper()
	for i, addr := range []string{m.addr, strings.Replace(m.addr, "10.77.", "10.78.", 1)} {
		port, name := fmt.Sprintf("to%d-%s", i, m.name), fmt.Sprintf("eth%d", i)
		h.in("ip", "link", "add", port, "type", "veth", "peer", "name", name, "netns", strconv.Itoa(m.pid))
		h.in("ip", "link", "set", port, "master", fmt.Sprintf("br%d", i), "up")
		m.run("ip", "addr", "add", addr+"/24", "dev", name)
		m.run("ip", "link", "set", name, "up")
	}
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
