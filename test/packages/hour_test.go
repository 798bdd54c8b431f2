package packages

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envHour names the file that gets how long everything took.
const envHour = "REVOLVE_HOUR"

// hour is a new user's first one: what was typed, and how long the machine took.
type hour struct {
	t    *testing.T
	on   map[string]*machine
	rows []hourRow
}

type hourRow struct {
	machine, what string
	took          time.Duration
}

// TestFirstHour follows the README alone, from three bare systems to a cluster that serves, and does what its
// reader will try first: a file, a power cut, the return.
func TestFirstHour(t *testing.T) {
	on := bareSystems(t)
	h := &hour{t: t, on: on}
	p := readPage(t, "README.md", false)
	if len(p.steps) < 7 {
		t.Fatalf("README.md has only %d steps that say where they are done", len(p.steps))
	}
	for _, m := range on {
		m.brings(os.Getenv(envDeb))
	}
	on["a"].write("/srv/home/before", "what was there before\n") // where your files are
	token := ""
	served := false
	for _, s := range p.steps {
		if strings.HasPrefix(s.text, "revolve status") { // the list of commands comes when the cluster is there
			h.pullsThePlug()
			served = true
		}
		token = h.step(s, token)
	}
	if !served {
		t.Error("README.md does not say revolve status")
	}
	h.timed("a", "everything is well at the end", func() {
		on["a"].until("status says ok", func() error { return on["a"].said("revolve status") })
	})
	h.tell()
}

// step does one fence of the page on its machines.
func (h *hour) step(s step, token string) string {
	h.t.Helper()
	for _, name := range s.on {
		m := h.on[name]
		if s.file != "" {
			h.timed(name, "write "+s.file, func() { m.write(s.file, s.text) })
			continue
		}
		for line := range strings.Lines(s.text) {
			line = strings.TrimSpace(line)
			typed, _, _ := strings.Cut(line, "  #")
			typed = strings.TrimSpace(typed)
			if to, ok := strings.CutPrefix(typed, "revolve switch "); ok {
				h.switches(name, line, to)
				continue
			}
			m, name := m, name
			maintenance := typed == "revolve maintenance on"
			if maintenance { // it is meant for the node on which it is typed: the master has most to hand over
				m = h.holder()
				name = m.name
			}
			h.timed(name, typed, func() { token = m.types(line, token) })
			if maintenance {
				h.leads("after "+typed+" on "+name, func(now *machine) bool { return now != m })
			}
			if order, on := strings.CutSuffix(typed, " on"); on && strings.Contains(line, "off ends it") {
				h.timed(name, order+" off", func() { token = m.types(order+" off", token) })
			}
		}
	}
	return token
}

// switches types a planned move, and sees the address come from another machine: a switch to the one that
// has it is no move.
func (h *hour) switches(name, line, to string) {
	h.t.Helper()
	m, next := h.on[name], h.on[to]
	if next == nil {
		h.t.Fatalf("%s: there is no machine %q", line, to)
	}
	if h.holder() == next {
		h.timed(name, "(another has the address first) revolve switch", func() { m.types("revolve switch", "") })
		h.leads("after a switch from "+to, func(now *machine) bool { return now != next })
		m.until("status says ok", func() error { return m.said("revolve status") })
	}
	h.t.Logf("%s has the address before %s", h.holder().name, line)
	h.timed(name, "revolve switch "+to, func() { m.types(line, "") })
	h.leads("after "+line, func(now *machine) bool { return now == next })
}

// holder is the machine that has the address.
func (h *hour) holder() (m *machine) {
	h.t.Helper()
	return h.leads("somebody has the address", func(*machine) bool { return true })
}

// leads waits until the right machine has the address.
func (h *hour) leads(when string, right func(*machine) bool) (now *machine) {
	h.t.Helper()
	h.on["a"].until(when, func() error {
		if now = holder(h.on); now == nil {
			return errors.New("nobody has the address")
		}
		if !right(now) {
			return fmt.Errorf("%s has the address", now.name)
		}
		return nil
	})
	return now
}

// pullsThePlug: a file that was on the first machine is on all; it loses its power, another serves, and it comes back by itself.
func (h *hour) pullsThePlug() {
	h.t.Helper()
	a, c := h.on["a"], h.on["c"]
	h.timed("a", "(everything is well, on every node)", func() {
		a.until("status says ok", func() error { return a.said("revolve status") })
	})
	c.sh("grep -qx 'what was there before' /srv/home/before")
	a.sh("echo hello > /srv/home/hello && revolve sync --wait")
	h.timed("a", "(the plug is pulled, until another machine has the address)", func() {
		a.cut()
		c.until("another has the address", func() error {
			if holder(h.on) == nil {
				return errors.New("nobody has it")
			}
			return nil
		})
	})
	holder(h.on).sh("grep -qx hello /srv/home/hello")
	h.timed("a", "(plugged in again, until all is well; what it kept aside is dropped)", func() {
		a.on()
		a.until("is back", func() error { return a.said("revolve status --json | grep -q '\"role\": *\"standby\"'") })
		a.until("status says ok", func() error {
			// What it wrote in its last seconds it keeps aside; a person looks at it and drops it (docs/promises.md).
			return a.said(`revolve divergent list --json | grep -o '"set":"[^"]*"' | cut -d '"' -f 4 | sort -u | while read -r set; do revolve divergent drop --yes "$set"; done; revolve status`)
		})
	})
}

func (h *hour) timed(machine, what string, does func()) {
	h.t.Helper()
	began := time.Now()
	does()
	h.rows = append(h.rows, hourRow{machine, what, time.Since(began)})
}

// tell writes the table.
func (h *hour) tell() {
	h.t.Helper()
	var b strings.Builder
	var u unix.Utsname
	must(h.t, unix.Uname(&u))
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Fprintf(&b, "# A new user's hour\n\nMade by `make first-hour`: every command of the README's section \"Make a cluster\", in its order, on three bare Debian systems (namespaces of one machine with systemd as their first process, a disk of their own each; %s, %s).\n"+
		"What is measured is the machine's time; reading, typing and copying the package are the person's. Other work ran on the machine: its load average over 1, 5 and 15 minutes at the end was %s.\n\n| machine | what is typed (or seen) | took |\n|---|---|---|\n",
		debian(h.on["a"]), unix.ByteSliceToString(u.Release[:]), strings.Join(strings.Fields(string(load))[:3], ", "))
	total := time.Duration(0)
	for _, r := range h.rows {
		total += r.took
		fmt.Fprintf(&b, "| %s | `%s` | %.1f s |\n", r.machine, r.what, r.took.Seconds())
	}
	fmt.Fprintf(&b, "| | all | %.0f s |\n", total.Seconds())
	h.t.Log("\n" + b.String())
	if name := os.Getenv(envHour); name != "" && !h.t.Failed() {
		must(h.t, os.WriteFile(name, []byte(b.String()), 0o644))
	}
}

func debian(m *machine) string {
	return "Debian " + strings.TrimSpace(m.run("cat", "/etc/debian_version"))
}
