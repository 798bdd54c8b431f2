package peer

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// tcpListen is the state of a listening socket in /proc/net/tcp
// (include/net/tcp_states.h, TCP_LISTEN).
const tcpListen = "0A"

// holder names the process that listens on addr or on its port of all addresses,
// as "name (pid N)"; "" if it cannot be found (another user's process, another
// network namespace's view).
func holder(addr netip.AddrPort) string {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			// proc(5): sl local_address rem_address st queues timer retrnsmt uid timeout inode
			field := strings.Fields(lines.Text())
			if len(field) < 10 || field[3] != tcpListen {
				continue
			}
			if local, ok := procAddr(field[1]); ok && local.Port() == addr.Port() &&
				(local.Addr() == addr.Addr() || local.Addr().IsUnspecified() || addr.Addr().IsUnspecified()) {
				inodes["socket:["+field[9]+"]"] = true
			}
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && inodes[target] {
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return ""
}

// procAddr reads "0100007F:1CCD": 32-bit words in the byte order of the machine, then the port.
func procAddr(text string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	p, err2 := hex.DecodeString(port)
	if !ok || err != nil || err2 != nil || len(p) != 2 || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(p)), true
}
