package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"revolve/internal/config"
	"revolve/internal/peer"
)

// ownNetwork runs "$@" on a machine with one card, in a network of its own. Nobody else is there.
const ownNetwork = `exec unshare -rn sh -ec '
ip link set lo up
ip link add lan0 type veth peer name far0
ip link set far0 up
ip addr add 10.77.0.11/24 dev lan0
ip link set lan0 up
ip route add default via 10.77.0.1 dev lan0
exec "$@"' sh "$@"`

// asking is a revolve init in a terminal, in an empty directory.
func asking(t *testing.T, dir string, args ...string) *terminal {
	t.Helper()
	if out, err := exec.Command("unshare", "-rn", "true").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED PART: no network namespaces here: %v %s", err, out)
	}
	cmd := exec.Command("sh", append([]string{"-c", ownNetwork, "sh", "revolve", "init", "--state", dir + "/state", "--out", dir + "/etc/revolve.yaml"}, args...)...)
	return openTerminalOf(t, cmd)
}

// answer waits for a question and types.
func (x *terminal) answer(question, text string) {
	x.t.Helper()
	x.until(question)
	x.mu.Lock()
	x.screen.Reset() // what comes next is new
	x.mu.Unlock()
	_, err := x.keys.WriteString(text)
	must(x.t, err)
}

// questions are asked in this order; wrong answers, and what is said of them.
func questions(dir string) []struct{ question, wrong, said, right string } {
	return []struct{ question, wrong, said, right string }{
		{"Name of the cluster [homelab]: ", "Home Lab\x1b", `"Home Lab\x1b" is not a name`, "family"},
		{"Name of this node [", "a b", `"a b" is not a name`, "anna"},
		{"Interface that carries the floating address [lan0]: ", "lo", "lo is the loopback", ""},
		{"Floating address, a free one that no router gives out [10.77.0.200/24]: ", "10.77.0.1", "is the router's", "10.77.0.201"},
		{"Directory that is kept the same on every node [", dir + "/none/home", "there is no " + dir + "/none", "files=" + dir + "/my files"},
		{"Another node, NAME=ADDRESS (nothing: no more): ", "b", `"b" is not NAME=ADDRESS`, "b=10.77.0.12"},
		{"Another node, NAME=ADDRESS (nothing: no more): ", "b=10.77.0.13", "there is a node b already", ""},
		{"Write " + dir + "/etc/revolve.yaml and make the cluster? [yes]: ", "", "", "yes"},
	}
}

// A person answers, corrects a mistake at every prompt, and ends where the flags end.
func TestInitAsks(t *testing.T) {
	dir := t.TempDir()
	x := asking(t, dir)
	for _, q := range questions(dir) {
		if q.said != "" {
			x.answer(q.question, q.wrong+"\n")
			x.until(q.said)
		}
		x.answer(q.question, q.right+"\n")
	}
	x.until("next: revolve token b --state ")
	x.ended(0)
	file := dir + "/etc/revolve.yaml"
	cfg, err := config.Load(file)
	must(t, err)
	if cfg.Cluster != "family" || cfg.VIPs[0].Prefix.String() != "10.77.0.201/24" || len(cfg.Nodes) != 2 || cfg.Volumes[0].Path != dir+"/my files" || cfg.Volumes[0].Name != "files" {
		t.Errorf("%+v", cfg)
	}
	id, err := peer.LoadIdentity(dir + "/state")
	must(t, err)
	if id.Node != "anna" || id.Cluster != "family" {
		t.Errorf("the identity is that of %s of %s", id.Node, id.Cluster)
	}
	asked, err := os.ReadFile(file)
	must(t, err)
	cmd := exec.Command("sh", "-c", ownNetwork, "sh", "revolve", "init", "--print", "--cluster", "family", "--node", "anna", "--interface", "lan0", "--vip", "10.77.0.201", "--volume", "files="+dir+"/my files", "--other", "b=10.77.0.12")
	printed, err := cmd.Output()
	must(t, err)
	if string(printed) != string(asked) {
		t.Errorf("the flags say\n%s\nand the answers said\n%s", printed, asked)
	}
}

// What is proposed is taken by Enter, what flags say is not asked for.
func TestInitAsksWhatFlagsLeaveOut(t *testing.T) {
	dir := t.TempDir()
	x := asking(t, dir, "--node", "a", "--volume", dir+"/home")
	for _, question := range []string{"Name of the cluster [homelab]: ", "Interface that carries the floating address [lan0]: ", "[10.77.0.200/24]: ", "Another node, NAME=ADDRESS", "Write "} {
		x.until(question)
		if text := x.shown(); strings.Contains(text, "Name of this node") || strings.Contains(text, "Directory that is kept") {
			t.Errorf("it asks for what a flag says: %q", text)
		}
		x.answer(question, "\n")
	}
	x.until("cluster homelab: CA and identity of node a")
	x.ended(0)
	x = asking(t, dir, "--node", "A", "--state", dir+"/other", "--out", dir+"/other.yaml")
	x.answer("Name of the cluster", "\n")
	x.until(`--node "A" is not a name`)
	x.ended(11)
}

// However it is ended, and at which prompt, nothing is left behind.
func TestInitEndedEarly(t *testing.T) {
	n := 0
	for at := range questions("") {
		for _, how := range []string{"ctrl-c", "end of input", "SIGTERM", "no"} {
			last := at == len(questions(""))-1
			if how == "SIGTERM" && at > 0 || how == "no" && !last || how == "end of input" && at%3 != 0 {
				continue // each way at some prompts, ctrl-c at all
			}
			n++
			t.Run(fmt.Sprintf("%s at prompt %d", how, at), func(t *testing.T) {
				t.Parallel()
				endEarly(t, at, how)
			})
		}
	}
	if n < 12 {
		t.Errorf("only %d ends", n)
	}
}

func endEarly(t *testing.T, at int, how string) {
	dir := t.TempDir()
	x := asking(t, dir)
	for _, q := range questions(dir)[:at] {
		x.answer(q.question, q.right+"\n")
	}
	x.until(questions(dir)[at].question)
	said := "interrupted; nothing was made"
	switch how {
	case "ctrl-c":
		x.answer("", "half an answer\x03")
	case "end of input":
		x.answer("", "\x04")
		said = "the input ended before all was answered; nothing was made"
	case "SIGTERM":
		must(t, x.cmd.Process.Signal(syscall.SIGTERM))
	case "no":
		x.answer("", "no\n")
		said = "not agreed to; nothing was made"
	}
	x.until(said)
	x.until("hint: revolve init")
	x.ended(11)
	var left []string
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		left = append(left, path)
		return err
	}))
	if len(left) != 1 {
		t.Errorf("it leaves %q", left)
	}
}

// Of two that write at once one wins, and nothing of the other stays.
func TestWriteNew(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "revolve.yaml")
	_, back, err := writeNew(path, "one", false)
	must(t, err)
	if _, _, err := writeNew(path, "two", false); err == nil || !strings.Contains(err.Error(), "the file exists") {
		t.Errorf("a second time: %v", err)
	}
	kept, undo, err := writeNew(path, "three", true)
	must(t, err)
	if b, _ := os.ReadFile(kept); string(b) != "one" {
		t.Errorf("kept is %q", b)
	}
	undo()
	if b, _ := os.ReadFile(path); string(b) != "one" {
		t.Errorf("taken back, it is %q", b)
	}
	back()
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
	for i := range maxKept {
		name := path + ".old"
		if i > 0 {
			name += fmt.Sprintf(".%d", i)
		}
		must(t, os.WriteFile(name, nil, 0o600))
	}
	must(t, os.WriteFile(path, []byte("last"), 0o600))
	if _, _, err := writeNew(path, "four", true); err == nil || !strings.Contains(err.Error(), "former files") {
		t.Errorf("without a name for the former: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "last" {
		t.Errorf("it is %q", b)
	}
}
