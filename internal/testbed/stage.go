package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Names in argv[0] and the environment that tell a re-executed program what it
// is. argv[0] is used for the inits because it is not inherited by children.
const (
	argvStage = "revolve-testbed-stage"
	argvNode  = "revolve-testbed-node"
	envStage  = "REVOLVE_TESTBED_STAGE"
)

// Descriptors handed to the stage's init and to the program on the stage.
const (
	fdLifeline = 3 // init: read end of a pipe that only the parent holds; EOF = the parent is gone
	fdReport   = 4 // init: where a setup failure is written as JSON

	fdDisks    = 3 // program: the temporary directory below the stage's tmpfs, on the host's disk
	fdHostProc = 4 // program: the host's /proc, to learn process ids as another terminal sees them
)

// exitSetup is the exit status of an init that could not set its namespaces up;
// the reason went over fdReport.
const exitSetup = 125

// orderlyEnd is how long the program may take to end by itself after its context
// did; the demo's own end takes well under a second.
const orderlyEnd = 10 * time.Second

// maxReport bounds what is read from an init that failed to set up; it is one
// JSON object of a few lines.
const maxReport = 64 << 10

// Stage is the private world in which beds are made. It is valid in the program
// that Enter started, and ends with it.
type Stage struct {
	Dir     string // private directory, a tmpfs that only the stage sees
	HostPID int    // process id of the stage's init as the starting user sees it; /proc/HostPID/root shows Dir
	Mapped  bool   // the stage is in a user namespace of its own: root here is an ordinary user outside

	disks    *os.File // directory on the host's disk, for the backing files of loop devices
	hostProc *os.File
}

// stageInfo travels from the stage's init to the program in envStage.
type stageInfo struct {
	Dir     string `json:"dir"`
	HostPID int    `json:"host_pid"`
	Mapped  bool   `json:"mapped"`
}

// Reexecuted reports whether this process was started by the testbed as the
// first process of a stage or of a node. If so the program must do nothing but
// os.Exit(Child()).
func Reexecuted() bool {
	return len(os.Args) > 0 && (os.Args[0] == argvStage || os.Args[0] == argvNode)
}

// Current returns the stage that this process runs on. The second result is
// false when it runs on none.
func Current() (*Stage, bool, error) {
	text, ok := os.LookupEnv(envStage)
	if !ok {
		return nil, false, nil
	}
	var info stageInfo
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return nil, false, &problem.Problem{Op: "read " + envStage, Kind: problem.Invalid, Err: err,
			Hint: "unset " + envStage + "; the testbed sets it itself"}
	}
	unix.CloseOnExec(fdDisks)
	unix.CloseOnExec(fdHostProc)
	return &Stage{
		Dir: info.Dir, HostPID: info.HostPID, Mapped: info.Mapped,
		disks:    os.NewFile(fdDisks, "disks"),
		hostProc: os.NewFile(fdHostProc, "host-proc"),
	}, true, nil
}

// Enter runs this program again on a new stage with the arguments args (without
// the program's name; nil: the same arguments as now), passes SIGINT, SIGTERM
// and SIGHUP on to it and returns its exit status once nothing of the stage is
// left. When ctx ends, the stage is ended.
//
// An error (Kind Permission or Unavailable) says that there could be no stage,
// with a hint that says what to type.
func Enter(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	if args == nil {
		args = os.Args[1:]
	}
	dir, err := os.MkdirTemp("", "revolve-")
	if err != nil {
		return 0, &problem.Problem{Op: "make a temporary directory", Kind: problem.Unavailable, Err: err,
			Hint: "set TMPDIR to a directory that you may write to"}
	}
	// The stage removes it too (it may outlive us); whoever comes second finds nothing.
	defer os.RemoveAll(dir)
	mapped := !privileged()
	status, err := enter(ctx, dir, mapped, args, stdout, stderr)
	if err != nil && !mapped && problem.KindOf(err) == problem.Permission {
		// Root of a container: the capabilities are there, the kernel refuses all the same.
		status, err = enter(ctx, dir, true, args, stdout, stderr)
	}
	return status, err
}

func enter(ctx context.Context, dir string, mapped bool, args []string, stdout, stderr io.Writer) (int, error) {
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return 0, &problem.Problem{Op: "make a pipe", Kind: problem.Unavailable, Err: err}
	}
	defer lifeW.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		lifeR.Close()
		return 0, &problem.Problem{Op: "make a pipe", Kind: problem.Unavailable, Err: err}
	}
	defer reportR.Close()
	info, err := json.Marshal(stageInfo{Dir: dir, Mapped: mapped})
	if err != nil {
		return 0, &problem.Problem{Op: "describe the stage", Kind: problem.Internal, Err: err}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = argvStage
	cmd.Env = append(os.Environ(), envStage+"="+string(info), "REVOLVE_TESTBED_ARGV0="+os.Args[0])
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.ExtraFiles = []*os.File{lifeR, reportW}
	cmd.SysProcAttr = stageAttr(mapped)
	err = cmd.Start()
	lifeR.Close()
	reportW.Close()
	if err != nil {
		return 0, refused("make namespaces", err)
	}
	stop := make(chan os.Signal, 8)
	signal.Notify(stop, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(stop)
	report, err := io.ReadAll(io.LimitReader(reportR, maxReport))
	if err == nil && len(report) > 0 {
		_ = cmd.Wait()
		return 0, decodeReport(report)
	}
	return waitStage(ctx, cmd, stop, lifeW)
}

// waitStage passes signals on until the stage has ended.
func waitStage(ctx context.Context, cmd *exec.Cmd, stop <-chan os.Signal, lifeline *os.File) (int, error) {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // joined below: waitStage returns only after it
	done := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case s := <-stop:
			if sig, ok := s.(syscall.Signal); ok {
				_ = cmd.Process.Signal(sig)
			}
		case <-done:
			_ = cmd.Process.Signal(unix.SIGTERM)
			late, done = time.After(orderlyEnd), nil
		case <-late:
			lifeline.Close() // the stage's init kills the program
		case err := <-ended:
			var exit *exec.ExitError
			switch {
			case err == nil:
				return 0, nil
			case errors.As(err, &exit) && exit.Exited():
				return exit.ExitCode(), nil
			case ctx.Err() != nil:
				return 0, ctx.Err()
			default:
				return 0, &problem.Problem{Op: "run on the stage", Kind: problem.Internal, Err: err}
			}
		}
	}
}

// stageAttr asks for the namespaces. Its own process group keeps a terminal's
// Ctrl-C from reaching the nodes' processes; Enter passes it on to the program.
func stageAttr(mapped bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Setpgid:    true,
	}
	if mapped {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		// One id each: the only map that an ordinary user may write (user_namespaces(7)).
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// privileged reports whether this process may make namespaces, bridges and
// mounts without a user namespace.
func privileged() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return os.Geteuid() == 0 && data[0].Effective&need == need
}

// refused is the problem for a kernel that lets us have no namespaces.
func refused(op string, err error) error {
	return &problem.Problem{Op: op, Kind: problem.Permission, Err: err, Hint: namespaceHint()}
}

// namespaceHint says what to type on this machine so that an ordinary user may
// have namespaces.
func namespaceHint() string {
	for _, knob := range []struct{ file, bad, name, good string }{
		// Debian's and Arch's own switch; Ubuntu's; the kernel's limit (user_namespaces(7)).
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone", "1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns", "0"},
		{"/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces", "1000"},
		{"/proc/sys/user/max_net_namespaces", "0", "user.max_net_namespaces", "1000"},
	} {
		if b, err := os.ReadFile(knob.file); err == nil && strings.TrimSpace(string(b)) == knob.bad {
			return fmt.Sprintf("type `sudo sysctl %s=%s`, or run it as root", knob.name, knob.good)
		}
	}
	return "run it as root; in a container, give it --privileged"
}

// wireProblem is a Problem as it travels over fdReport.
type wireProblem struct {
	Op      string       `json:"op"`
	Kind    problem.Kind `json:"kind"`
	Subject string       `json:"subject"`
	Err     string       `json:"err"`
	Hint    string       `json:"hint"`
}

func encodeReport(err error) []byte {
	w := wireProblem{Op: "set up the stage", Kind: problem.KindOf(err), Err: err.Error(), Hint: problem.HintOf(err)}
	b, jerr := json.Marshal(w)
	if jerr != nil {
		return []byte("{}")
	}
	return b
}

func decodeReport(b []byte) error {
	var w wireProblem
	if err := json.Unmarshal(b, &w); err != nil {
		return &problem.Problem{Op: "set up the stage", Kind: problem.Internal, Err: err}
	}
	return &problem.Problem{Op: w.Op, Kind: w.Kind, Subject: w.Subject, Err: errors.New(w.Err), Hint: w.Hint}
}
