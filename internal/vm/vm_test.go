package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/testbed"
	"revolve/internal/vm/keep"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
)

func TestMain(m *testing.M) {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	goleak.VerifyTestMain(m)
}

// fakeHost is libvirt with one machine.
type fakeHost struct {
	mu         sync.Mutex
	state      libvirt.State
	frozen     bool
	deaf       bool // the guest does not answer its power button
	noAgent    bool
	starts     int
	defined    string
	definition string
	list       []libvirt.Machine
	listErr    error
	asked      int
	created    string
	destroyed  int
	agent      bool // the guest's answers
	saved      bool // its memory was, before it was off
}

func (h *fakeHost) do(f func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return f()
}

func (h *fakeHost) Machines(context.Context) (list []libvirt.Machine, err error) {
	return list, h.do(func() error {
		h.asked++
		list = h.list
		return h.listErr
	})
}
func (h *fakeHost) State(context.Context, string) (s libvirt.State, err error) {
	return s, h.do(func() error {
		if h.asked++; h.created != "" && h.state == libvirt.Off {
			return &problem.Problem{Kind: problem.NotFound} // as libvirt forgets what was not defined
		}
		s = h.state
		return nil
	})
}
func (h *fakeHost) Saved(context.Context, string) (yes bool, err error) {
	return yes, h.do(func() error { yes = h.saved; return nil })
}
func (h *fakeHost) Definition(context.Context, string) (string, error) { return h.definition, nil }
func (h *fakeHost) Define(_ context.Context, text string) error {
	return h.do(func() error { h.defined = text; return nil })
}
func (h *fakeHost) Suspend(context.Context, string) error {
	return h.do(func() error { h.state = libvirt.Paused; return nil })
}
func (h *fakeHost) Resume(context.Context, string) error {
	return h.do(func() error { h.state = libvirt.Running; return nil })
}
func (h *fakeHost) Freeze(context.Context, string) (n int, err error) {
	return 1, h.do(func() error {
		if h.noAgent {
			return errors.New("no agent")
		}
		h.frozen = true
		return nil
	})
}
func (h *fakeHost) Thaw(context.Context, string) error {
	return h.do(func() error { h.frozen = false; return nil })
}
func (h *fakeHost) PressPower(context.Context, string) error {
	return h.do(func() error {
		if !h.deaf {
			h.state = libvirt.Off
		}
		return nil
	})
}
func (h *fakeHost) Start(context.Context, string) error {
	return h.do(func() error { h.state, h.starts = libvirt.Running, h.starts+1; return nil })
}

func (h *fakeHost) Create(_ context.Context, text string) error {
	return h.do(func() error { h.created = text; return nil })
}
func (h *fakeHost) Destroy(context.Context, string) error {
	return h.do(func() error { h.destroyed++; return nil })
}
func (h *fakeHost) Ping(context.Context, string) error {
	return h.do(func() error {
		if !h.agent {
			return errors.New("no agent")
		}
		return nil
	})
}

func newEngine(t *testing.T, h Host) *Engine {
	t.Helper()
	store, err := points.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	release, err := store.Lock("m")
	if err != nil {
		t.Fatal(err)
	}
	release()
	dir := t.TempDir()
	conf := filepath.Join(dir, "qemu.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "swtpm_user = \"+%d\"\nswtpm_group = \"+%d\"\n", os.Getuid(), os.Getgid()), 0o600); err != nil {
		t.Fatal(err)
	}
	return New(Options{TPM: tpm.Place{Dir: filepath.Join(dir, "swtpm"), Conf: []string{conf}}, Node: "a", Store: store, Host: h, Proc: t.TempDir(), Log: slog.New(slog.DiscardHandler), Keep: func(string) keep.Rules { return keep.Rules{} }, MayBeOff: func(cluster.NodeID) bool { return false }, Nodes: func() []cluster.NodeID { return nil }})
}

// Whatever goes wrong while a machine is held, it goes on, and nothing is owed.
func TestItGoesOn(t *testing.T) {
	failed := errors.New("failed")
	for _, level := range points.Levels() {
		for what, do := range map[string]func(cancel func()) error{
			"well":      func(func()) error { return nil },
			"failed":    func(func()) error { return failed },
			"given up":  func(cancel func()) error { cancel(); return context.Canceled },
			"no agent":  func(func()) error { return nil },
			"deaf":      func(func()) error { return nil },
			"off":       func(func()) error { return nil },
			"by others": func(func()) error { return nil },
			"saved":     func(func()) error { return nil },
		} {
			h := &fakeHost{state: libvirt.Running, noAgent: what == "no agent", deaf: what == "deaf"}
			want, wanted := libvirt.Running, level
			switch what {
			case "off":
				h.state, want, wanted = libvirt.Off, libvirt.Off, points.Shutdown
			case "by others":
				h.state, want, wanted = libvirt.Paused, libvirt.Paused, points.Suspend
			case "saved":
				h.state, h.saved, want, wanted = libvirt.Off, true, libvirt.Off, points.Suspend
			}
			e := newEngine(t, h)
			ctx, cancel := context.WithCancel(t.Context())
			done := false
			_, reached, err := e.still(ctx, "m", level, time.Millisecond, func(points.Level) error {
				done = true
				if e.starting["m"] > 0 == (what == "off" || what == "by others" || what == "saved" || level == points.Live) {
					t.Errorf("%s, %s: others are told that it is being started here: %v", level, what, e.starting["m"])
				}
				if h.state == libvirt.Running && !h.frozen && level != points.Live {
					t.Errorf("%s, %s: it was not held", level, what)
				}
				return do(cancel)
			})
			cancel()
			if h.state != want || h.frozen || reached != wanted {
				t.Errorf("%s, %s: it is %s, frozen %v, level %s", level, what, h.state, h.frozen, reached)
			}
			wantDone := !(what == "no agent" && level == points.Freeze || what == "deaf" && level == points.Shutdown)
			if done != wantDone || (err == nil) != (wantDone && what != "failed" && what != "given up") {
				t.Errorf("%s, %s: done %v, %v", level, what, done, err)
			}
			if !wantDone && problem.HintOf(err) == "" {
				t.Errorf("%s, %s: no next step: %v", level, what, err)
			}
			var d Debt
			if owed, err := e.o.Store.Noted("m", debtFile, &d); err != nil || owed {
				t.Errorf("%s, %s: still owed: %v, %v", level, what, d, err)
			}
		}
	}
}

// The process that waits pays if its parent ends without a word, and only then.
func TestGuard(t *testing.T) {
	for name, c := range map[string]struct {
		said  string
		state libvirt.State
		want  libvirt.State
	}{
		"suspended, no word":  {`{"vm":"m","level":"suspend"}`, libvirt.Paused, libvirt.Running},
		"suspended, paid":     {`{"vm":"m","level":"suspend"}` + "\npaid\n", libvirt.Paused, libvirt.Paused},
		"nothing was said":    {"", libvirt.Paused, libvirt.Paused},
		"half a word":         {`{"vm":"m","level":"suspend"}` + "\npai", libvirt.Paused, libvirt.Running},
		"shut down, no word":  {`{"vm":"m","level":"shutdown"}`, libvirt.Off, libvirt.Running},
		"off, only suspended": {`{"vm":"m","level":"suspend"}`, libvirt.Off, libvirt.Off},
	} {
		h := &fakeHost{state: c.state}
		if err := Guard(t.Context(), strings.NewReader(c.said), h, tpm.Place{}); err != nil || h.state != c.want {
			t.Errorf("%s: it is %s, want %s (%v)", name, h.state, c.want, err)
		}
	}
}

// A guard of an agent that is gone starts no machine that was stopped on purpose meanwhile; what was owed after the stop it does.
func TestGuardOfAnEarlierAgent(t *testing.T) {
	for name, c := range map[string]struct {
		since time.Duration // of the debt, from the stop
		want  libvirt.State
	}{
		"stopped since":  {-time.Minute, libvirt.Off},
		"stopped before": {time.Minute, libvirt.Running},
	} {
		h := &fakeHost{state: libvirt.Running}
		e := newEngine(t, h)
		if _, err := e.stopHere(t.Context(), StopOrder{VM: "m", Within: time.Second}); err != nil || h.state != libvirt.Off {
			t.Fatalf("%s: %v", h.state, err)
		}
		d := Debt{VM: "m", Level: points.Shutdown, Since: time.Now().Add(c.since), Boot: bootID(), Stopped: filepath.Join(e.o.Store.Dir("m"), stoppedFile)}
		b, err := json.Marshal(d)
		if err == nil {
			err = Guard(t.Context(), strings.NewReader(string(b)), h, tpm.Place{})
		}
		if err != nil || h.state != c.want {
			t.Errorf("%s: it is %s, want %s (%v)", name, h.state, c.want, err)
		}
		h.state = libvirt.Off
		if err := e.o.Store.Note("m", debtFile, d); err != nil {
			t.Fatal(err)
		}
		e.recover(t.Context())
		if h.state != c.want {
			t.Errorf("%s: after a restart it is %s, want %s", name, h.state, c.want)
		}
	}
}

// An agent that starts pays what the one before it owed.
func TestRecover(t *testing.T) {
	for boot, want := range map[string]libvirt.State{bootID(): libvirt.Running, "another": libvirt.Off} {
		h := &fakeHost{state: libvirt.Off}
		e := newEngine(t, h)
		if err := e.o.Store.Note("m", debtFile, Debt{VM: "m", Level: points.Shutdown, Boot: boot}); err != nil {
			t.Fatal(err)
		}
		e.recover(t.Context())
		var d Debt
		if owed, err := e.o.Store.Noted("m", debtFile, &d); h.state != want || owed || err != nil {
			t.Errorf("boot %s: it is %s, want %s, owed %v, %v", boot, h.state, want, owed, err)
		}
	}
}

// Where a machine may be started.
func TestJudge(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	first := points.First("m", at)
	first.Node, first.Level = "a", points.Suspend
	second := first.Next(at)
	second.Node, second.Level = "a", points.Suspend
	record := func(p points.Point, node cluster.NodeID) points.Record {
		return points.Record{Point: p, Here: points.Here{Node: node}}
	}
	view := func(node cluster.NodeID, state libvirt.State, list ...points.Record) View {
		return View{Node: node, VMs: []Seen{{VM: "other", State: libvirt.Running}, {VM: "m", State: state, Points: list}}}
	}
	starting := view("a", libvirt.Off)
	starting.VMs[1].Starting = true
	deaf := view("a", "")
	deaf.Libvirt = "not there"
	deafHere := view("b", "", record(second, "b"))
	deafHere.Libvirt = "not there"
	both := []points.Record{record(second, "b"), record(first, "b")}
	confirmed := StartOrder{VM: "m", Confirm: "m"}
	claims := func(node, home cluster.NodeID, generation uint64, list []points.Record) View {
		return View{Node: node, VMs: []Seen{{VM: "m", State: libvirt.Off, Home: home, Generation: generation, Points: list}}}
	}
	fenced := claims("b", "a", 1, []points.Record{record(first, "b")})
	fenced.VMs[0].State = libvirt.Paused
	aside := record(second, "a")
	aside.Here.Aside = true
	for name, c := range map[string]struct {
		o      StartOrder
		views  []View
		silent []cluster.NodeID
		want   string // "": it may
	}{
		"confirmed, home off":             {confirmed, []View{view("b", "", both...), view("a", libvirt.Off)}, nil, ""},
		"confirmed, home silent":          {confirmed, []View{view("b", "", both...)}, []cluster.NodeID{"a"}, ""},
		"home silent":                     {StartOrder{VM: "m"}, []View{view("b", "", both...)}, []cluster.NodeID{"a"}, "a cannot be asked"},
		"libvirt there silent":            {StartOrder{VM: "m"}, []View{view("b", "", both...), deaf}, nil, "a cannot be asked"},
		"libvirt here silent":             {confirmed, []View{deafHere, view("a", libvirt.Off)}, nil, "libvirt here cannot be asked"},
		"home off, not confirmed":         {StartOrder{VM: "m"}, []View{view("b", "", both...), view("a", libvirt.Off)}, nil, "its home is a"},
		"confirmed, runs":                 {confirmed, []View{view("b", "", both...), view("a", libvirt.Running)}, nil, "it is running on a"},
		"confirmed, paused":               {confirmed, []View{view("b", "", both...), view("a", libvirt.Paused)}, nil, "it is paused on a"},
		"confirmed, runs here":            {confirmed, []View{view("b", libvirt.Running, both...)}, nil, "it is running on b"},
		"confirmed, runs, another silent": {confirmed, []View{view("b", "", both...), view("a", libvirt.Running)}, []cluster.NodeID{"c"}, "it is running on a"},
		"being started there":             {confirmed, []View{view("b", "", both...), starting}, nil, "being started on a"},
		"another name typed":              {StartOrder{VM: "m", Confirm: "n"}, []View{view("b", "", both...)}, nil, `"n" was typed`},
		"no point":                        {confirmed, []View{view("b", ""), view("a", libvirt.Off, both...)}, nil, "no such point"},
		"another point":                   {StartOrder{VM: "m", Confirm: "m", Point: points.NewID(at)}, []View{view("b", "", both...)}, nil, "no such point"},
		"its own point, all answer":       {StartOrder{VM: "m"}, []View{view("a", libvirt.Off, record(second, "a"))}, nil, ""},
		"older than another node's":       {StartOrder{VM: "m"}, []View{view("a", libvirt.Off, record(first, "a")), view("b", "", record(second, "b"))}, nil, "is older than"},
		"an older one that was named":     {StartOrder{VM: "m", Confirm: "m", Point: first.ID}, []View{view("b", "", both...)}, nil, ""},
		"went on there, all off":          {StartOrder{VM: "m"}, []View{view("a", libvirt.Off, record(second, "a")), claims("b", "b", 2, nil)}, nil, "its home is b"},
		"a third one knows of that":       {StartOrder{VM: "m"}, []View{view("a", libvirt.Off, record(second, "a")), claims("c", "b", 2, nil)}, nil, "its home is b"},
		"went on here":                    {StartOrder{VM: "m"}, []View{claims("a", "a", 2, []points.Record{record(second, "a")})}, nil, "its home is a"},
		"the same, confirmed":             {confirmed, []View{view("a", libvirt.Off, record(second, "a")), claims("b", "b", 2, nil)}, nil, ""},
		"paused there by a fence":         {StartOrder{VM: "m"}, []View{view("a", libvirt.Off, record(second, "a")), fenced}, nil, ""},
		"paused here by a fence":          {confirmed, []View{fenced}, nil, "it is paused here, because its home is a"},
		"only what was kept aside":        {confirmed, []View{view("a", libvirt.Off, aside)}, nil, "no such point"},
		"kept aside, and named":           {StartOrder{VM: "m", Confirm: "m", Point: second.ID}, []View{view("a", libvirt.Off, aside)}, nil, ""},
		"kept aside is not the newest":    {StartOrder{VM: "m"}, []View{view("a", libvirt.Off, record(first, "a")), view("b", libvirt.Off, aside)}, nil, ""},
	} {
		here := c.views[0].Node
		err := Judge(c.o, here, c.views, c.silent)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || problem.HintOf(err) == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Only the names of files change in a definition.
func TestMoved(t *testing.T) {
	const text = `<domain xmlns:q='x'><!-- /old/a & more --><name>m</name><os><nvram template='/t'>/old/n</nvram></os><devices>` +
		`<disk device="disk"><source file="/old/a" index='1'/><target dev='vda'/></disk><disk><source file='/old/it&apos;s'/></disk>` +
		`<filesystem><source file='/old/a'/></filesystem><unknown thing='1'><![CDATA[x]]></unknown></devices></domain>`
	got, err := moved(text, map[string]string{"/old/a": "/new/a&b", "/old/it's": "/new/b", "/old/n": "/new/n"})
	want := strings.NewReplacer(`"/old/a" index`, `"/new/a&amp;b" index`, `'/old/it&apos;s'`, `'/new/b'`, `>/old/n<`, `>/new/n<`).Replace(text)
	if err != nil || got != want {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
	if _, err := moved(text, map[string]string{"/elsewhere": "/new"}); problem.KindOf(err) != problem.Corrupt {
		t.Errorf("a file that is not named: %v", err)
	}
}

// What a point cannot keep is refused before anything is stopped.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		`<disk type='block' device='disk'><driver type='raw'/><source dev='/dev/x'/><target dev='vda'/></disk>`: "not a file",
		`<disk type='file' device='disk'><driver type='vmdk'/><source file='/x'/><target dev='vda'/></disk>`:    "vmdk",
		`<tpm model='tpm-crb'/>`: "TPM",
		`<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>`:                                             "does not leave this node",
		`<tpm model='tpm-crb'><backend type='external'><source type='unix' mode='connect' path='/x'/></backend></tpm>`:                            "does not leave this node",
		`<tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption secret='6f8a1d2e-0b1c-4d5e-8f90-123456789abc'/></backend></tpm>`: "encrypted with a secret",
		`<tpm model='tpm-crb'><backend type='emulator' version='2.0'><source type='dir' path='/x'/></backend></tpm>`:                              "<source>",
		`<tpm model='tpm-spapr'><backend type='emulator' version='2.0'/></tpm><tpm model='spapr-tpm-proxy'><backend type='passthrough'/></tpm>`:   "more than one TPM",
		`<tpm model='tpm-crb'><backend type='emulator' version='3.0'/></tpm>`:                                                                     `"3.0"`,
	} {
		text = "<domain><name>m</name><uuid>6f8a1d2e-0b1c-4d5e-8f90-123456789abc</uuid><devices>" + text + "</devices></domain>"
		d, err := readDomain(text)
		if err == nil {
			_, err = images(d, text, tpm.Place{})
		}
		if err == nil || !strings.Contains(err.Error(), want) || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", text, err)
		}
	}
}
