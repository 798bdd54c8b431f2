package doctor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// rtPriority is that of the heartbeats.
	rtPriority = 10
	// memlockNeed is what the small real-time process touches, with room: it locks its pages in memory.
	memlockNeed = 64 << 20
)

// realTime tries what the heartbeats ask for: a priority, and memory that stays.
func (e *examination) realTime() {
	if err := tryRealTime(); err != nil {
		e.add(Warning, "real time", "the priority is refused: "+err.Error(), "a busy machine may be late with its heartbeats and lose its role",
			"in the agent's unit: LimitRTPRIO=99 and AmbientCapabilities=CAP_SYS_NICE; else in /etc/security/limits.conf: revolve - rtprio 99")
	} else {
		e.add(OK, "real time", "the priority is granted", "", "")
	}
	var lim unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &lim)
	have, err2 := capabilities()
	switch {
	case errors.Join(err, err2) != nil || have&(1<<unix.CAP_IPC_LOCK) != 0:
	case lim.Cur < memlockNeed:
		e.add(Warning, "real time", fmt.Sprintf("only %s of memory may be locked", sizeText(float64(lim.Cur))), "a machine that swaps may be late with its heartbeats",
			"in the agent's unit: LimitMEMLOCK=infinity; else in /etc/security/limits.conf: revolve - memlock unlimited")
	}
	if e.status != nil && len(e.status.Beat.Refused) > 0 {
		e.add(Warning, "real time", "the running agent was refused: "+strings.Join(e.status.Beat.Refused, "; "), "a busy machine may be late with its heartbeats and lose its role", "mend what is named here, and restart the agent")
	}
}

// tryRealTime takes the priority for one thread, and gives it back.
func tryRealTime() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return err
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: rtPriority}, 0); err != nil {
		return err
	}
	before.Size = unix.SizeofSchedAttr
	return unix.SchedSetAttr(0, before, 0)
}

// containerHint says how a container gets what this one lacks; "" outside of one.
func containerHint() string {
	for _, f := range []string{"/run/.containerenv", "/.dockerenv"} {
		if _, err := os.Stat(f); err == nil {
			return "this is a container: run it with --network host --cap-add NET_ADMIN,NET_RAW,SYS_ADMIN,DAC_READ_SEARCH,SYS_NICE, or run the agent on the host"
		}
	}
	b, err := os.ReadFile("/proc/1/environ")
	if err == nil && slices.ContainsFunc(strings.Split(string(b), "\x00"), func(v string) bool { return strings.HasPrefix(v, "container=") }) {
		return "this is a container: give it these capabilities, or run the agent on the host"
	}
	b, err = os.ReadFile("/proc/self/uid_map")
	if f := strings.Fields(string(b)); err == nil && len(f) == 3 && f[2] != "4294967295" {
		return "this is a user namespace: run the agent outside of it"
	}
	return ""
}
