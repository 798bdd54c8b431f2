package metrics

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process is what the kernel and the runtime say of this process; negative is not known.
type process struct {
	cpu, memory, files float64 // seconds, bytes, descriptors
	goroutines         int
}

// lookAtProcess reads a few small files of /proc.
func lookAtProcess() process {
	p := process{cpu: -1, memory: -1, files: -1, goroutines: runtime.NumGoroutine()}
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		p.cpu = time.Duration(use.Utime.Nano() + use.Stime.Nano()).Seconds()
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil { // proc_pid_statm(5): size resident shared ..., in pages
		if f := bytes.Fields(b); len(f) > 1 {
			if pages, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil {
				p.memory = float64(pages * int64(os.Getpagesize()))
			}
		}
	}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.files = float64(len(entries) - 1) // one is that of the directory itself
	}
	return p
}

func (p *page) processMetrics(x process) {
	known := func(name, kind, help string, v float64) {
		p.process(name, kind, help)
		if v >= 0 {
			p.sample(v)
		}
	}
	known("process_cpu_seconds_total", counter, "Processor time of the agent, user and system.", x.cpu)
	known("process_resident_memory_bytes", gauge, "Memory of the agent in RAM.", x.memory)
	known("process_open_fds", gauge, "Open file descriptors of the agent.", x.files)
	known("go_goroutines", gauge, "Goroutines of the agent.", float64(x.goroutines))
}
