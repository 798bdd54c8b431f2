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
//
// What waits for the network is told of every notification, also of those that gather while nobody waits: on a standby
// each of its own renames would wake a thread. So there is an epoll(7) of its own between the two, which tells of one and is
// then silent until the next wait.
type parked struct {
	queue int
	gate  *os.File
	conn  syscall.RawConn
}

func park(queue int) (*parked, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.SetNonblock(fd, true), unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, queue, &unix.EpollEvent{})); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	p := &parked{queue: queue, gate: os.NewFile(uintptr(fd), "queue")}
	if p.conn, err = p.gate.SyscallConn(); err == nil {
		err = p.gate.SetReadDeadline(time.Time{}) // fails where the queue cannot be waited for
	}
	if err != nil {
		return nil, errors.Join(err, p.gate.Close())
	}
	return p, nil
}

func (p *parked) wait(most time.Duration, woken func() bool) error {
	if err := p.gate.SetReadDeadline(time.Now().Add(most)); err != nil {
		return err
	}
	if woken() { // a wake after this one moves the deadline
		return nil
	}
	var told bool
	var failed error
	err := p.conn.Control(func(gate uintptr) { failed = p.listen(gate, unix.EPOLLIN|unix.EPOLLONESHOT) })
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	err = p.conn.Read(func(gate uintptr) bool {
		told, failed = syswait.Told(int(gate))
		return told || failed != nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	if err = errors.Join(err, failed); err != nil || told {
		return err
	}
	err = p.conn.Control(func(gate uintptr) { failed = p.listen(gate, 0) })
	return errors.Join(err, failed)
}

// listen has the gate told of these events of the queue.
func (p *parked) listen(gate uintptr, events uint32) error {
	return unix.EpollCtl(int(gate), unix.EPOLL_CTL_MOD, p.queue, &unix.EpollEvent{Events: events})
}

func (p *parked) wake() { _ = p.gate.SetReadDeadline(time.Unix(1, 0)) } // fails only when it is closed

func (p *parked) close() error { return p.gate.Close() }

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
