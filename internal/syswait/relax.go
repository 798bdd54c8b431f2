package syswait

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// relaxed is how much later than it asks for the watch thread may be woken, in
// nanoseconds. It is what a processor may stay away, besides, with a call that waits
// and did not say so, if no other is free; and a fraction of the 10 ms that the
// thread rests by itself when it finds nothing to do.
const relaxed = 4_000_000

// Relax lets the scheduler's watch thread be woken later than it asks for. With
// anything else that runs it sleeps for 20 us at a time (sysmon, runtime/proc.go),
// and a process that is woken some hundred times a second for a moment pays more for
// this thread than for its work. Timers that may be late are served together (prctl(2), PR_SET_TIMERSLACK).
//
// Threads that the watch thread has started inherit its patience: those get the main
// thread's, so call it now and then. It fails where the kernel does not let it; then all is as before.
func Relax() error {
	main, tids, err := threadsOf()
	if err != nil {
		return err
	}
	usual, err := slack(main)
	if err != nil {
		return err
	}
	watch := watchThread(main, tids)
	for _, tid := range tids {
		have, e := slack(tid)
		switch {
		case errors.Is(e, os.ErrNotExist): // it ended
			e = nil
		case e != nil:
		case tid == watch && have == usual:
			e = setSlack(tid, relaxed)
		case tid != watch && have == relaxed:
			e = setSlack(tid, usual)
		}
		err = errors.Join(err, e)
	}
	return err
}

// threadsOf are the main thread and all threads of this process, as /proc numbers them.
func threadsOf() (main int, tids []int, err error) {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return 0, nil, err
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, nil, err
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	main, err = strconv.Atoi(self)
	return main, tids, err
}

// watchThread is the first thread that the main one started (main, runtime/proc.go):
// the next number, or the lowest if the numbers began anew in between. 0: there is none.
func watchThread(main int, tids []int) int {
	next, lowest := 0, 0
	for _, tid := range tids {
		switch {
		case tid > main && (next == 0 || tid < next):
			next = tid
		case tid < main && (lowest == 0 || tid < lowest):
			lowest = tid
		}
	}
	if next == 0 {
		return lowest
	}
	return next
}

// slackFile is that of a thread: /proc/TID is there for each, though not listed (proc(5)).
func slackFile(tid int) string {
	return filepath.Join("/proc", strconv.Itoa(tid), "timerslack_ns")
}

// slack is a thread's timer slack in nanoseconds; 0 for a real-time one.
func slack(tid int) (ns int, err error) {
	b, err := os.ReadFile(slackFile(tid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// setSlack needs CAP_SYS_NICE in the user namespace of the process (fs/proc/base.c, timerslack_ns_write).
func setSlack(tid, ns int) error {
	return os.WriteFile(slackFile(tid), []byte(strconv.Itoa(ns)), 0)
}
