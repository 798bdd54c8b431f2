// Package mounts reads the list of what is mounted on this machine, as the
// kernel tells it. It judges nothing and never touches a filesystem, so that one
// which hangs holds nobody up.
//
//	list, err := mounts.List()
//	on, ok := mounts.Under(list, "/srv/home")
package mounts

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// Mount is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	Root, At, Kind, Source string
	Options                []string // of the mount and of the filesystem
}

// most bounds what is read: a machine with more has a fault of its own.
const most = 100_000

// List is everything that is mounted; of two at one place the later one is on top.
func List() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []Mount
	in := bufio.NewScanner(f)
	for in.Scan() && len(list) < most {
		if m, ok := Parse(in.Text()); ok {
			list = append(list, m)
		}
	}
	return list, in.Err()
}

// Parse reads a line: 36 35 98:0 /root /at opts [optional...] - kind source superopts.
func Parse(line string) (Mount, bool) {
	left, right, ok := strings.Cut(line, " - ")
	a, b := strings.Fields(left), strings.Fields(right)
	if !ok || len(a) < 6 || len(b) < 3 {
		return Mount{}, false
	}
	return Mount{Root: unescape(a[3]), At: unescape(a[4]), Kind: b[0], Source: unescape(b[1]), Options: append(strings.Split(a[5], ","), strings.Split(b[2], ",")...)}, true
}

// unescape undoes \040 and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Under is what a path without symbolic links lies on.
func Under(list []Mount, path string) (on Mount, ok bool) {
	for _, m := range list {
		if Below(path, m.At) && len(m.At) >= len(on.At) {
			on, ok = m, true
		}
	}
	return on, ok
}

// Below reports whether path is dir or below it.
func Below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
