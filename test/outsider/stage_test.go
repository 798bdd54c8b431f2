// Package outsider checks the product from outside: it builds the binary, knows
// what the documentation promises (commands, configuration, `status --json`, files on
// disk) and nothing of the code, and judges by addresses on interfaces,
// by who answers for them on the link, status and trees.
//
// It never imports a package of the product. It needs root and ip(8). All it
// starts lives in a mount, network and process namespace that ends with it,
// also when it is killed: nothing is left behind.
//
//	go test ./test/outsider            (REVOLVE_BIN=path to test a binary that is there)
package outsider

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary runs three times: as itself (builds, cleans up), as the first
// process of the namespaces (reaps), and as the tests.
const (
	levelEnv = "OUTSIDER_LEVEL"
	binEnv   = "REVOLVE_BIN"
)

func TestMain(m *testing.M) {
	switch os.Getenv(levelEnv) {
	case "":
		os.Exit(outside(m))
	case "init":
		os.Exit(initProcess())
	default:
		os.Exit(m.Run())
	}
}

// outside prepares what needs the network or must outlive the namespaces.
func outside(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("SKIPPED PART: the outsider's harness needs root")
		return 0
	}
	if _, err := exec.LookPath("ip"); err != nil {
		fmt.Println("SKIPPED PART: the outsider's harness needs ip(8):", err)
		return 0
	}
	dir, err := os.MkdirTemp("", "outsider")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin := os.Getenv(binEnv)
	if bin == "" {
		bin = filepath.Join(dir, "revolve")
		build := exec.Command("go", "build", "-o", bin, "revolve/cmd/revolve")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Printf("build: %v\n%s", err, out)
			return 1
		}
	}
	return rerun("init", &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}, binEnv+"="+bin, "TMPDIR="+dir)
}

func rerun(level string, attr *syscall.SysProcAttr, env ...string) int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(append(os.Environ(), levelEnv+"="+level), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		fmt.Println("SKIPPED PART: namespaces:", err)
		return 0
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	if level == "init" {
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode()
	}
	return reapUntil(cmd.Process.Pid)
}

// initProcess is process 1: when it ends, the kernel ends everything.
func initProcess() int {
	for _, step := range []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""), // ip netns keeps its files here
	} {
		if step != nil {
			fmt.Println("namespaces:", step)
			return 1
		}
	}
	return rerun("tests", &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL})
}

// reapUntil waits for everybody's orphans until the child has ended.
func reapUntil(child int) int {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 1
		}
		if pid == child {
			if status.Signaled() {
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		}
	}
}
