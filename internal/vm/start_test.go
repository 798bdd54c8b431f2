package vm

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// answering is another node that is asked one question.
type answering struct {
	node cluster.NodeID
	say  func(Question) View
	q    Question
}

func (c *answering) Peer() cluster.NodeID                { return c.node }
func (c *answering) Flush() error                        { return nil }
func (c *answering) Close() error                        { return nil }
func (c *answering) SetReadDeadline(time.Time) error     { return nil }
func (c *answering) SetWriteDeadline(time.Time) error    { return nil }
func (c *answering) Write(_ byte, parts ...[]byte) error { return json.Unmarshal(parts[0], &c.q) }
func (c *answering) Read() (byte, []byte, error) {
	v := c.say(c.q)
	v.Node = c.node
	b, err := json.Marshal(v)
	return frameView, b, err
}

// received puts a point where one that came from a lies.
func received(t *testing.T, e *Engine, p points.Point, definition string, disks ...string) points.Record {
	t.Helper()
	release, err := e.o.Store.Lock(p.VM)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	p.Node, p.Level = "a", points.Suspend
	content := map[string]string{definitionFile: definition}
	p.Files = []points.File{{Name: definitionFile, Size: int64(len(definition))}}
	for _, d := range disks {
		content[d] = "disk " + d
		p.Files = append(p.Files, points.File{Name: d, Size: int64(len(content[d]))})
	}
	st, err := e.o.Store.Stage(p, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	here := points.Here{Node: "b", From: "a"}
	for _, f := range p.Files {
		here.Files = append(here.Files, points.Held{Name: f.Name})
		if err := st.Write(f.Name, 0, []byte(content[f.Name])); err != nil {
			t.Fatal(err)
		}
	}
	r, err := st.Publish(here)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// startingEngine is node b, which has points of m that came from a.
func startingEngine(t *testing.T, h Host, a func(Question) View) *Engine {
	t.Helper()
	e := newEngine(t, h)
	e.o.Node = "b"
	e.o.Nodes = func() []cluster.NodeID { return []cluster.NodeID{"a", "b"} }
	e.o.Dial = func(context.Context, cluster.NodeID, string) (transfer.Conn, error) {
		return &answering{node: "a", say: a}, nil
	}
	return e
}

const definitionOfM = `<domain><name>m</name><devices><disk type='file' device='disk'><driver type='raw'/><source file='/a/m.raw'/><target dev='vda'/></disk></devices></domain>`

func offThere(Question) View { return View{VMs: []Seen{{VM: "m", State: libvirt.Off}}} }

// A promotion is higher than every history that anybody knows, also one of which no point was taken.
func TestHigherThanAny(t *testing.T) {
	h := &fakeHost{state: libvirt.Off}
	e := startingEngine(t, h, func(Question) View { return View{VMs: []Seen{{VM: "m", State: libvirt.Off, Generation: 7}}} })
	received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
	s, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
	if err != nil || s.Generation != 8 || h.starts != 1 {
		t.Fatalf("generation %d, started %d times, %v", s.Generation, h.starts, err)
	}
	if c, ok, err := e.o.Store.Chain("m"); err != nil || !ok || c.Last.Generation != 8 || c.Home != "b" {
		t.Errorf("lineage %+v, %v", c, err)
	}
	if want := `file='` + s.Images + `/vda.raw'`; !strings.Contains(h.defined, want) {
		t.Errorf("defined as %s, without %s", h.defined, want)
	}
	if b, err := os.ReadFile(filepath.Join(s.Images, "vda.raw")); err != nil || string(b) != "disk vda.raw" {
		t.Errorf("its disk: %q, %v", b, err)
	}
}

// What another node sent as a machine's definition is that of this machine and of these disks, or nothing is defined.
func TestDefinitionOfAnother(t *testing.T) {
	for name, c := range map[string]struct {
		definition string
		want       string
	}{
		"another machine": {strings.Replace(definitionOfM, "<name>m<", "<name>other<", 1), "that of \"other\""},
		"a disk more": {strings.Replace(definitionOfM, "</devices>", `<disk type='file' device='disk'><driver type='raw'/><source file='/etc/shadow'/><target dev='vdb'/></disk></devices>`, 1),
			"disk vdb of its definition is not in the point"},
		"a disk of this node": {strings.Replace(definitionOfM, "</devices>", `<disk type='block' device='disk'><driver type='raw'/><source dev='/dev/sda'/><target dev='vdb'/></disk></devices>`, 1),
			"disk vdb of its definition is not in the point"},
	} {
		h := &fakeHost{state: libvirt.Off}
		e := startingEngine(t, h, offThere)
		received(t, e, points.First("m", time.Now()), c.definition, "vda.raw")
		_, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
		if problem.KindOf(err) != problem.Corrupt || !strings.Contains(err.Error(), c.want) || h.defined != "" || h.starts > 0 {
			t.Errorf("%s: %v, defined %q", name, err, h.defined)
		}
		untouched(t, name, e)
	}
}

// A machine whose memory was saved would go on with that on the disks of then, not on those of the point. It is seen also when its
// memory is saved while the disks are made.
func TestSavedIsNotAdopted(t *testing.T) {
	for _, when := range []string{"before", "unpacked"} {
		h := &fakeHost{state: libvirt.Off, saved: when == "before"}
		e := startingEngine(t, h, offThere)
		received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
		e.o.Step = func(name string) {
			if name == when {
				_ = h.do(func() error { h.saved = true; return nil })
			}
		}
		_, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
		if problem.KindOf(err) != problem.Conflict || !strings.Contains(err.Error(), "its memory was saved on b") || !strings.Contains(problem.HintOf(err), "virsh managedsave-remove m") || h.defined != "" || h.starts > 0 {
			t.Errorf("%s: %v, defined %q", when, err, h.defined)
		}
		untouched(t, when, e)
	}
}

// untouched fails if a start that was refused left anything.
func untouched(t *testing.T, name string, e *Engine) {
	t.Helper()
	if c, ok, err := e.o.Store.Chain("m"); ok || err != nil {
		t.Errorf("%s: its history goes on here: %+v, %v", name, c, err)
	}
	if left, _ := filepath.Glob(filepath.Join(e.o.Store.Dir("m"), "live-*")); len(left) > 0 {
		t.Errorf("%s: left behind: %v", name, left)
	}
}

// Making a machine's disks may take hours where blocks cannot be shared; who started it meanwhile is seen.
func TestAskedAgain(t *testing.T) {
	h := &fakeHost{state: libvirt.Off}
	state := libvirt.Off
	e := startingEngine(t, h, func(Question) View { return View{VMs: []Seen{{VM: "m", State: state}}} })
	received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
	e.o.Step = func(name string) {
		if name == "unpacked" {
			state = libvirt.Running
		}
	}
	_, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
	if err == nil || !strings.Contains(err.Error(), "it is running on a") || h.defined != "" || h.starts > 0 {
		t.Errorf("%v, defined %q", err, h.defined)
	}
	untouched(t, "asked again", e)
}

// A node whose libvirt cannot list its machines has not said that they are off.
func TestNoListIsNotOff(t *testing.T) {
	h := &fakeHost{state: libvirt.Off, listErr: errors.New("a timeout")}
	e := startingEngine(t, h, offThere)
	received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
	if v := e.Local(t.Context(), "m"); v.Libvirt == "" || len(v.VMs) != 1 || v.VMs[0].State == libvirt.Off {
		t.Errorf("it says %+v", v)
	}
}

// Whatever is killed while disks are made, or before libvirt knows of them, they do not stay; what it knows of does.
func TestKilledBeforeDefined(t *testing.T) {
	for _, label := range []string{"unpacked", "promoted", "staged"} {
		h := &fakeHost{state: libvirt.Off, definition: definitionOfM}
		e := startingEngine(t, h, offThere)
		received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
		e.o.Step = func(name string) {
			if name == label {
				panic(label)
			}
		}
		func() {
			defer func() {
				if recover() != label {
					t.Errorf("%s was not reached", label)
				}
			}()
			if label == "staged" {
				_, _ = e.rehearseHere(t.Context(), RehearseOrder{VM: "m"})
			} else {
				_, _ = e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
			}
		}()
		made := func() []string {
			var list []string
			for _, pattern := range []string{"live-*", "rehearsal*", adoptFile} {
				l, _ := filepath.Glob(filepath.Join(e.o.Store.Dir("m"), pattern))
				list = append(list, l...)
			}
			return list
		}
		if len(made()) < 2 {
			t.Errorf("%s: killed with %v", label, made())
		}
		e.recover(t.Context())
		if left := made(); len(left) > 0 {
			t.Errorf("%s: left behind: %v", label, left)
		}
	}
	h := &fakeHost{state: libvirt.Off}
	e := startingEngine(t, h, offThere)
	received(t, e, points.First("m", time.Now()), definitionOfM, "vda.raw")
	s, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
	if err != nil {
		t.Fatal(err)
	}
	h.definition = h.defined
	if err := e.o.Store.Note("m", adoptFile, adopting{Dir: s.Images}); err != nil {
		t.Fatal(err)
	}
	e.recover(t.Context())
	if _, err := os.Stat(filepath.Join(s.Images, "vda.raw")); err != nil {
		t.Errorf("what libvirt knows of: %v", err)
	}
}
