package testbed

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// nodeBirth is what a node's init is told (argv[1]) and nodeReady what it answers.
type nodeBirth struct {
	Dir  string `json:"dir"`  // the stage's directory
	Root string `json:"root"` // the node's disk in it, "" for a node without one
	Name string `json:"name"`
}

type nodeReady struct {
	HostPID string `json:"host_pid"`
	Err     string `json:"err,omitempty"`
}

// nodeInit is process 1 of a node. It sets the node's namespaces up, says so on
// descriptor 3, and then only collects orphans; when it is killed the kernel
// kills every process of the node (pid_namespaces(7)).
func nodeInit() int {
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	answer := os.NewFile(3, "answer")
	// An init that has no handler for a signal never gets it from inside its own
	// namespace; from outside only SIGKILL and SIGSTOP must count.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	var ready nodeReady
	ready.HostPID, _ = readlinkAt(4, "self")
	unix.Close(4)
	var birth nodeBirth
	err := json.Unmarshal([]byte(os.Args[1]), &birth)
	if err == nil {
		err = setupNode(birth)
	}
	if err != nil {
		ready.Err = err.Error()
	}
	b, _ := json.Marshal(ready)
	_, _ = answer.Write(b)
	answer.Close()
	if err != nil {
		return exitSetup
	}
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	for range chld {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if pid <= 0 {
				break
			}
		}
	}
	return 0
}

func setupNode(birth nodeBirth) error {
	// Slave: disks mounted and unmounted on the stage come and go here too, so no
	// node can keep another node's disk busy; nothing flows back.
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts a slave: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// So that /sys/class/net shows this node's interfaces. Refused where the
	// host's /sys is masked (containers); nothing here depends on it.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if birth.Root != "" {
		if err := unix.Mount(birth.Root, filepath.Join(birth.Dir, selfName), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", birth.Root, err)
		}
	}
	if err := unix.Sethostname([]byte(birth.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	// Addresses work at once: no duplicate address detection (RFC 4862 5.4 would
	// hold them back for a second), no waiting for routers that do not exist.
	for _, knob := range [][2]string{
		{"/proc/sys/net/ipv6/conf/all/accept_dad", "0"},
		{"/proc/sys/net/ipv6/conf/default/accept_dad", "0"},
		{"/proc/sys/net/ipv6/conf/all/accept_ra", "0"},
		{"/proc/sys/net/ipv6/conf/default/accept_ra", "0"},
	} {
		if err := os.WriteFile(knob[0], []byte(knob[1]), 0); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("set %s: %w", knob[0], err)
		}
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

func readlinkAt(fd int, name string) (string, error) {
	var b [256]byte
	n, err := unix.Readlinkat(fd, name, b[:])
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
