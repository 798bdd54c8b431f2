package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// Where a machine is: where it runs, else where its history goes on.
func TestWhere(t *testing.T) {
	view := func(node, home cluster.NodeID, generation uint64, state libvirt.State) View {
		return View{Node: node, VMs: []Seen{{VM: "other", State: libvirt.Running}, {VM: "m", Home: home, Generation: generation, State: state}}}
	}
	for name, c := range map[string]struct {
		views []View
		want  cluster.NodeID
	}{
		"it runs":            {[]View{view("a", "a", 2, libvirt.Off), view("b", "a", 1, libvirt.Running)}, "b"},
		"fenced":             {[]View{view("a", "b", 1, libvirt.Paused), view("b", "b", 2, libvirt.Running)}, "b"},
		"fenced, home off":   {[]View{view("a", "b", 1, libvirt.Paused), view("b", "b", 2, libvirt.Off)}, "b"},
		"it is paused":       {[]View{view("a", "a", 2, libvirt.Off), view("b", "", 0, libvirt.Paused)}, "b"},
		"off everywhere":     {[]View{view("a", "a", 1, libvirt.Off), view("b", "b", 2, libvirt.Off)}, "b"},
		"only copies answer": {[]View{view("b", "a", 0, "")}, "a"},
		"no history":         {[]View{view("a", "", 0, libvirt.Off)}, "a"},
		"nobody":             {[]View{{Node: "a"}}, ""},
	} {
		if got, err := Where("m", c.views); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// A guest that shows nothing, ends, or shows its sign: it is recorded, and nothing of it stays.
func TestRehearsal(t *testing.T) {
	for name, c := range map[string]struct {
		guest  func(h *fakeHost, console string)
		by     string
		failed string
	}{
		"console": {func(_ *fakeHost, console string) { _ = os.WriteFile(console, []byte("boot\nm login: "), 0o600) }, "console", ""},
		"agent":   {func(h *fakeHost, _ string) { h.agent = true }, "agent", ""},
		"silent":  {func(*fakeHost, string) {}, "", "no sign of life within 5s"},
		"ends":    {func(h *fakeHost, _ string) { h.state = libvirt.Off }, "", "it ended by itself"},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := &fakeHost{state: libvirt.Running}
			e := startingEngine(t, h, offThere)
			r := received(t, e, points.First("m", time.Now()), strings.Replace(definitionOfM, "</devices>", agentChannel+"</devices>", 1), "vda.raw")
			e.o.Step = func(label string) {
				if label == "on stage" {
					dirs, _ := filepath.Glob(filepath.Join(e.o.Store.Dir("m"), "rehearsal-*"))
					c.guest(h, filepath.Join(dirs[0], consoleFile))
				}
			}
			got, err := e.rehearseHere(t.Context(), RehearseOrder{VM: "m", Within: 5 * time.Second})
			if err != nil || got.Proof.By != c.by || !strings.HasPrefix(got.Proof.Failed, c.failed) || (got.Proof.Failed == "") != (c.failed == "") || got.Proof.Unclean {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			r, err = e.o.Store.Get("m", r.ID)
			if err != nil || r.Here.Rehearsed == nil || r.Here.Rehearsed.By != c.by {
				t.Errorf("%s: recorded is %+v, %v", name, r.Here.Rehearsed, err)
			}
			if !strings.Contains(h.created, "<name>"+rehearsalPrefix) || h.defined != "" || h.destroyed != 1 {
				t.Errorf("%s: created %s, defined %q, ended %d times", name, h.created, h.defined, h.destroyed)
			}
			if left, _ := filepath.Glob(filepath.Join(e.o.Store.Dir("m"), "rehearsal*")); len(left) > 0 {
				t.Errorf("%s: left behind: %v", name, left)
			}
		})
	}
}

// What an agent that was killed had on stage is ended by the next one; a note of anything else is not obeyed.
func TestRehearsalCutShort(t *testing.T) {
	h := &fakeHost{state: libvirt.Running}
	e := newEngine(t, h)
	release, err := e.o.Store.Lock("m")
	if err != nil {
		t.Fatal(err)
	}
	release()
	dir := filepath.Join(e.o.Store.Dir("m"), "rehearsal-x")
	for _, c := range []struct {
		g    guestOnStage
		want int
	}{
		{guestOnStage{Name: "m", Dir: dir}, 0},
		{guestOnStage{Name: rehearsalPrefix + "x", Dir: "/etc"}, 0},
		{guestOnStage{Name: rehearsalPrefix + "x", Dir: dir}, 1},
	} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), e.o.Store.Note("m", rehearsalFile, c.g)); err != nil {
			t.Fatal(err)
		}
		e.recover(t.Context())
		if _, err := os.Stat(dir); h.destroyed != c.want || (err != nil) != (c.want == 1) {
			t.Errorf("%+v: ended %d times, want %d; its directory: %v", c.g, h.destroyed, c.want, err)
		}
	}
}

// Going back takes from a machine what it wrote: its name is typed, and what it is can be kept, or nothing is stopped.
func TestRestoreRefused(t *testing.T) {
	h := &fakeHost{state: libvirt.Running}
	e := homeEngine(t, h, nil)
	e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a"} }
	r := received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
	for want, o := range map[string]RestoreOrder{
		"kept as a point)":                 {VM: "m", Point: r.ID},
		"there is no such point":           {VM: "m", Point: points.NewID(time.Now()), Confirm: "m"},
		"cannot be kept as a point here: ": {VM: "m", Point: r.ID, Confirm: "m"},
	} {
		if kept := e.o.Store.Choice().Tracker; kept == "extents" && strings.HasPrefix(want, "cannot") {
			continue // this machine's temporary directory shares blocks
		}
		_, err := e.restoreHere(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), want) || problem.HintOf(err) == "" || h.state != libvirt.Running || h.starts > 0 {
			t.Errorf("%v, want %q; it is %s", err, want, h.state)
		}
	}
}

// A machine whose memory was saved does not go back either: nothing was done to it.
func TestRestoreSaved(t *testing.T) {
	h := &fakeHost{state: libvirt.Off, saved: true}
	e := homeEngine(t, h, nil)
	e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a"} }
	r := received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
	_, err := e.restoreHere(t.Context(), RestoreOrder{VM: "m", Point: r.ID, Confirm: "m"})
	if problem.KindOf(err) != problem.Conflict || err == nil || !strings.Contains(err.Error(), "its memory was saved") || h.defined != "" {
		t.Errorf("%v, defined %q", err, h.defined)
	}
}

// A name that was typed to lose what was written since does not say that the machine runs nowhere else.
func TestRestoreBlind(t *testing.T) {
	h := &fakeHost{state: libvirt.Running}
	e := homeEngine(t, h, func() (transfer.Conn, error) { return nil, errors.New("silent") })
	r := received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
	_, err := e.restoreHere(t.Context(), RestoreOrder{VM: "m", Point: r.ID, Confirm: "m"})
	if err == nil || !strings.Contains(err.Error(), "b cannot be asked") || problem.HintOf(err) == "" || h.state != libvirt.Running {
		t.Errorf("%v; it is %s", err, h.state)
	}
}

// A machine that was fenced is not let go on: no hint says so.
func TestHintOfFenced(t *testing.T) {
	for home, want := range map[cluster.NodeID]string{"a": "virsh resume m", "b": "virsh destroy m"} {
		e := homeEngine(t, &fakeHost{state: libvirt.Paused}, nil)
		if err := e.o.Store.SetChain("m", points.Chain{Last: points.First("m", time.Now()), Home: home}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.stopHere(t.Context(), StopOrder{VM: "m"}); !strings.Contains(problem.HintOf(err), want) {
			t.Errorf("home %s: %v, hint %q", home, err, problem.HintOf(err))
		}
	}
}

// A guest that did not hear its power button in time has a guard that starts it again when it is off: not after a stop on purpose.
func TestStopDismissesGuards(t *testing.T) {
	e := newEngine(t, &fakeHost{state: libvirt.Running})
	e.o.Guard = []string{"sleep", "600"}
	for _, vm := range []string{"m", "other"} {
		g, err := e.startGuard(Debt{VM: vm, Level: points.Shutdown})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { e.dismissLeft(vm) }()
		_ = e.announce(vm)
		e.leave(g, vm)
	}
	if _, err := e.stopHere(t.Context(), StopOrder{VM: "m"}); err != nil {
		t.Fatal(err)
	}
	if e.starting["m"] > 0 || e.starting["other"] != 1 || len(e.left) != 1 {
		t.Errorf("left are %v, being started %v", e.left, e.starting)
	}
	for pid := range e.left {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("the guard of another machine: %v", err)
		}
	}
}

// What an order says is bounded before anything is done or written down of it.
func TestLongSign(t *testing.T) {
	e := newEngine(t, &fakeHost{})
	_, err := e.rehearseHere(t.Context(), RehearseOrder{VM: "m", Sign: strings.Repeat("x", 1<<20)})
	if problem.KindOf(err) != problem.Invalid || len(err.Error()) > 1024 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
	if _, err := e.rehearseHere(t.Context(), RehearseOrder{VM: rehearsalPrefix + "x"}); problem.KindOf(err) != problem.Invalid {
		t.Errorf("a rehearsal of a rehearsal: %v", err)
	}
}
