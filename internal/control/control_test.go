package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

// fake is an agent that answers what it was given.
type fake struct {
	control.Keeper
	control.Rehearser
	control.Powerer
	control.Verifier
	control.Explainer
	control.Alarmer
	control.Machines
	status  control.Status
	err     error
	slow    bool        // a barrier that nothing ends but its caller
	caller  chan string // who orders a switch
	ordered chan string // that somebody does
}

func (f fake) Ordered(what string) {
	if f.ordered != nil {
		f.ordered <- what
	}
}
func (f fake) Status() control.Status { return f.status }
func (f fake) Switch(ctx context.Context, to cluster.NodeID) (cluster.NodeID, error) {
	if f.caller != nil {
		f.caller <- control.Caller(ctx)
	}
	return to, f.err
}
func (f fake) Sync(ctx context.Context) error {
	if f.err == nil && f.slow {
		<-ctx.Done()
		return &problem.Problem{Op: "flush volume", Kind: problem.Timeout, Err: errors.New("b did not reach 1/7")}
	}
	return f.err
}
func (f fake) History(context.Context) (control.History, error) {
	return control.History{Silent: []control.Silent{{Node: "c"}}}, f.err
}
func (f fake) Fitness() control.Fitness {
	return control.Fitness{Node: f.status.Node, Eligible: f.err == nil, Score: 990, Penalty: 10, Why: "of a test"}
}
func (f fake) Change(_ context.Context, c control.Change) (control.Changed, error) {
	return control.Changed{Generation: 7, Removed: []cluster.NodeID{c.Revoke}}, f.err
}
func (fake) Configuration() control.Configuration {
	return control.Configuration{Generation: 7, Config: "cluster: homelab\n"}
}
func (f fake) Divergent() ([]control.Divergent, error) {
	return []control.Divergent{{Path: "a\nb"}}, f.err
}

func (f fake) Hold(_ context.Context, on bool) (control.Ordered, error) {
	return control.Ordered{On: on, Nodes: []cluster.NodeID{"a"}}, f.err
}
func (f fake) Maintenance(_ context.Context, on, force bool) (control.Ordered, error) {
	return control.Ordered{On: on && force}, f.err
}

// serve runs the API on a state directory of the test's own and returns its client.
func serve(t *testing.T, state string, f fake) *control.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, control.Socket(state), f, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	c := control.Dial(state)
	for end := time.Now().Add(5 * time.Second); ; {
		if _, err := c.Status(ctx); err == nil {
			return c
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func example() control.Status {
	return control.Status{
		AsOf: time.Unix(1, 0).UTC(), Cluster: "homelab", Node: "a", Term: 7, Master: "a", Verdict: control.OK, Reasons: []string{},
		Nodes:     []control.Node{{Name: "a", State: "alive", Role: "master", Eligible: control.Yes, InSync: control.NotKnown, Links: []control.Link{{Name: "lan", Up: control.No}}}},
		VIPs:      []control.VIP{{Address: "10.77.0.200/24", Holder: "a"}},
		Volumes:   []control.Volume{{Name: "home", Standbys: []control.Standby{{Node: "b", State: "unknown", LagMS: -1, Pending: 3}}}},
		Services:  []control.Service{{Name: "dns", State: "healthy", Required: true}},
		Failovers: control.Failovers{ByCause: map[string]int64{"silence": 1}},
		Beat:      control.Beat{Refused: []string{}},
	}
}

func TestStatusSurvivesTheWayAndFitsTheSchema(t *testing.T) {
	c := serve(t, t.TempDir(), fake{status: example()})
	got, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(example())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	for _, word := range []string{`"in_sync":"unknown"`, `"eligible":true`, `"up":false`, `"lag_ms":"unknown"`, `"pending":3`} {
		if !strings.Contains(string(b), word) {
			t.Errorf("no %s in %s", word, b)
		}
	}
	resolved := schema(t)
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if err := resolved.Validate(v); err != nil {
		t.Error(err)
	}
	v.(map[string]any)["added_later"] = 1
	if err := resolved.Validate(v); err != nil {
		t.Errorf("a later field: %v", err)
	}
	v.(map[string]any)["verdict"] = "fine"
	if resolved.Validate(v) == nil {
		t.Error("an unknown verdict fits the schema")
	}
}

// A barrier that lasts longer than its caller waits ends with the agent's reason, not with the caller's.
func TestALateBarrierSaysWhatItWaitedFor(t *testing.T) {
	c := serve(t, t.TempDir(), fake{slow: true})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := c.Sync(ctx)
	if problem.KindOf(err) != problem.Timeout || !strings.Contains(fmt.Sprint(err), "b did not reach 1/7") {
		t.Errorf("got %v", err)
	}
}

// An agent that is there and does not answer is told from one that is not there, and waited for only so long.
func TestAFrozenAgentIsGivenUp(t *testing.T) {
	state := t.TempDir()
	l, err := net.Listen("unix", control.Socket(state)) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = control.Dial(state).Status(t.Context())
	if problem.KindOf(err) != problem.Timeout || !strings.Contains(problem.HintOf(err), "log") {
		t.Errorf("got %v, hint %q", err, problem.HintOf(err))
	}
}

func schema(t *testing.T) *jsonschema.Resolved {
	t.Helper()
	b, err := control.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPublishedSchemaIsTheTypes(t *testing.T) {
	const file = "../../docs/status.schema.json"
	want, err := control.Schema()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE_SCHEMA") != "" {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(have, want) {
		t.Errorf("%s differs from the types (%v); make schema", file, err)
	}
}

func TestErrorsKeepKindAndHint(t *testing.T) {
	cause := &problem.Problem{Op: "switch to", Kind: problem.Unavailable, Subject: "b", Err: errors.New("no in-sync standby"), Hint: "wait"}
	c := serve(t, t.TempDir(), fake{status: example(), err: cause})
	_, err := c.Switch(t.Context(), "b")
	if problem.KindOf(err) != problem.Unavailable || problem.HintOf(err) != "wait" || err.Error() != cause.Error() {
		t.Errorf("%v (%v, %q)", err, problem.KindOf(err), problem.HintOf(err))
	}
}

func TestStateDirectoryLongerThanASocketPath(t *testing.T) {
	state := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := serve(t, state, fake{status: example()}).Divergent(t.Context())
	if err != nil || len(list) != 1 || list[0].Path != "a\nb" {
		t.Errorf("%v, %v", list, err)
	}
	info, err := os.Stat(control.Socket(state))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
}

func TestNoAgentIsSaid(t *testing.T) {
	_, err := control.Dial(t.TempDir()).Status(t.Context())
	if problem.KindOf(err) != problem.NotFound || problem.HintOf(err) == "" {
		t.Errorf("%v (%v)", err, problem.KindOf(err))
	}
}

// Who gives an order is what the kernel says of the other end, not what it says of itself.
func TestCaller(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	f := fake{caller: make(chan string, 1)}
	if _, err := serve(t, t.TempDir(), f).Switch(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got := <-f.caller; got != me.Username && !strings.HasSuffix(got, " as "+me.Username) {
		t.Errorf("ordered by %q, not %q", got, me.Username)
	}
	if got := control.Caller(t.Context()); got != "" {
		t.Errorf("nobody ordered it, and it is %q", got)
	}
}

// Of what is asked only orders say that somebody uses the node.
func TestOrdersAreTold(t *testing.T) {
	f := fake{ordered: make(chan string, 8)}
	c := serve(t, t.TempDir(), f)
	ctx := t.Context()
	_, _ = c.Status(ctx)
	_, _ = c.History(ctx)
	_, _ = c.Maintenance(ctx, true, false)
	_, _ = c.Hold(ctx, true)
	_, _ = c.Sync(ctx)
	close(f.ordered)
	var got []string
	for what := range f.ordered {
		got = append(got, what)
	}
	if strings.Join(got, ", ") != "maintenance, hold, sync" {
		t.Errorf("%q", got)
	}
}
