package packages

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Commands stand in the pages as a line of a block, and as a span inside a sentence (internal/cli checks that the program takes each).
var (
	blockLine = regexp.MustCompile(`^(?:    )?(?:sudo )?revolve ([a-z][a-z-]* ?.*)$`)
	codeSpan  = regexp.MustCompile("`(?:sudo )?revolve ([a-z-][^`]*)`")
	remark    = regexp.MustCompile(`\s+#.*$`)
)

// onlyRead are the commands of the pages that are not typed here, and why.
func onlyRead() map[string]string {
	const (
		libvirt = "needs libvirt: TestVMs of test/stories types the recipes, and the rest with names of its own"
		power   = "needs a node that can be powered off: make test-power"
		typed   = "typed by TestInstall and TestFirstHour"
	)
	return map[string]string{
		"init": typed, "init --print": typed, "init --config FILE --node a": typed, "join": typed, "token b": typed, "token c": typed, "doctor --config /etc/revolve/revolve.yaml --node a": typed,
		"revoke c": "typed as revoke d", "revoke NODE": "typed as revoke d",
		"agent": "the unit runs it", "beat": "the agent runs it", "witness": "examples/witness, and its stories",
		"power off": power, "power on": power, "power off NODE": power, "power on NODE": power,
		"vm": libvirt,
	}
}

// typed is a command of a page, word for word, on one of the machines. Names in capitals are put in; status is the
// exit status that is right there.
type typed struct {
	on, line string
	status   int
}

// TestPages types the commands of all pages of docs/ in a cluster of three, and on a fourth machine that joins. What
// is neither typed nor in onlyRead, or stands there and in no page, is a failure.
func TestPages(t *testing.T) {
	on := bareSystems(t)
	for _, m := range on {
		m.brings(os.Getenv(envDeb))
	}
	readme := readPage(t, "README.md", false)
	readme.steps = slices.DeleteFunc(readme.steps, func(s step) bool { return strings.HasPrefix(s.text, "revolve status") })
	readme.follow("Make a cluster", on)
	a := on["a"]
	a.until("everything is well", func() error { return a.said("revolve status") })
	h := &typist{t: t, on: on, put: map[string]string{"FILE": "new.yaml", "NAME": "a", "NODE": "b", "VOLUME": "home", "PATH": "/srv/home/f", "DIR": "/root/identity"}, done: map[string]bool{}}
	h.configures()
	h.keptAside()
	h.all(looked())
	h.all(held())
	for _, line := range []string{"rehearse", "switch"} {
		h.well()
		h.types(typed{"a", line, 0})
	}
	h.well()
	h.grows()
	h.complete()
}

type typist struct {
	t    *testing.T
	on   map[string]*machine
	put  map[string]string
	done map[string]bool
}

func (h *typist) all(list []typed) {
	h.t.Helper()
	for _, c := range list {
		h.types(c)
	}
}

// types one, with its names put in, and wants its exit status. What would ask gets a yes.
func (h *typist) types(c typed) (out string) {
	h.t.Helper()
	words := strings.Fields(c.line)
	for i, w := range words {
		if to, ok := h.put[w]; ok {
			words[i] = to
		}
	}
	m := h.on[c.on]
	line := "revolve " + strings.Join(words, " ")
	out, err := m.try("yes\n", "sh", "-c", line+"; echo exit status $?")
	if want := fmt.Sprintf("exit status %d\n", c.status); err != nil || !strings.HasSuffix(out, want) {
		h.t.Errorf("%s# %s (%s): not %s%v %s", c.on, line, c.line, want, err, out)
	}
	h.t.Logf("%s# %s\n%.600s", c.on, line, out)
	h.done[c.line] = true
	return out
}

// listener takes alarms, and says to each that it is fine. Perl is on every Debian.
const listener = `use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalPort => 9090, Listen => 5, ReuseAddr => 1) or die;
while (my $c = $s->accept) {
	sysread($c, my $x, 65536);
	print $c "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
	close $c;
}
`

// configures changes the configuration while the cluster serves: a second link, the status page, and a place for alarms, on another machine.
func (h *typist) configures() {
	h.t.Helper()
	a := h.on["a"]
	h.on["c"].write("/root/listen.pl", listener)
	h.on["c"].sh("systemd-run --quiet perl /root/listen.pl")
	h.types(typed{"a", "config show > new.yaml", 0})
	a.sh(`sed -i -e 's/lan: 10.77.0.\(1[123]\) }/lan: 10.77.0.\1, fast: 10.78.0.\1 }/' -e 's/^#web:/web:/' new.yaml && echo 'alarms: [ { ntfy: { url: "http://10.77.0.13:9090/x" } } ]' >> new.yaml`)
	h.all([]typed{
		{"a", "config show --json", 0}, {"a", "config check /etc/revolve/revolve.yaml", 0}, {"a", "config check FILE", 0},
		{"a", "config diff new.yaml", 0}, {"a", "config diff FILE", 0}, {"a", "config apply --dry-run new.yaml", 0}, {"a", "config apply new.yaml", 0},
	})
	h.well()
	h.types(typed{"a", "config apply FILE", 0}) // the same again
	if holder(h.on) != a {                      // with other links every agent began anew, and whoever was there first leads
		a.sh("revolve switch a")
		h.well()
	}
}

// well waits until nothing is left to be said.
func (h *typist) well() {
	h.t.Helper()
	a := h.on["a"]
	a.until("all is well", func() error { return a.said("revolve status && revolve sync --wait") })
}

// looked asks, and changes little.
func looked() []typed {
	return []typed{
		{"a", "status", 0}, {"b", "status --json", 0}, {"a", "version", 0}, {"c", "history", 0}, {"b", "doctor", 1}, {"a", "doctor --config FILE --node NAME", 1},
		{"a", "alarm list", 0}, {"a", "alarm silence node-dead b --for 12h", 0}, {"a", "alarm silence forgotten-order --for 168h", 0}, {"a", "alarm test", 0},
		{"a", "mirror explain PATH", 0}, {"a", "sync --wait", 0}, {"a", "verify", 0}, {"a", "verify --show VOLUME", 0}, {"a", "verify --repair VOLUME", 0}, {"a", "verify --repair --trust-master", 0},
		{"a", "page token", 0}, {"a", "page revoke", 0}, {"a", "volume resume VOLUME", 0}, {"a", "volume resume VOLUME --accept-deletions", 0}, {"a", "trash unpin VOLUME", 0}, {"a", "eligible", 0},
	}
}

// held keeps the addresses from moving.
func held() []typed {
	return []typed{
		{"a", "hold on", 0}, {"b", "hold off", 0}, {"c", "maintenance on", 0}, {"c", "maintenance off", 0},
	}
}

// keptAside makes something for the trash, and something to be set aside, and types what is said of them.
func (h *typist) keptAside() {
	h.t.Helper()
	a, b := h.on["a"], h.on["b"]
	for range 2 {
		a.sh("date +%N > /srv/home/f && revolve sync --wait")
	}
	h.types(typed{"c", "trash list", 0})
	h.put["PATH"] = "f"
	h.types(typed{"a", "trash restore VOLUME PATH", 0})
	h.put["PATH"] = "/srv/home/f"
	for i, what := range []string{"divergent restore SET", "divergent drop SET"} {
		b.sh(fmt.Sprintf("echo mine > /srv/home/mine-%d", i))
		b.until("it is set aside", func() error { return b.said("revolve divergent list --json | grep -q '\"set\":'") })
		h.put["SET"] = strings.TrimSpace(b.sh(`revolve divergent list --json | grep -o '"set":"[^"]*"' | cut -d '"' -f 4 | head -n 1`))
		h.all([]typed{{"a", "divergent list", 0}, {"c", "divergent show SET", 0}, {"a", what, 0}})
		if what == "divergent restore SET" {
			a.sh("grep -qx mine /srv/home/mine-0")
			b.until("it is no more aside", func() error { return b.said("! revolve divergent list --json | grep '\"set\":'") })
		}
	}
}

// grows has a fourth machine join, and takes it away again. Its name is e; where the pages call a machine d, or leave
// the name open, it is this one.
func (h *typist) grows() {
	h.t.Helper()
	a := h.on["a"]
	e := newMachine(h.t, a.hub, a.base, "e", "10.77.0.15")
	h.on["e"], h.put["d"], h.put["NODE"] = e, "e", "e"
	e.on()
	e.brings(os.Getenv(envDeb))
	e.sh("apt install ./revolve_*.deb && mkdir -p /srv/home")
	out := h.types(typed{"a", "token e --link lan=10.77.0.15 --link fast=10.78.0.15", 0})
	lines := strings.Split(strings.TrimSpace(out), "\n")
	e.write("/root/e.token", lines[len(lines)-2]+"\n")
	h.types(typed{"e", "join 10.77.0.11 --node e --token-file e.token", 0})
	e.sh("systemctl enable --now revolve")
	a.until("everything is well with the fourth", func() error { return a.said("revolve status && revolve sync --wait") })
	e.sh("grep -q . /srv/home/f")
	h.all([]typed{{"a", "identity issue e --out DIR", 0}, {"a", "token d", 0}, {"a", "revoke d", 0}})
	e.sh("systemctl stop revolve")
	a.sh("revolve config show > new.yaml && sed -i '/^  e: /d' new.yaml && revolve config apply new.yaml")
	h.types(typed{"a", "revoke d --removed", 0})
}

// typed reports whether a command was, or one that begins with its words: sentences leave out what follows.
func (h *typist) typed(command string) bool {
	for line := range h.done {
		if line == command || strings.HasPrefix(line, command+" ") {
			return true
		}
	}
	return false
}

// complete: every command of the pages was typed, or there is a reason why not.
func (h *typist) complete() {
	h.t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	must(h.t, err)
	only, there := onlyRead(), map[string]bool{}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		must(h.t, err)
		inFence := false
		for i, line := range strings.Split(string(b), "\n") {
			inFence = inFence != strings.HasPrefix(line, "```")
			found := codeSpan.FindAllStringSubmatch(line, -1)
			if m := blockLine.FindStringSubmatch(line); m != nil && (inFence || strings.HasPrefix(line, "    ")) {
				found = append(found, m)
			}
			for _, m := range found {
				command := strings.TrimSpace(remark.ReplaceAllString(m[1], ""))
				verb, _, _ := strings.Cut(command, " ")
				there[command], there[verb] = true, true
				if !h.typed(command) && only[command] == "" && only[verb] == "" {
					h.t.Errorf("%s:%d: revolve %s is not typed here, and nothing says why", filepath.Base(page), i+1, command)
				}
			}
		}
	}
	for command := range h.done {
		if !there[command] {
			h.t.Errorf("revolve %s is in no page any more", command)
		}
	}
	for command := range only {
		if !there[command] {
			h.t.Errorf("revolve %s is in no page any more", command)
		}
	}
}
