package stories

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/testbed"
)

// envStepped names the program whose clock can be set, and envClock the file from which it reads by how many seconds.
const (
	envStepped = "REVOLVE_STEPPED"
	envClock   = "REVOLVE_STORIES_CLOCK"
)

// The kernel has no clock of the wall for each namespace (time_namespaces(7) has the monotonic ones alone), and a step of the
// machine's own would be one for everything on it. So the same source is built with a package time whose Now adds a file's seconds
// to the seconds of the wall and nothing to the monotonic clock, which is what a step does (clock_settime(2)).
const (
	stepTime = `package time

import "sync/atomic"

var stepped atomic.Int64

func StepBy(seconds int64) { stepped.Store(seconds) }
`
	stepMain = `package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

func init() {
	name := os.Getenv("` + envClock + `")
	if name == "" {
		return
	}
	go func() {
		for {
			b, _ := os.ReadFile(name)
			n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			time.StepBy(n)
			time.Sleep(20 * time.Millisecond)
		}
	}()
}
`
	nowIs   = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	nowStep = "\tsec, nsec, mono := runtimeNow()\n\tsec += stepped.Load()\n\tif mono == 0 {"
)

// buildStepped builds that program.
func buildStepped(t *testing.T) (bin string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "stories-clock-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	out, err := exec.Command("go", "env", "GOROOT").Output()
	must(t, err)
	std := filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	root, err := filepath.Abs("../..")
	must(t, err)
	src, err := os.ReadFile(filepath.Join(std, "time.go"))
	must(t, err)
	if n := strings.Count(string(src), nowIs); n != 1 {
		t.Fatalf("time.Now of %s is another one: its beginning stands %d times in it", runtime.Version(), n)
	}
	replace := map[string]string{}
	for path, text := range map[string]string{
		filepath.Join(std, "time.go"):                 strings.Replace(string(src), nowIs, nowStep, 1),
		filepath.Join(std, "step.go"):                 stepTime,
		filepath.Join(root, "cmd/revolve", "step.go"): stepMain,
	} {
		file := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		must(t, os.WriteFile(file, []byte(text), 0o644))
		replace[path] = file
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	must(t, err)
	must(t, os.WriteFile(dir+"/overlay.json", overlay, 0o644))
	bin = filepath.Join(dir, "revolve")
	cmd := exec.Command("go", "build", "-trimpath", "-overlay", dir+"/overlay.json", "-o", bin, "./cmd/revolve")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with a clock that can be set: %v\n%s", err, out)
	}
	return bin
}

// TestClockStep: with BIND and dnsmasq running, the clocks of the agents are set: the master's an hour on, then all of
// them a day on, then one half an hour back. The address stays, clients are answered, changes arrive and a planned switch works.
func TestClockStep(t *testing.T) {
	if os.Getenv(envServices) == "" {
		t.Skip("SKIPPED PART: clocks that are set (make test-services has it: the program is built anew for it)")
	}
	needs(t, "clocks that are set", "named", "rndc", "dnsmasq", "dig")
	if os.Getenv(envStepped) == "" {
		t.Setenv(envStepped, buildStepped(t))
	}
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		s := newServed(t, stage)
		s.plan.under = []string{"env", envClock + "=" + filepath.Join(s.bed.Self(), "clock")}
		for _, n := range s.nodes {
			n.binary = os.Getenv(envStepped)
		}
		s.publish(s.nodes["a"]) // before the first start: the others get it by the mirror
		m := s.formAround(s.nodes["a"])
		for _, name := range s.names {
			s.waitFor(s.nodes[name], "healthy")
		}
		s.ask("BIND", portBIND)
		s.ask("dnsmasq", portMasq)
		s.stepped(m, "the master's clock is an hour ahead", 3600, m)
		s.stepped(m, "all clocks are a day ahead", 86400, m, s.others(m)[0], s.others(m)[1])
		s.stepped(m, "the master's clock is right, the others' are not", 0, m)
		s.stepped(m, "one standby's clock is half an hour behind", -1800, s.others(m)[0])
		next := s.switched(m)
		s.stepped(next, "all clocks are right", 0, m, s.others(m)[0], s.others(m)[1])
	})
}

// stepped sets the nodes' clocks and wants nothing to change by it: neither master nor term, no question lost for longer than
// a busy machine loses one, and a new record is everywhere.
func (s *served) stepped(m *node, chapter string, seconds int64, nodes ...*node) {
	s.t.Helper()
	before, err := m.status()
	must(s.t, err)
	s.lost("before")
	for _, n := range nodes {
		put(s.t, n.Root()+"/clock", fmt.Sprint(seconds))
		s.eventually("the clock of "+n.name+" to be set", lookEvery, func() error { return n.tells(seconds) })
	}
	for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(lookEvery) {
		if who := s.holders(); !slices.Equal(who, []string{m.name}) {
			s.t.Fatalf("%s: the addresses are on %v, were on %s", chapter, who, m.name)
		}
	}
	s.changed(m, []string{vip4.Addr().String(), "10.77.0.11", "10.77.0.12", "10.77.0.13"})
	s.settled()
	after, err := m.status()
	must(s.t, err)
	if after.Term != before.Term || after.Master != before.Master {
		s.t.Errorf("%s: master %s in term %d, was %s in term %d", chapter, after.Master, after.Term, before.Master, before.Term)
	}
	for _, n := range s.nodes {
		if list := n.divergent(); len(list) > 0 {
			s.t.Errorf("%s: %s keeps %d changes aside, such as %+v", chapter, n.name, len(list), list[0])
		}
		for _, name := range []string{"dns", "hosts"} {
			if v, err := n.service(name); err != nil || v.State != "healthy" || v.Restarts != 0 {
				s.t.Errorf("%s: %s of %s: %+v, %v", chapter, name, n.name, v, err)
			}
		}
	}
	s.lost(chapter)
}

// tells is nil if the node's agent says that it is so late.
func (n *node) tells(seconds int64) error {
	st, err := n.status()
	if err != nil {
		return err
	}
	if off := time.Until(st.AsOf).Seconds(); off < float64(seconds)-60 || off > float64(seconds)+60 {
		return fmt.Errorf("it says %v", st.AsOf)
	}
	return nil
}
