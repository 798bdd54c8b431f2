package packages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// page is a page of the documentation as a script: what stands in its fences, which say in their
// first line on which machines it is done (```sh a b), or which file it is (```yaml a PATH).
type page struct {
	t     *testing.T
	name  string
	steps []step
}

type step struct {
	section string   // heading
	on      []string // machines
	file    string   // to be written, "" for commands
	text    string
}

// readPage reads one. strict: every fence must say where it is done; else those that do not are only shown.
func readPage(t *testing.T, name string, strict bool) *page {
	t.Helper()
	data, err := os.ReadFile("../../" + name)
	must(t, err)
	p := &page{t: t, name: name}
	section, rest := "", string(data)
	for rest != "" {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if name, ok := strings.CutPrefix(line, "## "); ok {
			section = name
		}
		info, ok := strings.CutPrefix(line, "```")
		if !ok {
			continue
		}
		text, after, closed := strings.Cut(rest, "\n```\n")
		words := strings.Fields(info)
		if !closed || strict && len(words) < 2 {
			t.Fatalf("%s: a fence that does not say where, or has no end: %q", name, line)
		}
		if len(words) < 2 {
			rest = after
			continue
		}
		s := step{section: section, on: words[1:], text: text + "\n"}
		if words[0] != "sh" {
			s.on, s.file = words[1:2], words[2]
		}
		p.steps, rest = append(p.steps, s), after
	}
	return p
}

// follow does a section on the machines, and takes it off the page.
func (p *page) follow(section string, on map[string]*machine) {
	p.t.Helper()
	var left []step
	var token string
	for _, s := range p.steps {
		if s.section != section {
			left = append(left, s)
			continue
		}
		for _, name := range s.on {
			m := on[name]
			if s.file != "" {
				m.write(s.file, s.text)
				continue
			}
			for line := range strings.Lines(s.text) {
				token = m.types(strings.TrimSpace(line), token)
			}
		}
	}
	if len(left) == len(p.steps) {
		p.t.Fatalf("%s has no section %q with commands", p.name, section)
	}
	p.steps = left
}

// types does what a person does who reads the line: a token that was printed is
// pasted where one is asked for. A doctor's verdict and a status are looked at, not obeyed.
func (m *machine) types(line, token string) (printed string) {
	m.t.Helper()
	m.t.Logf("%s# %s", m.name, line)
	line, _, _ = strings.Cut(line, "  #")
	line = strings.TrimSpace(line)
	stdin := ""
	if strings.Contains(line, "--token-file -") {
		stdin = token
	}
	switch {
	case strings.HasPrefix(line, "revolve doctor"):
		out, _ := m.try("", "sh", "-c", line)
		for found := range strings.Lines(out) {
			if strings.HasPrefix(found, "critical") && !strings.Contains(found, "identity") {
				m.t.Errorf("%s: the doctor calls a bare system critical:\n%s", m.name, out)
			}
		}
		return token
	case strings.HasPrefix(line, "revolve init --cluster") && !strings.Contains(m.run("revolve", "init", "--help"), "--cluster"):
		m.initsAsBefore()
		return token
	case line == "revolve status":
		m.until("status says ok", func() error { return m.said(line) })
		return token
	case line == "revolve status --watch": // on a terminal, until q
		line = `(sleep 2; printf q; sleep 1) | timeout 20 script --quiet --return --command "TERM=xterm ` + line + `" /dev/null`
	}
	out, err := m.try(stdin, "sh", "-c", line+" 2>/tmp/stderr")
	if err != nil {
		m.t.Fatalf("%s: %s: %v\n%s%s", m.name, line, err, out, m.sh("cat /tmp/stderr"))
	}
	if strings.HasPrefix(line, "revolve token") {
		return out
	}
	return token
}

// said is an error with what a command said if it failed.
func (m *machine) said(line string) error {
	out, err := m.try("", "sh", "-c", line)
	if err != nil {
		return &failure{line, out}
	}
	return nil
}

type failure struct{ line, out string }

func (f *failure) Error() string { return f.line + ":\n" + f.out }

// write makes a file in it.
func (m *machine) write(path, text string) {
	m.t.Helper()
	if out, err := m.try(text, "sh", "-ec", `mkdir -p "$(dirname "$0")"; cat >"$0"`, path); err != nil {
		m.t.Fatalf("%s: write %s: %v %s", m.name, path, err, out)
	}
}

// brings copies the package into it, and takes the former one away.
func (m *machine) brings(deb string) {
	m.t.Helper()
	data, err := os.ReadFile(deb)
	must(m.t, err)
	m.sh("rm -f /root/revolve_*.deb")
	m.write("/root/"+filepath.Base(deb), string(data))
}

// initsAsBefore makes the cluster with a version from which the upgrade is tested and whose init wrote no
// configuration yet: 0.0 before 2026-11-27.
func (m *machine) initsAsBefore() {
	m.t.Helper()
	m.t.Log("SKIPPED PART: revolve init makes no configuration in the version before")
	m.write("/etc/revolve/revolve.yaml", `cluster: homelab
nodes:
  a: { links: { lan: 10.77.0.11 }, priority: 110 }
  b: { links: { lan: 10.77.0.12 } }
  c: { links: { lan: 10.77.0.13 } }
vips:
  - { address: 10.77.0.200/24, link: lan }
volumes:
  home: { path: /srv/home }
`)
	m.sh("mkdir -p /srv/home && revolve init --config /etc/revolve/revolve.yaml --node a")
}
