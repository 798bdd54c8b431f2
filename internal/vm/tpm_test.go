package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
)

const tpmUUID = "6f8a1d2e-0b1c-4d5e-8f90-123456789abc"

// withTPM is a definition of a machine that has one.
func withTPM(definition string) string {
	return strings.NewReplacer("<name>m</name>", "<name>m</name><uuid>"+tpmUUID+"</uuid>",
		"</devices>", "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>").Replace(definition)
}

func stateOfM(e *Engine) string {
	return e.o.TPM.File(tpm.Which{UUID: tpmUUID, Version: "2.0"})
}

// emulatorWrites replaces a state as the emulator does: another file comes in its place.
func emulatorWrites(t *testing.T, e *Engine, text string) {
	t.Helper()
	name := stateOfM(e)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name+".tmp", []byte(text), 0o600), os.Rename(name+".tmp", name)); err != nil {
		t.Fatal(err)
	}
}

func wantState(t *testing.T, what, name, want string) {
	t.Helper()
	if b, err := os.ReadFile(name); err != nil || string(b) != want {
		t.Errorf("%s: %q, %v, want %q", what, b, err, want)
	}
	if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%s: others may read it: %v", what, info.Mode())
	}
}

// definingHost knows what was defined last.
type definingHost struct{ *fakeHost }

func (h definingHost) Definition(context.Context, string) (text string, err error) {
	return text, h.do(func() error {
		if text = h.definition; h.defined != "" {
			text = h.defined
		}
		return nil
	})
}

// A point has the state of its own moment, whatever the emulator wrote since the point was prepared.
func TestStateOfTheMoment(t *testing.T) {
	h := &fakeHost{state: libvirt.Running}
	e := homeEngine(t, h, nil)
	h.definition = withTPM(h.definition)
	emulatorWrites(t, e, "before")
	src, err := e.prepare(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { src.Close() }()
	emulatorWrites(t, e, "now")
	if err := src.Clone(); err != nil {
		t.Fatal(err)
	}
	emulatorWrites(t, e, "later")
	f := src.Files[len(src.Files)-1]
	b := make([]byte, 100)
	n, _ := f.F.ReadAt(b, 0)
	if info, err := f.F.Stat(); f.Name != tpmFile || !f.Kept || string(b[:n]) != "now" || err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has %q, kept %v, %v, %v", f.Name, b[:n], f.Kept, info.Mode(), err)
	}
}

// What is no state is not taken for one, and no point is made.
func TestNoState(t *testing.T) {
	for name, make := range map[string]func(name string) error{
		"a link":    func(name string) error { return os.Symlink("/etc/passwd", name) },
		"too large": func(name string) error { return os.WriteFile(name, make([]byte, tpm.MaxState+1), 0o600) },
		"a place":   func(name string) error { return os.Mkdir(name, 0o700) },
	} {
		for _, early := range []bool{true, false} {
			h := &fakeHost{state: libvirt.Running}
			e := homeEngine(t, h, nil)
			h.definition = withTPM(h.definition)
			emulatorWrites(t, e, "before")
			put := func() {
				if err := errors.Join(os.Remove(stateOfM(e)), make(stateOfM(e))); err != nil {
					t.Fatal(err)
				}
			}
			if early {
				put()
			}
			src, err := e.prepare(t.Context(), "m")
			if err == nil {
				if !early {
					put()
				}
				err = src.Clone()
				src.Close()
			}
			if err == nil || strings.Contains(err.Error(), "root:") {
				t.Errorf("%s, early %v: %v", name, early, err)
			}
		}
	}
}

// A promotion brings the state of the point; the one that was there stays beside the new disks; and nobody but root can read any.
func TestStateIsPromoted(t *testing.T) {
	for name, before := range map[string]string{"another": "older", "the same": "disk " + tpmFile, "none": ""} {
		h := &fakeHost{state: libvirt.Off}
		e := startingEngine(t, definingHost{h}, offThere)
		var log bytes.Buffer
		e.o.Log = slog.New(slog.NewTextHandler(&log, nil))
		received(t, e, points.First("m", time.Now()), withTPM(definitionOfM), "vda.raw", tpmFile)
		if before != "" {
			emulatorWrites(t, e, before)
		}
		s, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
		if err != nil || h.starts != 1 {
			t.Fatalf("%s: started %d times, %v", name, h.starts, err)
		}
		wantState(t, name, stateOfM(e), "disk "+tpmFile)
		kept := filepath.Join(s.Images, formerTPM)
		if name == "another" {
			wantState(t, name+", the former", kept, before)
		} else if _, err := os.Stat(kept); err == nil {
			t.Errorf("%s: a copy of it is kept", name)
		}
		for _, more := range []string{tpmFile, meanwhileTPM} {
			if _, err := os.Stat(filepath.Join(s.Images, more)); err == nil {
				t.Errorf("%s: one copy more than is needed: %s", name, more)
			}
		}
		if strings.Contains(log.String(), "disk "+tpmFile) {
			t.Errorf("%s: it is in the log: %s", name, &log)
		}
		if left, _ := filepath.Glob(filepath.Dir(filepath.Dir(stateOfM(e))) + "/*"); len(left) != 1 {
			t.Errorf("%s: there is %v", name, left)
		}
	}
}

// A machine whose guest never ran has no state, and gets none that lies there from another time.
func TestNewTPM(t *testing.T) {
	h := &fakeHost{state: libvirt.Off}
	e := startingEngine(t, definingHost{h}, offThere)
	received(t, e, points.First("m", time.Now()), withTPM(definitionOfM), "vda.raw")
	emulatorWrites(t, e, "of another time")
	s, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stateOfM(e)); err == nil {
		t.Error("it starts with a state that is not its own")
	}
	wantState(t, "the former", filepath.Join(s.Images, formerTPM), "of another time")
}

// What another node sent as a definition leads to no file of this node.
func TestTPMOfAnother(t *testing.T) {
	for name, text := range map[string]string{
		"a path":      strings.Replace(withTPM(definitionOfM), tpmUUID, "../../../../../etc", 1),
		"passthrough": strings.Replace(withTPM(definitionOfM), "'emulator'", "'passthrough'", 1),
		"a source":    strings.Replace(withTPM(definitionOfM), "version='2.0'/>", "version='2.0'><source type='file' path='/etc/shadow'/></backend>", 1),
	} {
		h := &fakeHost{state: libvirt.Off}
		e := startingEngine(t, definingHost{h}, offThere)
		received(t, e, points.First("m", time.Now()), text, "vda.raw", tpmFile)
		if _, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"}); problem.KindOf(err) != problem.Invalid || h.defined != "" || h.starts > 0 {
			t.Errorf("%s: %v, defined %q", name, err, h.defined)
		}
		untouched(t, name, e)
	}
}

// Whatever is killed while a machine becomes what it was at a point, it starts with disks and a state of one moment, whoever
// starts it: the agent's next process, or the guard of the one that was killed.
func TestKilledBetweenDisksAndState(t *testing.T) {
	for label, want := range map[string]string{"unpacked": "older", "promoted": "older", "defined": "disk " + tpmFile} {
		for _, by := range []string{"agent", "guard"} {
			h := &fakeHost{state: libvirt.Off, definition: withTPM(definitionOfM)}
			e := startingEngine(t, definingHost{h}, offThere)
			received(t, e, points.First("m", time.Now()), withTPM(definitionOfM), "vda.raw", tpmFile)
			emulatorWrites(t, e, "older")
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
				_, _ = e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
			}()
			if err := e.MayStart(t.Context(), "m"); label == "defined" && problem.KindOf(err) != problem.Conflict {
				t.Errorf("%s: libvirt would be let start it: %v", label, err)
			}
			d := Debt{VM: "m", Level: points.Shutdown, Since: time.Now(), Boot: bootID(), Adopting: filepath.Join(e.o.Store.Dir("m"), adoptFile)}
			b, err := json.Marshal(d)
			if err == nil && by == "guard" {
				err = Guard(t.Context(), bytes.NewReader(b), definingHost{h}, e.o.TPM)
			} else if err == nil {
				err = e.o.Store.Note("m", debtFile, d)
			}
			if err != nil {
				t.Fatal(err)
			}
			atStart := ""
			if by == "guard" {
				atStart = want
				wantState(t, label+" by "+by, stateOfM(e), want)
				emulatorWrites(t, e, "of its guest, which runs")
				atStart = "of its guest, which runs"
			}
			e.recover(t.Context())
			if atStart == "" {
				atStart = want
			}
			wantState(t, label+" by "+by+", then", stateOfM(e), atStart)
			if h.starts != 1 || h.state != libvirt.Running {
				t.Errorf("%s by %s: started %d times, it is %s", label, by, h.starts, h.state)
			}
			if left, _ := filepath.Glob(filepath.Dir(filepath.Dir(stateOfM(e))) + "/*"); len(left) != 1 {
				t.Errorf("%s by %s: there is %v", label, by, left)
			}
			if ok, err := e.o.Store.Noted("m", adoptFile, &adopting{}); ok || err != nil {
				t.Errorf("%s by %s: still written down, %v", label, by, err)
			}
		}
	}
}

// A libvirt that starts the machine of its own accord before the state is in its place keeps the one with which it began: none is put
// under a machine that is not off. The one that was made ready stays for the next time, and what the guest wrote until then is kept.
func TestStartedBeforeState(t *testing.T) {
	for name, killed := range map[string]bool{"at once": false, "after a kill": true} {
		for _, state := range []libvirt.State{libvirt.Running, libvirt.Paused, libvirt.Other} {
			h := &fakeHost{state: libvirt.Off}
			e := startingEngine(t, definingHost{h}, offThere)
			received(t, e, points.First("m", time.Now()), withTPM(definitionOfM), "vda.raw", tpmFile)
			emulatorWrites(t, e, "older")
			e.o.Step = func(label string) {
				if label != "defined" {
					return
				}
				h.state = state
				if killed {
					panic(label)
				}
			}
			refused := func(what string, err error) {
				t.Helper()
				if problem.KindOf(err) != problem.Conflict || problem.HintOf(err) == "" || !strings.Contains(err.Error(), string(state)) {
					t.Errorf("%s, it is %s, %s: %v", name, state, what, err)
				}
				if ok, err := e.o.Store.Noted("m", adoptFile, &adopting{}); !ok || err != nil {
					t.Errorf("%s, it is %s, %s: nobody will finish it, %v", name, state, what, err)
				}
				wantState(t, name+", "+what, stateOfM(e), "older")
			}
			var err error
			func() {
				defer func() { _ = recover() }()
				_, err = e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
			}()
			e.o.Step = nil
			if !killed {
				refused("started", err)
			}
			_, err = e.StartHere(t.Context(), StartOrder{VM: "m", AsItIs: true})
			refused("as it is", err)
			_, err = e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"})
			if err == nil {
				t.Errorf("%s: it was started from a point while it is %s", name, state)
			}
			refused("an agent's start", e.tidyUnused(t.Context(), "m"))
			refused("its guard", finishNoted(t.Context(), definingHost{h}, e.o.TPM, "m", filepath.Join(e.o.Store.Dir("m"), adoptFile)))

			emulatorWrites(t, e, "of its guest, which ran")
			h.state = libvirt.Off
			if _, err := e.StartHere(t.Context(), StartOrder{VM: "m", AsItIs: true, Confirm: "m"}); err != nil || h.starts != 1 {
				t.Errorf("%s: when it is off: started %d times, %v", name, h.starts, err)
			}
			wantState(t, name+", in the end", stateOfM(e), "disk "+tpmFile)
			for file, want := range map[string]string{formerTPM: "older", meanwhileTPM: "of its guest, which ran"} {
				list, _ := filepath.Glob(filepath.Join(e.o.Store.Dir("m"), "live-*", file))
				if len(list) != 1 {
					t.Errorf("%s: kept is %v", name, list)
					continue
				}
				wantState(t, name+", kept", list[0], want)
			}
			if left, _ := filepath.Glob(filepath.Dir(filepath.Dir(stateOfM(e))) + "/*"); len(left) != 1 {
				t.Errorf("%s: there is %v", name, left)
			}
		}
	}
}

// A clone has a copy of the state under a UUID of its own, while it rehearses.
func TestStateRehearses(t *testing.T) {
	h := &fakeHost{state: libvirt.Running, agent: true}
	e := startingEngine(t, h, offThere)
	received(t, e, points.First("m", time.Now()), withTPM(strings.Replace(definitionOfM, "</devices>", agentChannel+"</devices>", 1)), "vda.raw", tpmFile)
	emulatorWrites(t, e, "the machine's own")
	var clone string
	e.o.Step = func(label string) {
		if label != "on stage" {
			return
		}
		d, err := readDomain(h.created)
		if err != nil || d.UUID == tpmUUID || len(d.TPMs) != 1 {
			t.Errorf("created %s, %v", h.created, err)
		}
		clone = e.o.TPM.File(tpm.Which{UUID: d.UUID, Version: "2.0"})
		wantState(t, "the clone's", clone, "disk "+tpmFile)
	}
	if got, err := e.rehearseHere(t.Context(), RehearseOrder{VM: "m", Within: 5 * time.Second}); err != nil || got.Proof.By != "agent" {
		t.Fatalf("%+v, %v", got, err)
	}
	wantState(t, "the machine's", stateOfM(e), "the machine's own")
	if _, err := os.Stat(filepath.Dir(filepath.Dir(clone))); err == nil {
		t.Error("the clone's state stays")
	}
}

// What differs in the state alone is kept aside, too.
func TestStateOfFenced(t *testing.T) {
	for now, want := range map[string]bool{"as it was": true, "written since": false} {
		h := &fakeHost{state: libvirt.Off}
		e := homeEngine(t, h, nil)
		h.definition = withTPM(h.definition)
		emulatorWrites(t, e, "as it was")
		list, err := e.imagesOf(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		list = append(list[:1:1], list[2:]...) // its disk is compared by extent maps, which this machine's temporary directory need not have
		p := points.First("m", time.Now())
		p.Level = points.Shutdown
		take := func() *points.Source {
			src, err := e.o.Store.Take(p, "a", list)
			if err == nil {
				err = src.Clone()
			}
			if err != nil {
				t.Fatal(err)
			}
			return src
		}
		src := take()
		if err := src.Settle(); err != nil {
			t.Fatal(err)
		}
		first := p.ID
		emulatorWrites(t, e, now)
		p = p.Next(time.Now())
		p.Level = points.Shutdown
		again := take()
		if got := e.unchanged("m", first, again); got != want {
			t.Errorf("%s: unchanged %v", now, got)
		}
		again.Close()
		src.Close()
	}
}

// The next step of a libvirt that cannot run it is named.
func TestNoEmulator(t *testing.T) {
	h := refusing{definingHost{&fakeHost{state: libvirt.Off, definition: withTPM(definitionOfM)}}}
	e := startingEngine(t, h, offThere)
	received(t, e, points.First("m", time.Now()), withTPM(definitionOfM), "vda.raw", tpmFile)
	emulatorWrites(t, e, "older")
	if _, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"}); !strings.Contains(problem.HintOf(err), "swtpm") {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	e.recover(t.Context())
	wantState(t, "it is as it was", stateOfM(e), "older")
	if left, _ := filepath.Glob(filepath.Join(e.o.Store.Dir("m"), "live-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

type refusing struct{ definingHost }

func (h refusing) Define(context.Context, string) error {
	return &problem.Problem{Op: "define machine", Kind: problem.Unavailable, Err: fmt.Errorf("TPM version '2.0' is not supported")}
}

// Killed while the state that was made ready takes its place, between the two renames, nothing is at the place for that moment: the next
// try keeps what the one before it had kept of it.
func TestKilledWhileStateTakesItsPlace(t *testing.T) {
	h := &fakeHost{state: libvirt.Off}
	e := startingEngine(t, definingHost{h}, offThere)
	received(t, e, points.First("m", time.Now()), withTPM(definitionOfM), "vda.raw", tpmFile)
	emulatorWrites(t, e, "older")
	e.o.Step = func(label string) {
		if label == "defined" {
			h.state = libvirt.Running
		}
	}
	if _, err := e.StartHere(t.Context(), StartOrder{VM: "m", Confirm: "m"}); problem.KindOf(err) != problem.Conflict {
		t.Fatal(err)
	}
	e.o.Step, h.state = nil, libvirt.Off
	emulatorWrites(t, e, "of its guest, which ran")

	var a adopting
	if ok, err := e.o.Store.Noted("m", adoptFile, &a); !ok || err != nil {
		t.Fatal(ok, err)
	}
	staged, err := e.o.TPM.Staged(*a.TPM)
	if err != nil || staged == "" {
		t.Fatal(staged, err)
	}
	used := filepath.Dir(stateOfM(e))
	if err := errors.Join(keepMeanwhile(stateOfM(e), a.Dir, staged), os.Rename(used, filepath.Join(filepath.Dir(used), "revolve-former"))); err != nil {
		t.Fatal(err)
	}
	if _, err := e.StartHere(t.Context(), StartOrder{VM: "m", AsItIs: true, Confirm: "m"}); err != nil || h.starts != 1 {
		t.Errorf("started %d times, %v", h.starts, err)
	}
	wantState(t, "in the end", stateOfM(e), "disk "+tpmFile)
	wantState(t, "kept", filepath.Join(a.Dir, meanwhileTPM), "of its guest, which ran")
}
