package agent

import (
	"context"
	"runtime"

	"golang.org/x/sys/unix"

	"revolve/internal/syswait"
)

// leaveNice is the priority of the thread that says the word: a machine whose
// processors are wanted by dozens of programs kept an agent of ordinary priority
// from saying it for 800 ms, and the addresses moved although nobody was ill
// (bench/NOTES.md). Nothing else of the agent runs on that thread.
const leaveNice = -15

// giveLeave lets the beat process hold the VIPs for as long as we live.
func (a *Agent) giveLeave(ctx context.Context) error {
	// Never unlocked: the thread ends with the goroutine, and its priority with it.
	runtime.LockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), leaveNice); err != nil {
		a.o.Log.Debug("the word is said with ordinary priority", "err", err)
	}
	for ctx.Err() == nil {
		a.tell()
		// The thread sleeps in the kernel, which wakes it by its priority; a timer of the runtime is served by whichever thread gets a processor.
		syswait.Sleep(wordEvery) // woken by a signal, the word is said early
	}
	return nil
}
