package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// exampleStage is the machine of the documentation's example: in namespaces of its own.
const exampleStage = `
ip link set lo up
ip link add eth0 type veth peer name far
ip link set eth0 up
ip link set far up
ip addr add 10.77.0.11/24 dev eth0
mount -t tmpfs tmpfs /srv
mkdir /srv/home
mkfs.xfs -q image
mount -o loop image /srv/home || exit 77
revolve init --config revolve.yaml --node a --state s >/dev/null
exec revolve doctor --config revolve.yaml --node a --state s
`

const exampleCluster = `cluster: homelab
nodes:
  a: { links: { lan: 10.77.0.11 } }
  b: { links: { lan: 10.77.0.12 } }
vips:
  - { address: 10.77.0.200/24, link: lan }
volumes:
  home: { path: /srv/home }
`

// The example in docs/doctor.md is what the program prints (UPDATE_DOCS=1 writes it anew).
func TestDoctorExample(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: mounting filesystems needs root")
	}
	if _, err := exec.LookPath("mkfs.xfs"); err != nil {
		t.Skip("SKIPPED PART: no mkfs.xfs on this machine")
	}
	dir, bin := t.TempDir(), t.TempDir()
	exe, err := os.Executable()
	must(t, err)
	must(t, os.Symlink(exe, filepath.Join(bin, "revolve")))
	must(t, os.WriteFile(filepath.Join(dir, "revolve.yaml"), []byte(exampleCluster), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "image"), nil, 0o600))
	must(t, os.Truncate(filepath.Join(dir, "image"), 1<<30))
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", exampleStage)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.Output()
	switch {
	case cmd.Process == nil || cmd.ProcessState.ExitCode() == 77:
		t.Skipf("SKIPPED PART: no namespace or loop device: %v", err)
	case cmd.ProcessState.ExitCode() != 1:
		t.Fatalf("exit status %d, want a warning\n%s%v", cmd.ProcessState.ExitCode(), out, err)
	}
	const begin, end = "<!-- example: begin -->\n```\n", "```\n<!-- example: end -->"
	page, err := os.ReadFile("../../docs/doctor.md")
	must(t, err)
	before, rest, ok := strings.Cut(string(page), begin)
	documented, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/doctor.md has no example")
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		must(t, os.WriteFile("../../docs/doctor.md", []byte(before+begin+string(out)+end+after), 0o644))
		return
	}
	if got, want := withoutNumbers(string(out)), withoutNumbers(documented); got != want {
		i := 0
		for i < min(len(got), len(want)) && got[i] == want[i] {
			i++
		}
		from := strings.LastIndexByte(got[:i], ' ') + 1
		t.Errorf("docs/doctor.md: the example is not what is printed (UPDATE_DOCS=1 writes it anew), from\n%.200s\non, not\n%.200s\non:\n%s", got[from:], want[from:], out)
	}
}

// withoutNumbers leaves out what differs between machines, days and loads: numbers,
// line breaks, what was found of the clock, and how fast a busy kernel was (that it
// removes addresses at all is compared).
func withoutNumbers(s string) string {
	s = regexp.MustCompile(`(?m)^(ok|info|warning) +(kernel: removes an IPv4 address).*\n( .*\n)*`).ReplaceAllString(s, "$2\n")
	s = regexp.MustCompile(`(?m)^\w+ +clock: .*\n( .*\n)*`).ReplaceAllString(s, "")
	s = regexp.MustCompile(`[0-9]+([.][0-9]+)*`).ReplaceAllString(s, "N")
	s = regexp.MustCompile(`[KMG]iB`).ReplaceAllString(s, "B")
	return strings.Join(strings.Fields(s), " ")
}
