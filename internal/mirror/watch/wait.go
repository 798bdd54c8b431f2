package watch

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/syswait"
)

// waiter waits until a queue holds something.
type waiter interface {
	// wait returns when there is something, after most, or because of a wake. woken says whether one came before.
	wait(most time.Duration, woken func() bool) error
	// wake ends the wait under way, or the next one; any goroutine may call it, until close.
	wake()
	close() error
}

// parked waits as goroutines wait for the network: the thread that hears of a
// change goes on with those whom it concerns. A thread of its own in poll(2) had to wake others for that.
type parked struct {
	file *os.File // the queue, by a descriptor of its own
	conn syscall.RawConn
}

func park(queue int) (*parked, error) {
	fd, err := unix.FcntlInt(uintptr(queue), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &parked{file: os.NewFile(uintptr(fd), "queue")}
	if p.conn, err = p.file.SyscallConn(); err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // fails where the queue cannot be waited for
	}
	if err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	return p, nil
}

func (p *parked) wait(most time.Duration, woken func() bool) error {
	if err := p.file.SetReadDeadline(time.Now().Add(most)); err != nil {
		return err
	}
	if woken() { // a wake after this one moves the deadline
		return nil
	}
	var failed error
	err := p.conn.Read(func(fd uintptr) (ready bool) {
		ready, failed = syswait.Ready(int(fd))
		return ready || failed != nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return errors.Join(err, failed)
}

func (p *parked) wake() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) } // fails only when it is closed

func (p *parked) close() error { return p.file.Close() }

// polled waits in poll(2), for a queue whose descriptor is exchanged for another one under its number.
type polled struct {
	queue int
	event int // eventfd
}

func poll(queue int) (*polled, error) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return &polled{queue, event}, err
}

func (p *polled) wait(most time.Duration, _ func() bool) error {
	fds := []unix.PollFd{{Fd: int32(p.queue), Events: unix.POLLIN}, {Fd: int32(p.event), Events: unix.POLLIN}}
	timeout := unix.NsecToTimespec(int64(most))
	_, err := syswait.Poll(fds, &timeout)
	if fds[1].Revents != 0 {
		var count [8]byte
		_, _ = unix.Read(p.event, count[:]) // only to make it unreadable again
	}
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

func (p *polled) wake() {
	_, _ = unix.Write(p.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only when it is readable already
}

func (p *polled) close() error { return unix.Close(p.event) }
