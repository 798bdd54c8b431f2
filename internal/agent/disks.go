package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// This file is the health of the disks: one byte is made durable now and then in
// every volume and in the state directory. A disk that does not answer, or that is
// read-only, makes this node ill as a required service does: the addresses move.

const (
	// pulseEvery is how often a disk is asked; one that sleeps is woken by it.
	pulseEvery = 5 * time.Second
	// pulseInDoubt is how often one is asked that refused, or was ill.
	pulseInDoubt = time.Second
	// pulseStalled is the silence after which a disk is ill: busy disks were seen to take 5 s for a sync (corosync/corosync#520).
	pulseStalled = 10 * time.Second
	pulseFall    = 2 // refusals in a row that make it ill: the first may be a remount under way
	pulseRise    = 3 // good answers in a row that make it well again
	// pulseLeave is how long the end waits for a question that the kernel holds. It cannot be taken back; the process ends without it.
	pulseLeave = time.Second
)

// pulse is what is known of one disk. It is pure: time comes in as a value.
type pulse struct {
	began     time.Time // of the question that is open; zero if none is
	bad, good int
	ill       bool
	why       string
}

// end takes an answer in. errNoPulse says nothing about the disk.
func (p *pulse) end(err error) {
	p.began = time.Time{}
	switch {
	case errors.Is(err, errNoPulse):
	case err != nil:
		p.bad, p.good = p.bad+1, 0
		if p.bad >= pulseFall {
			p.ill, p.why = true, err.Error()
		}
	default:
		p.bad, p.good = 0, p.good+1
		if p.good >= pulseRise {
			p.ill, p.why = false, ""
		}
	}
}

// look reports whether a question has been open for too long.
func (p *pulse) look(now time.Time) (stalled bool) {
	if p.began.IsZero() || now.Sub(p.began) < pulseStalled {
		return false
	}
	p.ill, p.good = true, 0
	p.why = fmt.Sprintf("it has not answered for %d s", int(now.Sub(p.began).Seconds()))
	return true
}

func (p *pulse) next() time.Duration {
	if p.ill || p.bad > 0 {
		return pulseInDoubt
	}
	return pulseEvery
}

// disk is one directory that is asked.
type disk struct {
	name, dir, file string
	mu              sync.Mutex
	pulse           pulse
}

// disks are those of this node.
type disks []*disk

func (a *Agent) openDisks() {
	a.disks = disks{{name: "the state directory", dir: a.o.State, file: "pulse"}}
	for _, v := range a.o.Config.Volumes {
		a.disks = append(a.disks, &disk{name: "volume " + string(v.Name), dir: a.o.Config.VolumePath(a.o.Node, cluster.VolumeID(v.Name)), file: ".revolve/pulse"})
	}
}

// run asks every disk until ctx ends.
func (s disks) run(ctx context.Context, changed func(name, why string)) error {
	var g errgroup.Group
	for _, d := range s {
		g.Go(func() error { d.run(ctx, changed); return nil })
	}
	return g.Wait()
}

func (d *disk) run(ctx context.Context, changed func(name, why string)) {
	answers := make(chan error, 1)
	wait := time.NewTimer(0)
	defer wait.Stop()
	watch := time.NewTicker(pulseInDoubt)
	defer watch.Stop()
	for {
		before := d.state()
		select {
		case <-ctx.Done():
			if !before.began.IsZero() {
				select {
				case <-answers:
				case <-time.After(pulseLeave):
				}
			}
			return
		case <-wait.C:
			d.with(func(p *pulse) { p.began = time.Now() })
			go func() { answers <- beatOnce(d.dir, d.file) }()
		case err := <-answers:
			d.with(func(p *pulse) { p.end(err) })
			after := d.state()
			wait.Reset(after.next())
		case now := <-watch.C:
			d.with(func(p *pulse) { p.look(now) })
		}
		if after := d.state(); after.ill != before.ill {
			changed(d.name, after.why)
		}
	}
}

func (d *disk) with(do func(*pulse)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do(&d.pulse)
}

func (d *disk) state() (p pulse) {
	d.with(func(x *pulse) { p = *x })
	return p
}

// errNoPulse: the question could not be asked, for a reason that is not the disk's health.
var errNoPulse = errors.New("not asked")

// beatOnce makes one byte durable. No name is followed through a symbolic link.
func beatOnce(dir, file string) error {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errNoPulse // that it is not there is the mirror's to notice
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, file, &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_NONBLOCK | unix.O_CLOEXEC, Mode: 0o600,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return refusal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errNoPulse
	}
	if _, err := unix.Pwrite(fd, []byte{'.'}, 0); err != nil {
		return refusal(err)
	}
	return refusal(unix.Fdatasync(fd))
}

// refusal keeps what tells that a disk is ill. A full one is not: the mirror says so, and makes room.
func refusal(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ESTALE), errors.Is(err, unix.EUCLEAN):
		return &problem.Problem{Op: "write to", Kind: problem.Unavailable, Err: err}
	}
	return errNoPulse
}

// Ill reports whether a disk of this node is ill.
func (s disks) Ill() bool { return len(s.Why()) > 0 }

// Why says which are ill, and why.
func (s disks) Why() (lines []string) {
	for _, d := range s {
		if p := d.state(); p.ill {
			lines = append(lines, fmt.Sprintf("the disk of %s is ill: %s", d.name, p.why))
		}
	}
	return lines
}

// Stalled reports whether one holds whoever asks it: what needs it must not be waited for.
func (s disks) Stalled() bool {
	for _, d := range s {
		if p := d.state(); p.ill && !p.began.IsZero() && time.Since(p.began) >= pulseStalled {
			return true
		}
	}
	return false
}

// ill reports whether this node should not lead while a well one can.
func (a *Agent) ill() bool { return a.daemon.Ill() || a.disks.Ill() }

// minding watches the disks.
func (a *Agent) minding(ctx context.Context) error {
	return a.disks.run(ctx, func(name, why string) {
		if why != "" {
			a.o.Log.Error("a disk is ill: this node does not lead while a well one can", "of", name, "why", strings.TrimSpace(why),
				"hint", "look at dmesg; a disk that became read-only: mount -o remount,rw MOUNTPOINT")
			return
		}
		a.o.Log.Info("a disk is well again", "of", name)
	})
}
