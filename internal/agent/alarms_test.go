package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"revolve/internal/alarm"
	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
)

// hook is a place that alarms go to: it keeps the titles of what it took.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	titles []string
	refuse string // in a message: it is refused for good
}

func newHook(t *testing.T) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var m alarm.Message
		if err != nil || json.Unmarshal(body, &m) != nil {
			t.Errorf("%v %s", err, body)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.refuse != "" && strings.Contains(string(body), h.refuse) {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		h.titles = append(h.titles, m.State+": "+m.Title)
	}))
	t.Cleanup(h.Close)
	return h
}

// took is what came, since it was asked last.
func (h *hook) took() (titles []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	titles, h.titles = h.titles, nil
	return titles
}

// watchman is an agent that looks for alarms and tells one place.
func watchman(t *testing.T, more string, state string, h *hook) *Agent {
	t.Helper()
	a := &Agent{o: Options{Node: "a", State: state, Log: slog.New(slog.DiscardHandler), Config: parse(t, before+fmt.Sprintf("alarms:\n  - { webhook: { url: %q } }\n%s", h.URL, more))}}
	a.openAlarms()
	return a
}

// standingWith is a cluster whose master a is, and in which these nodes are dead.
func standingWith(now time.Time, dead ...cluster.NodeID) control.Status {
	s := control.Status{AsOf: now, Looked: now, Cluster: "homelab", Node: "a", Master: "a", Verdict: control.OK, Isolation: control.Isolation{Isolated: control.No, Patience: 1}}
	for _, n := range []cluster.NodeID{"a", "b", "c", "d"} {
		x := control.Node{Name: n, State: "alive", Role: "standby", Eligible: control.Yes}
		if n == "a" {
			x.Role = "master"
		}
		for _, d := range dead {
			if d == n {
				x.State, x.Role = "dead", "unknown"
			}
		}
		s.Nodes = append(s.Nodes, x)
	}
	return s
}

// passes lets the agent look for so long, every second, from now on.
func passes(a *Agent, now *time.Time, d time.Duration, dead ...cluster.NodeID) {
	for end := now.Add(d); now.Before(end); {
		*now = now.Add(alarmsEvery)
		a.lookForAlarms(standingWith(*now, dead...), *now)
	}
}

// A message that a place refuses for good does not keep the next ones from it; it is counted, and people can read why.
func TestARefusedMessageBlocksNoOther(t *testing.T) {
	h := newHook(t)
	h.refuse = "node b"
	a := watchman(t, "", t.TempDir(), h)
	now := time.Now().Add(-time.Hour)
	passes(a, &now, 10*time.Minute, "b")
	passes(a, &now, 30*time.Second, "b", "c")
	if n := len(a.alarms.st.Book.Groups); n != 2 {
		t.Fatalf("%d groups", n)
	}
	for range 4 { // as often as its feeder would
		if err := a.bring(t.Context(), a.alarms.channels[0]); err == nil {
			break
		}
	}
	if got := h.took(); len(got) != 1 || !strings.Contains(got[0], "node c") {
		t.Errorf("it was told %v", got)
	}
	if err := a.bring(t.Context(), a.alarms.channels[0]); err != nil || len(h.took()) > 0 {
		t.Errorf("it is told again: %v", err)
	}
	c := a.alarmStatus(now).Channels[0]
	if c.Dropped != 1 || c.DroppedAt.IsZero() || !strings.Contains(c.DroppedWhy, "422") || c.Error != "" {
		t.Errorf("nobody can read of it: %+v", c)
	}
}

// A place that is not there is no refusal: the message waits for it.
func TestAPlaceThatIsAwayLosesNothing(t *testing.T) {
	h := newHook(t)
	a := watchman(t, "", t.TempDir(), h)
	h.Close()
	now := time.Now().Add(-time.Hour)
	passes(a, &now, time.Minute, "b")
	if err := a.bring(t.Context(), a.alarms.channels[0]); err == nil {
		t.Fatal("it was accepted nowhere")
	}
	if g := a.alarms.st.Book.Groups[0]; g.Due("webhook", false) != alarm.Post || a.alarmStatus(now).Channels[0].Dropped > 0 {
		t.Errorf("it is lost: %+v", g)
	}
}

// What a dead-man's switch hears: well, unless something critical stands or nobody has looked for a while.
func TestTheHeartbeatSaysThatNobodyLooks(t *testing.T) {
	a := watchman(t, "", t.TempDir(), newHook(t))
	now := time.Now()
	passes(a, &now, time.Minute)
	if speaks, well, text := a.alarms.pulse(now.Add(lookLate), "homelab", "a"); !speaks || !well || !strings.Contains(text, "ok, says a") {
		t.Errorf("%v %v %s", speaks, well, text)
	}
	if speaks, well, text := a.alarms.pulse(now.Add(lookLate+time.Second), "homelab", "a"); !speaks || well || !strings.Contains(text, "16s ago") {
		t.Errorf("%v %v %s", speaks, well, text)
	}
}

// A first look that hangs is an alarm, too, and nobody is told that all is well.
func TestVolumesThatWereNeverSeenAreAnAlarm(t *testing.T) {
	a := watchman(t, "", t.TempDir(), newHook(t))
	now := time.Now()
	started := now
	for range 30 {
		now = now.Add(alarmsEvery)
		s := standingWith(now)
		s.Looked, s.Started = time.Time{}, started
		a.lookForAlarms(s, now)
	}
	if _, well, _ := a.alarms.pulse(now, "homelab", "a"); well || len(a.alarmStatus(now).Open) != 1 {
		t.Errorf("well %v, alarms %+v", well, a.alarmStatus(now).Open)
	}
}

// The scheduled test goes out once in every opening of its window, by the node that tells, and not outside of it; a restart forgets nothing of that.
func TestTheScheduledTestAlarm(t *testing.T) {
	const window = "alarm_test: { window: \"Mon 09:00-10:00\" }\n"
	h, state := newHook(t), t.TempDir()
	a := watchman(t, window, state, h)
	bring := func() []string {
		t.Helper()
		if err := a.bring(t.Context(), a.alarms.channels[0]); err != nil {
			t.Fatal(err)
		}
		return h.took()
	}
	now := time.Date(2026, 11, 30, 8, 59, 0, 0, time.Local) // a Monday
	passes(a, &now, 59*time.Second)
	if got := bring(); len(got) > 0 {
		t.Fatalf("before the window: %v", got)
	}
	passes(a, &now, 2*time.Second)
	if got := bring(); len(got) != 1 || !strings.HasPrefix(got[0], alarm.Tested+": ") {
		t.Fatalf("at its opening: %v", got)
	}
	passes(a, &now, time.Minute)
	if got := bring(); len(got) > 0 {
		t.Errorf("twice in one window: %v", got)
	}
	if err := writeDurably(a.bookPath(), a.alarms.packed()); err != nil {
		t.Fatal(err)
	}
	a.openAlarms() // the agent was restarted
	a.alarms.st.Book.Tested = now.Add(-time.Minute)
	passes(a, &now, 30*time.Minute)
	if got := bring(); len(got) > 0 {
		t.Errorf("again after a restart: %v", got)
	}
	now = time.Date(2026, 12, 7, 9, 30, 0, 0, time.Local)
	s := standingWith(now)
	s.Master = "b" // this node is a standby now: another one tells
	s.Nodes[0].Role, s.Nodes[1].Role = "standby", "master"
	a.lookForAlarms(s, now)
	if got := bring(); len(got) > 0 {
		t.Errorf("a standby sends it: %v", got)
	}
	passes(a, &now, time.Second)
	if got := bring(); len(got) != 1 || !a.alarmStatus(now).Tested.Equal(now) {
		t.Errorf("a week later: %v, %v", got, a.alarmStatus(now).Tested)
	}
	if w := (config.Window{}); w.Open(now) {
		t.Error("without a window there is always one")
	}
}
