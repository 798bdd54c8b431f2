package testbed

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Child does the work of a re-executed process (see Reexecuted) and returns its
// exit status.
func Child() int {
	switch os.Args[0] {
	case argvStage:
		return stageInit()
	case argvNode:
		return nodeInit()
	}
	return exitSetup
}

// stageInit is process 1 of the stage: it sets the namespaces up, starts the
// program, collects orphans, and ends when the program or the parent does.
func stageInit() int {
	unix.CloseOnExec(fdLifeline)
	unix.CloseOnExec(fdReport)
	report := os.NewFile(fdReport, "report")
	var info stageInfo
	if err := json.Unmarshal([]byte(os.Getenv(envStage)), &info); err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		return exitSetup
	}
	files, err := setupStage(&info)
	if err != nil {
		_, _ = report.Write(encodeReport(err))
		return exitSetup
	}
	stop := make(chan os.Signal, 8)
	signal.Notify(stop, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	pid, err := startProgram(info, files)
	if err != nil {
		_, _ = report.Write(encodeReport(&problem.Problem{Op: "start the program", Kind: problem.Internal, Err: err}))
		return exitSetup
	}
	for _, f := range files {
		f.Close()
	}
	report.Close()

	go func() { // ends with the process: an init has nobody to outlive it
		for s := range stop {
			if sig, ok := s.(syscall.Signal); ok {
				_ = unix.Kill(pid, sig)
			}
		}
	}()
	go func() {
		var b [1]byte
		for {
			_, err := unix.Read(fdLifeline, b[:])
			if err == unix.EINTR {
				continue
			}
			_ = unix.Kill(pid, unix.SIGKILL) // the parent is gone; reapUntil returns and we end
			return
		}
	}()
	status := reapUntil(pid)
	endStage(info.Dir)
	return status
}

// setupStage makes mounts private, the process list our own and the directory a
// tmpfs of the stage. It returns the files that the program inherits.
func setupStage(info *stageInfo) ([]*os.File, error) {
	self, err := os.Readlink("/proc/self") // still the host's /proc: our id as the user sees it
	if err != nil {
		return nil, &problem.Problem{Op: "read", Subject: "/proc/self", Kind: problem.Internal, Err: err}
	}
	if info.HostPID, err = strconv.Atoi(self); err != nil {
		return nil, &problem.Problem{Op: "read", Subject: "/proc/self", Kind: problem.Internal, Err: err}
	}
	hostProc, err := os.Open("/proc")
	if err != nil {
		return nil, &problem.Problem{Op: "open", Subject: "/proc", Kind: problem.Internal, Err: err}
	}
	// Private first: nothing may reach the host. Then shared among ourselves, so
	// that a disk which is mounted later appears in nodes that already run
	// (mount_namespaces(7), shared subtrees).
	for _, flag := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("none", "/", "", unix.MS_REC|flag, ""); err != nil {
			return nil, refused("make mounts private", err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, &problem.Problem{Op: "mount", Subject: "/proc", Kind: problem.Permission, Err: err,
			Hint: "run it as root; in a container, give it --privileged or an unmasked /proc"}
	}
	disks, err := os.Open(info.Dir)
	if err != nil {
		return nil, &problem.Problem{Op: "open", Subject: info.Dir, Kind: problem.Internal, Err: err}
	}
	if err := unix.Mount("revolve-stage", info.Dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return nil, refused("mount "+info.Dir, err)
	}
	if err := loopbackUp(); err != nil {
		return nil, refused("bring lo up", err)
	}
	return []*os.File{disks, hostProc}, nil
}

// startProgram starts the program that wanted a stage. syscall.ForkExec and not
// os/exec, because reapUntil collects every child itself.
func startProgram(info stageInfo, files []*os.File) (int, error) {
	text, err := json.Marshal(info)
	if err != nil {
		return 0, err
	}
	argv := append([]string{os.Getenv("REVOLVE_TESTBED_ARGV0")}, os.Args[1:]...)
	os.Unsetenv("REVOLVE_TESTBED_ARGV0")
	os.Setenv(envStage, string(text))
	fds := []uintptr{0, 1, 2}
	for _, f := range files {
		fds = append(fds, f.Fd())
	}
	return syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{Env: os.Environ(), Files: fds})
}

// reapUntil collects children until pid has ended and returns its status, 128
// plus the signal's number when a signal ended it.
func reapUntil(pid int) int {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return exitSetup
		case got != pid:
			continue
		case ws.Signaled():
			return 128 + int(ws.Signal())
		}
		return ws.ExitStatus()
	}
}

// endStage ends every process of the stage and removes its directory. The kernel
// would do the former; the latter nobody does if the parent is gone.
func endStage(dir string) {
	_ = unix.Kill(-1, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			break // ECHILD: nobody is left
		}
	}
	_ = unix.Unmount(dir, unix.MNT_DETACH)
	_ = os.Remove(dir)
}
