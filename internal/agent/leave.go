package agent

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/syswait"
)

// The thread that says the word does nothing else, and gets a processor before
// every ordinary program. A nice value is not enough for that where sessions or
// services share the processors as groups (sched(7), autogroup and cgroups): it
// counts within the group only. What this thread needs of the runtime's other
// threads it gets at the latest when the beat process lends them its priority
// (beat/lend.go).
const (
	leavePriority = 2   // real-time; above what beat lends, below beat itself
	leaveNice     = -15 // where real-time is refused
)

// giveLeave lets the beat process hold the VIPs for as long as we live.
func (a *Agent) giveLeave(ctx context.Context) error {
	// Never unlocked: the thread ends with the goroutine, and its priority with it.
	runtime.LockOSThread()
	hurry(a)
	for ctx.Err() == nil {
		a.tell()
		a.words.Add(1)
		a.said.Store(int64(time.Since(a.since)))
		// The thread sleeps in the kernel, which wakes it by its priority; a timer of the runtime is served by whichever thread gets a processor.
		syswait.Sleep(wordEvery) // woken by a signal, the word is said early
	}
	return nil
}

// hurry raises the priority of the calling thread; what it starts does not inherit it.
func hurry(a *Agent) {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: leavePriority, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if err := unix.SchedSetAttr(0, &attr, 0); err == nil {
		return
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), leaveNice); err != nil {
		a.o.Log.Debug("the word is said with ordinary priority", "err", err)
	}
}
