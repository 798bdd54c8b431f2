package stories

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Statuses of a resource agent (OCF Resource Agent API 1.1, section 3.5.2).
const (
	ocfSuccess    = 0
	ocfGeneric    = 1
	ocfConfigured = 6
	ocfNotRunning = 7
	ocfPromoted   = 8
)

// The resource agent by itself, with programs in the place of revolve and
// crm_master: every action, in and out of order, and the scores that it sets.
func TestOCFAgent(t *testing.T) {
	if _, err := os.Stat("/usr/lib/ocf/lib/heartbeat/ocf-shellfuncs"); err != nil {
		t.Skipf("SKIPPED PART: the OCF agent: %v (apt-get install resource-agents)", err)
	}
	dir := t.TempDir()
	program := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
		return path
	}
	answers := func(json string, status string) {
		program("revolve", "cat <<'END'\n"+json+"\nEND\nexit "+status+"\n")
	}
	scores := filepath.Join(dir, "scores")
	program("crm_master", `echo "$@" >>`+scores+"\n")
	env := func(more ...string) []string {
		return append(append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "OCF_ROOT=/usr/lib/ocf", "HA_RSCTMP="+dir, "OCF_RESOURCE_INSTANCE=revolve:0", "HA_LOGFACILITY=none",
			"OCF_RESKEY_binary="+filepath.Join(dir, "revolve"), "OCF_RESKEY_state="+dir), more...)
	}
	call := func(action string, want int, more ...string) string {
		t.Helper()
		cmd := exec.Command("../../examples/pacemaker/revolve", action)
		cmd.Env = env(more...)
		out, _ := cmd.CombinedOutput() // the exit status says it
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: exit status %d, want %d\n%s", action, got, want, out)
		}
		return string(out)
	}
	scored := func(what, want string) {
		t.Helper()
		b, _ := os.ReadFile(scores)
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if last := lines[len(lines)-1]; last != want {
			t.Errorf("%s: the last score is %q, want %q", what, last, want)
		}
	}
	if err := xml.Unmarshal([]byte(call("meta-data", ocfSuccess)), new(struct{})); err != nil {
		t.Error(err)
	}
	call("validate-all", ocfSuccess+5) // OCF_ERR_INSTALLED: no program yet
	answers(`{"node":"a","eligible":true,"why":"","penalty":0,"score":1000}`, "0")
	call("validate-all", ocfSuccess)
	call("validate-all", ocfConfigured, "OCF_RESKEY_state="+dir+"/nowhere")
	call("monitor", ocfNotRunning)
	call("promote", ocfNotRunning)
	call("start", ocfSuccess)
	scored("in-sync", "-l reboot -v 1000")
	call("start", ocfSuccess)
	call("monitor", ocfSuccess)
	call("promote", ocfSuccess)
	call("monitor", ocfPromoted)
	answers(`{"node":"a","eligible":false,"why":"","penalty":254,"score":0}`, "1")
	call("monitor", ocfPromoted)
	scored("not eligible", "-l reboot -v -INFINITY")
	call("demote", ocfSuccess)
	call("monitor", ocfSuccess)
	program("revolve", "exit 1\n") // no agent answers
	call("monitor", ocfGeneric)
	scored("silent", "-l reboot -v -INFINITY")
	call("stop", ocfSuccess)
	scored("stopped", "-l reboot -D")
	call("stop", ocfSuccess)
	call("monitor", ocfNotRunning)
	call("start", ocfGeneric)
	answers(`{"score":940}`, "0")
	call("nonsense", 3) // OCF_ERR_UNIMPLEMENTED
	if tester, err := exec.LookPath("ocf-tester"); err == nil {
		agent, err := filepath.Abs("../../examples/pacemaker/revolve")
		must(t, err)
		cmd := exec.Command(tester, "-n", "revolve", "-o", "binary="+filepath.Join(dir, "revolve"), "-o", "state="+dir, agent)
		cmd.Env = env()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("ocf-tester: %v\n%s", err, out)
		}
	} else {
		t.Log("SKIPPED PART: ocf-tester:", err)
	}
}
