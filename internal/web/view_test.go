package web

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
)

// What this version does not know, and what nobody knows, never looks well.
func TestUnknownIsNeverOk(t *testing.T) {
	for _, word := range []string{"", "unknown", "splendid", "ok", "OK"} {
		for name, mark := range map[string]func(string) string{"node": nodeMark, "standby": standbyMark, "volume": volumeMark, "service": serviceMark} {
			if got := mark(word); got != unclear {
				t.Errorf("%s %q looks %s", name, word, got)
			}
		}
		if got := verdictMark(word); (got == good) != (word == control.OK) {
			t.Errorf("verdict %q looks %s", word, got)
		}
	}
	nothing := Snapshot{Status: control.Status{AsOf: time.Now(), Node: "a", Nodes: []control.Node{{Name: "a"}, {Name: "b"}}, VIPs: []control.VIP{{Address: "10.0.0.1/24"}},
		Volumes:  []control.Volume{{Name: "home", Standbys: []control.Standby{{Node: "b", LagMS: -1, Pending: -1, Owed: -1}}}},
		Services: []control.Service{{Name: "dns"}}, Pairs: []control.Pair{{A: "a", B: "b", Links: []control.PairLink{{Name: "lan"}}}}},
		Records: []history.Record{{Term: 2, Master: "a", From: "b", Cause: history.CauseSilence, Volumes: []history.Volume{{Name: "home"}}}}}
	r, err := newRenderer()
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.render(nothing)
	if err != nil {
		t.Fatal(err)
	}
	page := string(f.page)
	if i := strings.Index(page, "<main"); strings.Contains(page[i:], "#m-ok") || !strings.Contains(page[i:], "#m-unknown") || strings.Count(page, "icon-unknown") != 2 {
		t.Errorf("of a cluster of which nothing is known something looks well:\n%s", page[i:])
	}
	if strings.Contains(page, `class="flow live"`) || strings.Contains(page, "0 ms behind") {
		t.Error("an arrow says that data flows")
	}
	if n := strings.Count(page, "unknown"); n < 15 {
		t.Errorf("unknown is said %d times", n)
	}
}

// Every state is told by a word beside its shape and colour.
func TestStatesHaveWords(t *testing.T) {
	s := three()
	s.Status.Verdict, s.Status.Reasons = control.Critical, []string{"look at `revolve status`"}
	s.Status.Nodes[1].State = "dead"
	s.Status.Volumes[0].Standbys[1].State = "lagging"
	r, err := newRenderer()
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.render(s)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`<[^>]*>`).ReplaceAllString(string(f.page), " ")
	for _, word := range []string{"It needs you now", "dead", "lagging", "in-sync", "alive", "master", "1 of 1 up", "revolve status"} {
		if !strings.Contains(text, word) {
			t.Errorf("the text does not say %q", word)
		}
	}
	if !strings.Contains(string(f.page), "<code>revolve status</code>") {
		t.Error("a command is not set as one")
	}
}

func TestVerdicts(t *testing.T) {
	for verdict, want := range map[string]string{control.OK: "All is well", control.Warning: "2 warnings", control.Critical: "It needs you now", control.Unknown: "How it is, is unknown", "": "How it is, is unknown"} {
		if got := verdictOf(&control.Status{Verdict: verdict, Reasons: []string{"a", "b"}}).Says; got != want {
			t.Errorf("%q: %q", verdict, got)
		}
	}
	for master, want := range map[string]string{"none": "No node is master: nobody answers at the addresses.", "unknown": "Who is master is unknown.", "": "Who is master is unknown.", "b": "b is master."} {
		if got := headline(&control.Status{Master: master}); got != want {
			t.Errorf("%q: %q", master, got)
		}
	}
}

// The master is on top, whoever it is; an arc leads to every standby that is heard, and none passes through a disc between.
func TestRing(t *testing.T) {
	for n := 1; n <= 16; n++ {
		st := &control.Status{Node: "n0", Master: "n1", Term: 3}
		v := control.Volume{Name: "home"}
		for i := range n {
			id := cluster.NodeID("n" + string(rune('0'+i%10)) + strings.Repeat("x", i/10))
			st.Nodes = append(st.Nodes, control.Node{Name: id, State: "alive"})
			v.Standbys = append(v.Standbys, control.Standby{Node: id, State: "in-sync", LagMS: 1})
		}
		st.Volumes = []control.Volume{v}
		if n == 1 {
			st.Master = "n0"
		}
		r := ringOf(st)
		if len(r.Seats) != n || len(r.Flows) != n-1 {
			t.Fatalf("%d nodes: %d seats, %d arcs", n, len(r.Seats), len(r.Flows))
		}
		for _, s := range r.Seats {
			if s.Master != (s.ID == st.Master) || s.Master != (s.Angle == 0) {
				t.Errorf("%d nodes: %+v", n, s)
			}
		}
		for k, f := range r.Flows {
			if f.Kind != "live" || f.Head == "" {
				t.Errorf("%d nodes, arc %d: %+v", n, k, f)
			}
			for _, p := range strings.FieldsFunc(f.Path, func(c rune) bool { return c == 'M' || c == 'L' }) {
				at := numbers(t, p)
				for _, s := range r.Seats {
					if d := at.from(seatAt(r, s)); d < r.Disc {
						t.Errorf("%d nodes: arc %d passes %.0f from the middle of %s", n, k+1, d, s.ID)
					}
				}
			}
		}
	}
}

func TestRingWithoutMaster(t *testing.T) {
	for _, master := range []string{"none", control.Unknown, ""} {
		s := three()
		s.Status.Master = master
		if r := ringOf(&s.Status); len(r.Flows) > 0 || r.Seats[0].Master {
			t.Errorf("master %q: %+v", master, r)
		}
	}
}

// Where no volume tells of a node, its role does, and it looks as well as it is.
func TestRingWithoutVolumes(t *testing.T) {
	s := three()
	s.Status.Volumes = nil
	s.Status.Nodes[2].State = "suspect"
	r := ringOf(&s.Status)
	if a, b, c := r.Seats[0], r.Seats[1], r.Seats[2]; a.Below != "master" || b.Below != "standby" || b.Mark != good || c.Mark != warn || len(r.Flows) > 0 {
		t.Errorf("%+v", r)
	}
}

// What may have been lost is said as it is known.
func TestLoss(t *testing.T) {
	n := func(v uint64) *uint64 { return &v }
	k := func(v int) *int { return &v }
	for _, tc := range []struct {
		r    history.Record
		mark string
		want string
	}{
		{history.Record{Master: "a", Cause: history.CauseStart}, good, "nothing to lose"},
		{history.Record{Master: "a", From: "b", Volumes: []history.Volume{{Missing: n(0), KeptAside: k(0)}}}, good, "nothing missing"},
		{history.Record{Master: "a", From: "b", Cause: history.CauseSwitch, Volumes: []history.Volume{{Missing: n(0)}}}, good, "nothing missing"},
		{history.Record{Master: "a", From: "b", Volumes: []history.Volume{{Missing: n(0)}}}, unclear, "certain when b is back"},
		{history.Record{Master: "a", From: "b", Volumes: []history.Volume{{Missing: n(2)}}}, warn, "2 changes missing until b is back"},
		{history.Record{Master: "a", From: "b", Volumes: []history.Volume{{Missing: n(2), KeptAside: k(1)}}}, warn, "1 change, kept aside when b came back"},
		{history.Record{Master: "a", From: "b", Volumes: []history.Volume{{Missing: n(2), KeptAside: k(0)}}}, warn, "2 changes missing then, nothing kept aside"},
		{history.Record{Master: "a", From: "b", Volumes: []history.Volume{{}}}, unclear, "what was missing is unknown"},
	} {
		if text, mark := lostText(tc.r); mark != tc.mark || !strings.Contains(text, tc.want) {
			t.Errorf("got %s %q, want %s %q", mark, text, tc.mark, tc.want)
		}
	}
}

// A record of a node whose clock was set meanwhile does not leave the time line.
func TestTimelineStaysInItsBounds(t *testing.T) {
	base := time.Unix(1_700_000_000, 0)
	at := func(ms int) *time.Time { x := base.Add(time.Duration(ms) * time.Millisecond); return &x }
	for _, r := range []history.Record{
		{Times: history.Times{Heard: at(0), Suspect: at(-500), Announced: at(200)}},
		{Times: history.Times{Heard: at(0), Announced: at(0)}},
		{Times: history.Times{Released: at(0), Announced: at(9), Answer: at(90_000_000)}},
	} {
		steps, away := timeline(r)
		for _, s := range steps {
			if s.X < 0 || s.X > barWidth {
				t.Errorf("step %+v", s)
			}
		}
		if away == nil || away.From < 0 || away.From+away.Width > barWidth {
			t.Errorf("away %+v", away)
		}
	}
	if steps, away := timeline(history.Record{Times: history.Times{Heard: at(0)}}); steps != nil || away != nil {
		t.Error("a line of one point")
	}
}

func TestWords(t *testing.T) {
	for ms, want := range map[control.Count]string{-1: "unknown", 0: "0 ms", 999: "999 ms", 1300: "1.3 s", 184_000: "3 min"} {
		if got := lagText(ms); got != want {
			t.Errorf("%d: %q", ms, got)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1\u2009000", 1234567: "1\u2009234\u2009567", -1000: "-1\u2009000", -100: "-100"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

func numbers(t *testing.T, pair string) (p point) {
	t.Helper()
	if _, err := fmt.Sscanf(pair, "%f %f", &p.x, &p.y); err != nil {
		t.Fatal(err)
	}
	return p
}

func seatAt(r ring, s seat) point {
	a := s.Angle * math.Pi / 180
	return point{r.Radius * math.Sin(a), -r.Radius * math.Cos(a)}
}
