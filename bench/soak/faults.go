package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
)

// fault is something bad, or an order of a person, that comes by chance.
type fault struct {
	name string
	ends bool // the agent: not on the keeper
	// kills: the agent ends by it and is started again, once.
	kills bool
	// stops: the node does nothing, or writes nothing, while it lasts. What ends the agent does so, too.
	stops bool
	// parts: nodes that live do not hear one another, so two may serve.
	parts bool
	// begin does it, and says what undoes it (nil: nothing) and after how long.
	begin func(ctx context.Context, n *node, r *rand.Rand) (undo func() error, lasts time.Duration, err error)
}

// faults are all kinds. The clock cannot be stepped: Linux has no namespace for the time of day, and the machine's is not ours; the files' times are.
func faults() []fault {
	return []fault{
		{name: "power cut", ends: true, begin: cutPower},
		{name: "agent killed", ends: true, kills: true, begin: killed("agent")},
		{name: "beat process killed", ends: true, kills: true, begin: killed("beat")},
		{name: "node frozen", stops: true, begin: frozen},
		{name: "one link cut", begin: cutOne},
		{name: "both links cut", parts: true, begin: cutBoth},
		{name: "nothing goes out (one way)", parts: true, begin: oneWay},
		{name: "two and two", parts: true, begin: split},
		{name: "disk stands still", stops: true, begin: slowDisk},
		{name: "disk full", begin: fullDisk},
		{name: "planned switch", begin: switched},
		{name: "maintenance", begin: maintenance},
		{name: "agent restarted in order", ends: true, begin: restarted},
		{name: "files' times step", begin: steppedTimes},
		{name: "many changes at once", begin: churn},
	}
}

// between is a time by chance.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

func cutPower(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	return func() error {
		if err := n.PowerOn(); err != nil {
			return err
		}
		return n.boot()
	}, between(r, 2*time.Second, 12*time.Second), n.off()
}

func killed(process string) func(context.Context, *node, *rand.Rand) (func() error, time.Duration, error) {
	return func(_ context.Context, n *node, _ *rand.Rand) (func() error, time.Duration, error) {
		pid := n.pid(process)
		if pid == 0 {
			return nil, 0, errRefused{errors.New("it does not run")}
		}
		err := unix.Kill(pid, unix.SIGKILL)
		if errors.Is(err, unix.ESRCH) {
			err = nil
		}
		return nil, 0, err // it is started again as systemd does
	}
}

func frozen(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	return n.Resume, between(r, 500*time.Millisecond, 8*time.Second), n.Hold()
}

func cutOne(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	link := []cluster.LinkID{lan, fast}[r.IntN(2)]
	do := n.Cut
	if r.IntN(2) == 0 {
		do = n.CutSilently
	}
	return func() error { return n.Mend(link) }, between(r, 500*time.Millisecond, 10*time.Second), do(link)
}

func cutBoth(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	return func() error { return errors.Join(n.Mend(lan), n.Mend(fast)) }, between(r, 500*time.Millisecond, 10*time.Second), errors.Join(n.CutSilently(lan), n.CutSilently(fast))
}

// oneWay has the node hear the others, who do not hear it.
func oneWay(ctx context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	nft := func(rule string) error {
		out, err := n.Run(ctx, "nft", rule)
		if err != nil {
			err = fmt.Errorf("nft: %w: %s", err, out)
		}
		return err
	}
	undo := func() error { return nft("delete table inet soak") }
	return undo, between(r, 500*time.Millisecond, 8*time.Second), nft("table inet soak { chain out { type filter hook output priority 0; udp dport 7373 drop; tcp dport 7373 drop; tcp sport 7373 drop; }; }")
}

// split takes this node and another one to the far side of both switches.
func split(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	var other *node
	for _, i := range r.Perm(len(n.lab.nodes)) {
		if x := n.lab.nodes[i]; x != n && !x.struck {
			other = x
			break
		}
	}
	if other == nil {
		return nil, 0, errRefused{errors.New("no other node is without a fault")}
	}
	other.struck = true
	both := []*node{n, other}
	undo := func() (err error) {
		other.struck = false
		for _, x := range both {
			err = errors.Join(err, x.Mend(lan), x.Mend(fast))
		}
		return err
	}
	var err error
	for _, x := range both {
		err = errors.Join(err, x.Split(lan), x.Split(fast))
	}
	return undo, between(r, 2*time.Second, 10*time.Second), err
}

// ioctls of a file system (linux/fs.h): _IOWR('X', 119, int) and _IOWR('X', 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (n *node) filesystem(what uint) error {
	d, err := os.Open(n.Root())
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.IoctlSetInt(int(d.Fd()), what, 0)
}

// slowDisk is one that answers nothing for a while; one time in four for so long that it counts as ill.
func slowDisk(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	lasts := between(r, 500*time.Millisecond, 4*time.Second)
	if r.IntN(4) == 0 {
		lasts = between(r, 12*time.Second, 18*time.Second)
	}
	return func() error { return n.filesystem(fiThaw) }, lasts, n.filesystem(fiFreeze)
}

func fullDisk(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	path := filepath.Join(n.Root(), "ballast")
	undo := func() error { return os.Remove(path) }
	f, err := os.Create(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	at := int64(0)
	for size := int64(64 << 20); size >= 4096; {
		err := unix.Fallocate(int(f.Fd()), 0, at, size)
		switch {
		case err == nil:
			at += size
		case errors.Is(err, unix.ENOSPC):
			size /= 2
		case !errors.Is(err, unix.EINTR):
			return undo, 0, err
		}
	}
	return undo, between(r, 2*time.Second, 8*time.Second), nil
}

// errRefused is an order that the product, or the moment, did not take; the soak goes on.
type errRefused struct{ error }

func switched(_ context.Context, n *node, _ *rand.Rand) (func() error, time.Duration, error) {
	_, err := n.lab.revolve("switch", "--state", n.state())
	if err != nil {
		err = errRefused{err}
	}
	return nil, 0, err
}

func maintenance(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	undo := func() error {
		_, err := n.lab.revolve("maintenance", "off", "--state", n.state())
		return err
	}
	if _, err := n.lab.revolve("maintenance", "on", "--state", n.state()); err != nil {
		return undo, 0, errRefused{err}
	}
	return undo, between(r, 2*time.Second, 8*time.Second), nil
}

func restarted(ctx context.Context, n *node, _ *rand.Rand) (func() error, time.Duration, error) {
	if err := n.stop(ctx); err != nil {
		return nil, 0, err
	}
	return nil, 0, n.start()
}

// onDisk writes below the volume of the master by hand, as a program on it would.
func onDisk(n *node, do func(home string) error) error {
	if !n.On() {
		return errRefused{errors.New("it is off")}
	}
	if err := do(n.home()); err != nil {
		return errRefused{err} // a disk may be full, a name gone with the last master
	}
	return nil
}

// steppedTimes leaves files as a clock does that was far behind or ahead.
func steppedTimes(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	err := onDisk(n, func(home string) error {
		dir := filepath.Join(home, "steps")
		err := os.MkdirAll(dir, 0o755)
		for i, by := range []time.Duration{-50 * 365 * 24 * time.Hour, -time.Hour, time.Hour, 365 * 24 * time.Hour} {
			name, at := filepath.Join(dir, fmt.Sprintf("step-%d", i)), time.Now().Add(by)
			err = errors.Join(err, os.WriteFile(name, []byte(strings.Repeat("tick ", 1+r.IntN(500))), 0o644), os.Chtimes(name, at, at))
		}
		return err
	})
	return nil, 0, err
}

// churn is what people do to trees: many new files, a directory that gets another name, and one that goes.
func churn(_ context.Context, n *node, r *rand.Rand) (func() error, time.Duration, error) {
	err := onDisk(n, func(home string) error {
		root := filepath.Join(home, "trees")
		number := r.IntN(1 << 30)
		dir := filepath.Join(root, fmt.Sprintf("new-%d", number), "deep")
		err := os.MkdirAll(dir, 0o755)
		for i := range 60 {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(strings.Repeat("leaf ", r.IntN(2000))), 0o644))
		}
		if err != nil {
			return err
		}
		list, err := os.ReadDir(root)
		if err != nil {
			return err
		}
		for _, e := range list {
			path := filepath.Join(root, e.Name())
			switch {
			case e.Name() == fmt.Sprintf("new-%d", number):
			case strings.HasPrefix(e.Name(), "new-"):
				err = errors.Join(err, os.Rename(path, filepath.Join(root, strings.Replace(e.Name(), "new-", "old-", 1))))
			case len(list) > 4:
				err = errors.Join(err, os.RemoveAll(path))
			}
		}
		return err
	})
	return nil, 0, err
}
