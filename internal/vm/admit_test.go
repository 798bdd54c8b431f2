package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// Whether libvirt may start a machine as it is there.
func TestAdmit(t *testing.T) {
	mine := Claim{Known: true, Home: "a", Generation: 1}
	copies := Claim{Known: true, Home: "b", Generation: 1}
	owed := mine
	owed.Owed = true
	seen := func(node cluster.NodeID, s Seen) View {
		s.VM = "m"
		return View{Node: node, VMs: []Seen{{VM: "other", State: libvirt.Running, Home: "c", Generation: 9}, s}}
	}
	point := []points.Record{{Point: points.Point{Node: "a", Generation: 1}}}
	deaf := View{Node: "b", Libvirt: "not there"}
	b := []cluster.NodeID{"b"}
	for name, c := range map[string]struct {
		mine      Claim
		others    []View
		silent    []cluster.NodeID
		confirmed bool
		want      string // "": it may
	}{
		"its home, all answer":           {mine, []View{seen("b", Seen{Points: point, Home: "a"})}, nil, false, ""},
		"its home, off elsewhere":        {mine, []View{seen("b", Seen{State: libvirt.Off, Home: "a"})}, nil, false, ""},
		"runs elsewhere":                 {mine, []View{seen("b", Seen{State: libvirt.Running, Home: "a"})}, nil, true, "it is running on b"},
		"paused elsewhere":               {mine, []View{seen("b", Seen{State: libvirt.Paused})}, nil, true, "it is paused on b"},
		"paused at its home":             {copies, []View{seen("b", Seen{State: libvirt.Paused, Home: "b"})}, nil, true, "it is paused on b"},
		"paused there by a fence":        {mine, []View{seen("b", Seen{State: libvirt.Paused, Home: "a"})}, nil, false, ""},
		"being started elsewhere":        {mine, []View{seen("b", Seen{Starting: true})}, nil, true, "being started on b"},
		"started elsewhere since":        {mine, []View{seen("b", Seen{State: libvirt.Off, Home: "b", Generation: 2})}, nil, true, "its home is there"},
		"a third one knows of that":      {mine, []View{seen("c", Seen{Home: "b", Points: []points.Record{{Point: points.Point{Node: "b", Generation: 2}}}})}, nil, true, "started on b since"},
		"copies of another's":            {copies, nil, nil, true, "its home is b"},
		"unknown here, home elsewhere":   {Claim{}, []View{seen("b", Seen{Home: "b", Generation: 1})}, nil, true, "its home is b"},
		"unknown everywhere":             {Claim{}, []View{{Node: "b"}}, nil, false, ""},
		"unknown, one silent":            {Claim{}, nil, b, false, ""},
		"its home, one silent":           {mine, nil, b, false, "b cannot be asked"},
		"its home, libvirt there silent": {mine, []View{deaf}, nil, false, "b cannot be asked"},
		"one silent, confirmed":          {mine, nil, b, true, ""},
		"unread there":                   {mine, []View{seen("b", Seen{Unread: "an error"})}, nil, false, "b cannot be asked"},
		"one silent, owed":               {owed, nil, b, false, ""},
		"owed, but it runs elsewhere":    {owed, []View{seen("b", Seen{State: libvirt.Running})}, nil, false, "it is running on b"},
	} {
		err := Admit("m", "a", c.mine, c.others, c.silent, c.confirmed)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || problem.HintOf(err) == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The hook is answered without a question to this node's own libvirt, which waits
// for the answer; what this program starts itself is let pass.
func TestMayStart(t *testing.T) {
	h := &fakeHost{state: libvirt.Off, listErr: context.DeadlineExceeded}
	state := libvirt.Running
	e := startingEngine(t, h, func(Question) View { return View{VMs: []Seen{{VM: "m", State: state}}} })
	if err := e.MayStart(t.Context(), "m"); err == nil {
		t.Error("it runs on a")
	}
	if err := e.MayStart(t.Context(), rehearsalPrefix+"1"); err != nil {
		t.Errorf("a rehearsal: %v", err)
	}
	if err := e.admitting("m", func() error { return e.MayStart(t.Context(), "m") }); err != nil {
		t.Errorf("our own start: %v", err)
	}
	if err := e.MayStart(t.Context(), "m"); err == nil {
		t.Error("our own start is over")
	}
	if h.asked > 0 {
		t.Errorf("libvirt was asked %d times", h.asked)
	}
}

// A start through the hook is announced before anybody is asked, and until libvirt
// says that it runs: of two nodes whose hooks ask at once not both start it.
func TestHookAnnounces(t *testing.T) {
	h := &fakeHost{state: libvirt.Off}
	var e *Engine
	var seen []bool
	starting := func() bool {
		v := e.Local(t.Context(), "m")
		return len(v.VMs) == 1 && v.VMs[0].Starting
	}
	refuse := false
	e = startingEngine(t, h, func(Question) View {
		seen = append(seen, starting())
		return View{VMs: []Seen{{VM: "m", State: libvirt.Off, Starting: refuse}}}
	})
	h.list = []libvirt.Machine{{Name: "m", State: libvirt.Off}}
	refuse = true
	if err := e.MayStart(t.Context(), "m"); err == nil || starting() {
		t.Errorf("it is being started on a: %v; announced here after that: %v", err, starting())
	}
	refuse = false
	if err := e.MayStart(t.Context(), "m"); err != nil || !starting() {
		t.Errorf("let start: %v, announced %v", err, starting())
	}
	e.hooked["m"] = time.Now().Add(-time.Second)
	if starting() {
		t.Error("it is announced for ever")
	}
	if !slices.Equal(seen, []bool{true, true}) {
		t.Errorf("when the other node was asked, it was announced: %v", seen)
	}
}

// Several have a reason to call a machine one that starts; the first that ends takes it from no other.
func TestStartsAreCounted(t *testing.T) {
	h := &fakeHost{state: libvirt.Off, list: []libvirt.Machine{{Name: "m", State: libvirt.Off}}}
	e := newEngine(t, h)
	first, second := e.announce("m"), e.announce("m")
	for i, done := range []func(){first, second} {
		if v := e.Local(t.Context(), "m"); !v.VMs[0].Starting {
			t.Errorf("%d ended: not starting any more", i)
		}
		done()
	}
	if v := e.Local(t.Context(), "m"); v.VMs[0].Starting || len(e.starting) > 0 {
		t.Errorf("all ended: %+v", v)
	}
}

// While no agent answers, only what nobody copies, or what was shut down for a copy, is started.
func TestMayStartAlone(t *testing.T) {
	e := newEngine(t, &fakeHost{state: libvirt.Off})
	at := t.TempDir()
	if err := MayStartAlone(at, "m"); err != nil {
		t.Errorf("no points on this node: %v", err)
	}
	dir := filepath.Dir(e.o.Store.Dir("m"))
	if err := NoteStorage(at, dir); err != nil {
		t.Fatal(err)
	}
	if err := MayStartAlone(at, "m"); err != nil {
		t.Errorf("no points of it: %v", err)
	}
	received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
	if err := MayStartAlone(at, "m"); problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) == "" {
		t.Errorf("points of it: %v", err)
	}
	for boot, may := range map[string]bool{bootID(): true, "another": false} {
		if err := e.o.Store.Note("m", debtFile, Debt{VM: "m", Level: points.Shutdown, Boot: boot}); err != nil {
			t.Fatal(err)
		}
		if err := MayStartAlone(at, "m"); (err == nil) != may {
			t.Errorf("held still since boot %q: %v", boot, err)
		}
	}
	if err := os.WriteFile(filepath.Join(at, StorageNote), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MayStartAlone(at, "m"); err == nil {
		t.Error("a note that cannot be read is no leave")
	}
	if err := NoteStorage(at, ""); err != nil {
		t.Fatal(err)
	}
	if err := MayStartAlone(at, "m"); err != nil {
		t.Errorf("no points any more: %v", err)
	}
}

// A storage that is not mounted, or cannot be read, is not one without machines.
func TestStorageGone(t *testing.T) {
	e := newEngine(t, &fakeHost{state: libvirt.Off})
	at, dir := t.TempDir(), filepath.Dir(e.o.Store.Dir("m"))
	if err := errors.Join(CheckStorage(at, dir), NoteStorage(at, dir), CheckStorage(at, dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.o.Store.Dir("m"), "lineage.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.MayStart(t.Context(), "m"); problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) == "" {
		t.Errorf("a history that cannot be read: %v", err)
	}
	v := e.Local(t.Context(), "m")
	if err := Judge(StartOrder{VM: "m", Confirm: "m"}, "a", []View{v}, nil); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("a start from a point: %v", err)
	}
	v.Node, v.VMs[0].State = "b", libvirt.Off
	if err := Admit("m", "a", Claim{Known: true, Home: "a", Generation: 1}, []View{v}, nil, false); err == nil {
		t.Error("unread on another node")
	}
	for what, gone := range map[string]string{"not mounted": t.TempDir(), "not there": filepath.Join(at, "none")} {
		if err := NoteStorage(at, gone); err != nil {
			t.Fatal(err)
		}
		if err := MayStartAlone(at, "m"); problem.KindOf(err) != problem.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
		if err := CheckStorage(at, gone); problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) == "" {
			t.Errorf("%s: it would be opened: %v", what, err)
		}
	}
}

// A node on demand that is silent is off only if nobody who answers last knew it to be on: else it may have been cut off, with the machine.
func TestSilentOnDemand(t *testing.T) {
	for name, c := range map[string]struct {
		onDemand, mine, theirs bool
		refused                bool
	}{
		"it said goodbye":                   {true, false, false, false},
		"it did not":                        {true, true, false, true},
		"another one knows it to be on":     {true, false, true, true},
		"it is one that is always to be on": {false, false, false, true},
	} {
		e := homeEngine(t, &fakeHost{}, nil)
		e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a", "b", "c"} }
		e.o.MayBeOff = func(n cluster.NodeID) bool { return n == "c" && c.onDemand }
		e.o.WereOn = func() []cluster.NodeID {
			if c.mine {
				return []cluster.NodeID{"c"}
			}
			return nil
		}
		if got := e.Local(t.Context(), "").WereOn; slices.Contains(got, "c") != c.mine {
			t.Errorf("%s: others are told %v", name, got)
		}
		e.o.Dial = func(_ context.Context, n cluster.NodeID, _ string) (transfer.Conn, error) {
			if n == "c" {
				return nil, errors.New("silent")
			}
			return &answering{node: n, say: func(Question) View {
				v := View{VMs: []Seen{}}
				if c.theirs {
					v.WereOn = []cluster.NodeID{"c"}
				}
				return v
			}}, nil
		}
		if err := e.o.Store.SetChain("m", points.Chain{Last: points.First("m", time.Now()), Home: "a"}); err != nil {
			t.Fatal(err)
		}
		views, silent := e.Views(t.Context(), "m")
		for what, err := range map[string]error{"hook": e.MayStart(t.Context(), "m"), "restore": e.sighted(RestoreOrder{VM: "m"}, views, silent)} {
			who := map[bool]string{true: "a heard none of c", false: "b heard none of c"}[c.mine]
			if c.onDemand && err != nil && !strings.Contains(err.Error(), who) {
				t.Errorf("%s, %s: who it is that takes it to be on is not told: %v", name, what, err)
			}
			if (err != nil) != c.refused || err != nil && (!strings.Contains(err.Error(), "c cannot be asked") || problem.HintOf(err) == "" || strings.Contains(err.Error(), "goodbye") != c.onDemand || strings.Contains(problem.HintOf(err), "power on c") != c.onDemand) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}
