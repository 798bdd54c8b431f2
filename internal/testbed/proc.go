package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Bounds of Hold and Resume: a process may fork while we look, so we look again
// until nothing changes. One that waits for a disk takes the signal after that.
const (
	holdFor   = 20 * time.Second
	holdPause = 2 * time.Millisecond
)

// waitSlice is how often Proc.Wait looks whether its context has ended.
const waitSlice = 100 * time.Millisecond

// Command says what to run on a node. Argv[0] may be "/proc/self/exe" for this
// same program.
type Command struct {
	Argv   []string
	Env    []string // added to this process's environment
	Log    string   // file on the stage to which stdout and stderr are appended, unless given below
	Stdin  *os.File
	Stdout *os.File
	Stderr *os.File
}

// Proc is a process that was started on a node.
type Proc struct {
	cmd *exec.Cmd

	mu     sync.Mutex // who collects the process: Wait, or the node's end
	ended  bool
	status int
}

// inside runs f on a thread that is in the node's namespaces; children started
// by f are born in them. The thread is thrown away with its namespaces: setns
// and the unshare that it needs cannot be undone (setns(2)).
func (n *Node) inside(f func() error) error {
	if n.run == nil {
		return n.off("enter node")
	}
	done := make(chan error, 1) // joined below
	go n.enterAndRun(f, done)
	return <-done
}

func (n *Node) enterAndRun(f func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The process's main thread stands for it in /proc/self and must stay as
		// it is. While we hold it, the next goroutine gets another one.
		defer runtime.UnlockOSThread()
		done <- n.inside(f)
		return
	}
	done <- func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return &problem.Problem{Op: "enter node", Subject: string(n.ID), Kind: problem.Internal, Err: err}
		}
		for _, ns := range []struct {
			f    *os.File
			kind int
		}{{n.run.utsNS, unix.CLONE_NEWUTS}, {n.run.netNS, unix.CLONE_NEWNET}, {n.run.pidNS, unix.CLONE_NEWPID}, {n.run.mntNS, unix.CLONE_NEWNS}} {
			if err := unix.Setns(int(ns.f.Fd()), ns.kind); err != nil {
				return &problem.Problem{Op: "enter node", Subject: string(n.ID), Kind: problem.Internal, Err: err}
			}
		}
		return f()
	}()
}

// environment is this process's, without what would make a child take itself
// for a program on the stage.
func environment(extra []string) []string {
	env := make([]string, 0, len(extra)+32)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, envStage+"=") {
			env = append(env, kv)
		}
	}
	return append(env, extra...)
}

// Command prepares a command that runs on the stage itself, beside the nodes. It
// is killed when ctx ends.
func (s *Stage) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment(nil)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	return cmd
}

// Start starts a process on the node. It lives until it ends, the node's power
// goes off, or the stage ends.
func (n *Node) Start(c Command) (*Proc, error) {
	if len(c.Argv) == 0 {
		return nil, &problem.Problem{Op: "start", Subject: string(n.ID), Kind: problem.Invalid, Err: errors.New("no command")}
	}
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Env = environment(c.Env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Log != "" {
		f, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, &problem.Problem{Op: "open log", Subject: c.Log, Kind: problem.Unavailable, Err: err}
		}
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	// Typed nils must not reach os/exec, which would take them for readers.
	if c.Stdin != nil {
		cmd.Stdin = c.Stdin
	}
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if c.Stderr != nil {
		cmd.Stderr = c.Stderr
	}
	if err := n.inside(cmd.Start); err != nil {
		return nil, &problem.Problem{Op: "start " + c.Argv[0], Subject: string(n.ID), Kind: problem.Unavailable, Err: err}
	}
	p := &Proc{cmd: cmd}
	n.run.procs = append(slices.DeleteFunc(n.run.procs, (*Proc).gone), p)
	return p, nil
}

// Run runs a command on the node to its end and returns what it wrote to stdout.
// A failure carries the end of what it wrote to stderr.
func (n *Node) Run(ctx context.Context, argv ...string) ([]byte, error) {
	if len(argv) == 0 {
		return nil, &problem.Problem{Op: "run", Subject: string(n.ID), Kind: problem.Invalid, Err: errors.New("no command")}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment(nil)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	err := n.inside(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.Bytes(), &problem.Problem{Op: "run " + strings.Join(argv, " "), Subject: string(n.ID),
			Kind: problem.Unavailable, Err: fmt.Errorf("%w: %s", err, tail(errOut.String()))}
	}
	return out.Bytes(), nil
}

// tail is the end of a program's complaint, which is where the reason stands.
func tail(s string) string {
	const most = 600
	s = strings.TrimSpace(s)
	if len(s) > most {
		s = "..." + s[len(s)-most:]
	}
	return s
}

// PID is the process id as the stage sees it.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process; one that has ended is no error.
func (p *Proc) Signal(sig syscall.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return &problem.Problem{Op: "signal", Subject: strconv.Itoa(p.PID()), Kind: problem.Internal, Err: err}
	}
	return nil
}

// Wait waits for the end of the process and returns its exit status, 128 plus
// the signal's number when a signal ended it. When ctx ends first it returns
// ctx's error. It may be called again, and from several goroutines.
func (p *Proc) Wait(ctx context.Context) (int, error) {
	for {
		if status, ended := p.collect(false); ended {
			return status, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(waitSlice):
		}
	}
}

// gone reports whether the process has been collected.
func (p *Proc) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// collect reaps the process if it has ended, or once it has (wait).
func (p *Proc) collect(wait bool) (status int, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return p.status, true
	}
	if !wait {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != nil || info.Signo == 0 {
			return 0, false
		}
	}
	_ = p.cmd.Wait() // what it returns is in the status
	p.ended = true
	ws, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	p.status = ws.ExitStatus()
	if ws.Signaled() {
		p.status = 128 + int(ws.Signal())
	}
	return p.status, true
}

// Processes lists the node's processes, as the stage numbers them, without its init.
func (n *Node) Processes() ([]int, error) {
	if n.run == nil {
		return nil, n.off("list processes")
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, &problem.Problem{Op: "list processes", Kind: problem.Internal, Err: err}
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, &problem.Problem{Op: "list processes", Kind: problem.Internal, Err: err}
	}
	var out []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == n.run.init.Process.Pid {
			continue
		}
		if link, err := os.Readlink("/proc/" + name + "/ns/pid"); err == nil && link == n.run.pidLink {
			out = append(out, pid)
		}
	}
	return out, nil
}

// Hold freezes the node as a whole: every process gets SIGSTOP, again until a
// look finds all of them stopped. The kernel goes on: addresses age, ARP answers.
func (n *Node) Hold() error {
	return n.signalUntil(unix.SIGSTOP, func(state byte) bool { return state == 'T' || state == 'Z' || state == 'X' })
}

// Resume undoes Hold.
func (n *Node) Resume() error {
	return n.signalUntil(unix.SIGCONT, func(state byte) bool { return state != 'T' })
}

func (n *Node) signalUntil(sig syscall.Signal, settled func(state byte) bool) error {
	for until := time.Now().Add(holdFor); time.Now().Before(until); {
		pids, err := n.Processes()
		if err != nil {
			return err
		}
		rest := 0
		for _, pid := range pids {
			if state, ok := processState(pid); ok && !settled(state) {
				rest++
				_ = unix.Kill(pid, sig) // ESRCH: it has ended by itself
			}
		}
		if rest == 0 {
			return nil
		}
		time.Sleep(holdPause)
	}
	return &problem.Problem{Op: "send " + sig.String() + " to all of", Subject: string(n.ID), Kind: problem.Timeout}
}

// processState is the letter after the command's name in /proc/PID/stat (proc(5)).
func processState(pid int) (byte, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 || i+2 >= len(b) {
		return 0, false
	}
	return b[i+2], true
}
