package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// reading is what the engines' processes and wires have cost so far.
type reading struct {
	cpu  map[string]float64 // seconds, per node
	read map[string]int64   // bytes asked from files and sockets by read(2) and its kin (rchar), per node
	wire int64              // bytes that left the master
	recv int64              // bytes that came to it
}

// ticks is USER_HZ, the unit of times in /proc/PID/stat; 100 on every architecture that Go runs on.
const ticks = 100

// read takes the costs of every process on the nodes and of the children that
// they waited for (proc(5): cutime, cstime; /proc/PID/io includes them too).
// The harness is on the stage and not on a node: it is not counted.
func (l *lab) read() (reading, error) {
	r := reading{cpu: map[string]float64{}, read: map[string]int64{}}
	for _, n := range l.nodes {
		pids, err := n.Processes()
		if err != nil {
			return r, err
		}
		for _, pid := range pids {
			cpu, _ := cpuOf(pid) // it may have ended
			r.cpu[string(n.ID)] += cpu
			r.read[string(n.ID)] += field(fmt.Sprintf("/proc/%d/io", pid), "rchar:")
		}
	}
	var err error
	r.wire, r.recv, err = portBytes("n0-" + string(lan))
	return r, err
}

func cpuOf(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 15 {
		return 0, fmt.Errorf("stat of %d: %q", pid, b)
	}
	sum := 0.0
	for _, f := range fields[11:15] { // utime stime cutime cstime
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum / ticks, nil
}

// field is the number behind a name in a file of "name number" lines, 0 if there is none.
func field(file, name string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			v, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return v
		}
	}
	return 0
}

// portBytes counts a bridge port: what it received is what the node sent.
func portBytes(port string) (sent, received int64, err error) {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if f := strings.Fields(rest); ok && name == port && len(f) >= 9 {
			sent, _ = strconv.ParseInt(f[0], 10, 64)
			received, _ = strconv.ParseInt(f[8], 10, 64)
			return sent, received, nil
		}
	}
	return 0, 0, fmt.Errorf("no port %s", port)
}

func (r reading) total() (sum float64) {
	for _, v := range r.cpu {
		sum += v
	}
	return sum
}

// rss is the resident memory of the node's processes and the largest it was, MiB.
// What they have mapped of files, above all the program's own text, is the same
// pages for all of them: the largest counts, once.
func (n *node) rss() (now, peak float64) {
	pids, err := n.Processes()
	if err != nil {
		return 0, 0
	}
	text := 0.0
	for _, pid := range pids {
		file := fmt.Sprintf("/proc/%d/status", pid)
		mapped := float64(field(file, "RssFile:")) / 1024
		now += float64(field(file, "VmRSS:"))/1024 - mapped
		peak += float64(field(file, "VmHWM:"))/1024 - mapped
		text = max(text, mapped)
	}
	return now + text, peak + text
}

// listens reports whether something in the process's network namespace listens at the port (proc(5), net/tcp: address:port in hex, state 0A).
func listens(pid int, port uint16) bool {
	for _, table := range []string{"tcp", "tcp6"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}
