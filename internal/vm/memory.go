package vm

import (
	"fmt"
	"os"
	"strings"

	"revolve/internal/problem"
)

// memory is what a machine needs, in bytes (libvirt: KiB if no unit is named).
func (d *domain) memory() int64 {
	unit := map[string]int64{"b": 1, "bytes": 1, "MB": 1e6, "M": 1 << 20, "MiB": 1 << 20, "GB": 1e9, "G": 1 << 30, "GiB": 1 << 30}[d.Memory.Unit]
	if unit == 0 {
		unit = 1 << 10
	}
	return d.Memory.N * unit
}

// enoughMemory refuses a rehearsal that would take memory from those that serve.
func enoughMemory(text string) error {
	d, err := readDomain(text)
	if err != nil {
		return err
	}
	free, known := availableMemory()
	if need := d.memory() + spareMemory; known && need > free {
		return &problem.Problem{Op: "rehearse", Kind: problem.Unavailable, Subject: d.Name, Err: fmt.Errorf("it needs %d MiB of memory, and %d MiB are free here", need>>20, free>>20),
			Hint: "rehearse it on another node (--on NODE), or when less runs here"}
	}
	return nil
}

// availableMemory is what can be used without swapping (proc(5), meminfo: MemAvailable, in kB).
func availableMemory() (n int64, ok bool) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &n); err == nil {
			return n << 10, true
		}
	}
	return 0, false
}
