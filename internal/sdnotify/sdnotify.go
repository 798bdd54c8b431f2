// Package sdnotify tells systemd that this process is ready, that it lives, and that
// it ends: sd_notify(3), by hand.
//
// It never judges whether the process lives: its caller does, and says nothing
// when it does not know. Without systemd everything here does nothing.
//
//	n := sdnotify.FromEnvironment() // children do not inherit what it has read
//	n.Ready()
//	for range time.Tick(n.Every()) { n.Alive() }
//	n.Stopping()
package sdnotify

import (
	"net"
	"os"
	"strconv"
	"time"
)

const (
	envSocket   = "NOTIFY_SOCKET"
	envInterval = "WATCHDOG_USEC"
	envProcess  = "WATCHDOG_PID"

	// chances is how often a sign is due within the time after which systemd takes the process for
	// dead: sd_watchdog_enabled(3) says two; with four, one that a busy machine delays costs nothing.
	chances = 4
	// sayWithin bounds the wait for systemd, whose socket may be full.
	sayWithin = time.Second
)

// Notifier says things to systemd; nil is one that says nothing.
type Notifier struct {
	conn  net.Conn
	every time.Duration
}

// FromEnvironment reads what systemd has said to this process, and takes it out of
// the environment: a child that could speak in our name would keep us alive.
func FromEnvironment() *Notifier {
	path, usec, pid := os.Getenv(envSocket), os.Getenv(envInterval), os.Getenv(envProcess)
	for _, name := range []string{envSocket, envInterval, envProcess} {
		os.Unsetenv(name)
	}
	if path == "" || path[0] != '/' && path[0] != '@' { // a path, or a name in the abstract namespace: unix(7)
		return nil
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return nil // systemd is told nothing, and says so itself
	}
	n := &Notifier{conn: conn}
	if us, err := strconv.ParseUint(usec, 10, 63); err == nil && us > 0 && us < uint64(time.Duration(1<<63-1)/time.Microsecond) && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.every = max(time.Duration(us)*time.Microsecond/chances, time.Millisecond)
	}
	return n
}

// Every is how often a sign of life is due; 0: nobody waits for one.
func (n *Notifier) Every() time.Duration {
	if n == nil {
		return 0
	}
	return n.every
}

// Ready says that the process serves now.
func (n *Notifier) Ready() { n.say("READY=1") }

// Alive is a sign of life.
func (n *Notifier) Alive() { n.say("WATCHDOG=1") }

// Stopping says that the process ends in order.
func (n *Notifier) Stopping() { n.say("STOPPING=1") }

// say sends one message. Nobody can do anything about a failure: systemd will miss the word.
func (n *Notifier) say(text string) {
	if n == nil {
		return
	}
	if n.conn.SetWriteDeadline(time.Now().Add(sayWithin)) == nil {
		_, _ = n.conn.Write([]byte(text))
	}
}
