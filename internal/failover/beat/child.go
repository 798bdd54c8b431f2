package beat

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"revolve/internal/failover/vip"
	"revolve/internal/problem"
)

// agentFD is where the child finds its end of the socketpair (the first of exec.Cmd.ExtraFiles).
const agentFD = 3

// configWait bounds the wait for the configuration, in ms: the agent sends it right after the start.
const configWait = 5000

// Main is the life of the child process, on file descriptor 3; `revolve beat`
// calls it. It returns when the agent is gone or asked it to end (nil), when ctx
// ends, or when it cannot start; the VIPs are gone then.
func Main(ctx context.Context) error {
	// The agent ends this process in order; a signal to the whole group must not end it before.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	agent := os.Getppid()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	l, err := newLoop(cfg)
	if err == nil {
		defer l.close()
		if l.realTime, l.refused = harden(); l.realTime {
			l.lender = newLender(agent)
		}
		if l.quiet.err != nil && !cfg.External {
			l.refused = append(l.refused, "silence of the kernel: "+l.quiet.err.Error())
		}
		return l.run(ctx)
	}
	text := append([]byte{msgFailed}, err.Error()...)
	return errors.Join(err, unix.Send(agentFD, text, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
}

func readConfig() (*Config, error) {
	fail := func(err error) (*Config, error) {
		return nil, &problem.Problem{Op: "read configuration of beat", Kind: problem.Invalid, Err: err,
			Hint: "this command is started by `revolve agent`, not by hand"}
	}
	if err := unix.SetNonblock(agentFD, true); err != nil {
		return fail(err)
	}
	fds := []unix.PollFd{{Fd: agentFD, Events: unix.POLLIN}}
	if n, err := pollAgain(fds, configWait); n == 0 || err != nil {
		return fail(errors.Join(err, errors.New("none came")))
	}
	buf := make([]byte, maxMessage)
	n, err := unix.Read(agentFD, buf)
	if err != nil || n < 1 || buf[0] != msgConfig {
		return fail(errors.Join(err, errors.New("not a configuration")))
	}
	var c Config
	if err := json.Unmarshal(buf[1:n], &c); err != nil {
		return fail(err)
	}
	clear(buf[:n]) // the key
	return &c, nil
}

func pollAgain(fds []unix.PollFd, ms int) (int, error) {
	for {
		if n, err := unix.Poll(fds, ms); err != unix.EINTR {
			return n, err
		}
	}
}

// scrub is rule R12: whatever a former life left behind goes before the first packet.
func scrub(c *Config) error {
	if c.External {
		return nil
	}
	_, err := vip.Scrub(c.vips())
	return err
}
