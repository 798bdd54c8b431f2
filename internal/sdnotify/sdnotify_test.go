package sdnotify

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// listen is systemd's end.
func listen(t *testing.T, name string) func() string {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func() string {
		b := make([]byte, 256)
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func environment(t *testing.T, socket, usec, pid string) {
	t.Setenv(envSocket, socket)
	t.Setenv(envInterval, usec)
	t.Setenv(envProcess, pid)
}

func TestSaysIt(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@revolve-test-%d", os.Getpid())} {
		heard := listen(t, name)
		environment(t, name, "10000000", strconv.Itoa(os.Getpid()))
		n := FromEnvironment()
		for want, say := range map[string]func(){"READY=1": n.Ready, "WATCHDOG=1": n.Alive, "STOPPING=1": n.Stopping} {
			say()
			if got := heard(); got != want {
				t.Errorf("%s: heard %q, want %q", name, got, want)
			}
		}
		if n.Every() != 2500*time.Millisecond {
			t.Errorf("%v between two signs", n.Every())
		}
		for _, name := range []string{envSocket, envInterval, envProcess} {
			if v, there := os.LookupEnv(name); there {
				t.Errorf("children inherit %s=%s", name, v)
			}
		}
	}
}

// Nobody waits for a sign, or not for one of this process.
func TestNoWatchdog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	listen(t, name)
	for what, c := range map[string][2]string{"none": {"", ""}, "another process": {"1000000", "1"}, "nonsense": {"soon", ""}, "zero": {"0", ""},
		"negative": {"-5", ""}, "too long": {"9223372036854775807", ""}} {
		environment(t, name, c[0], c[1])
		if n := FromEnvironment(); n == nil || n.Every() != 0 {
			t.Errorf("%s: %+v", what, n)
		}
	}
	for what, socket := range map[string]string{"no systemd": "", "no socket": "relative", "a socket that is not there": "/nowhere/notify"} {
		environment(t, socket, "1000000", "")
		n := FromEnvironment()
		if n != nil || n.Every() != 0 {
			t.Errorf("%s: %+v", what, n)
		}
		n.Ready() // and nothing happens
	}
}
