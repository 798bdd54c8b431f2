package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/history"
)

// tool is the path of a program of Debian's package prometheus.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("SKIPPED PART: %s is not there (apt-get install prometheus)", name)
	}
	return path
}

// The real linter finds nothing to say about a full status, nor about an empty one.
func TestPromtoolLint(t *testing.T) {
	promtool := tool(t, "promtool")
	for name, s := range map[string]control.Status{"full": sample(), "empty": {}} {
		cmd := exec.Command(promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(string(Render(s, lookAtProcess())))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// The rules are well formed, and each fires on what it is for: its own unit tests say so.
func TestPromtoolRules(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "revolve.rules.yml"}, {"test", "rules", "revolve.rules.test.yml"}, {"check", "config", "prometheus.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = filepath.Join("..", "..", "examples", "prometheus")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

func lines(s control.Status) []string { return strings.Split(string(Render(s, process{})), "\n") }

// What is not known has no sample: no rule can take it for well, or for ill.
func TestUnknownHasNoSample(t *testing.T) {
	got := lines(sample())
	for _, want := range []string{`revolve_node_eligible{node="b"} 1`, `revolve_link_up{node="b",link="fast"} 0`, `revolve_node_state{node="c",state="off"} 1`, `revolve_node_state{node="c",state="alive"} 0`,
		`revolve_standby_lag_seconds{volume="home",node="b"} 0.004`, `revolve_standby_state{volume="home",node="c",state="unknown"} 1`, `revolve_vip_held{address="10.77.0.200/24",node="a"} 1`,
		`revolve_vip_duplicates{address="10.77.0.200/24"} 1`, `revolve_last_failover_rto_seconds 0.3205`, `revolve_failovers_total{cause="silence"} 1`, `revolve_failovers_total{cause="switch"} 0`, `revolve_alarms_open{alarm="node-dead"} 1`, `revolve_alarms_open{alarm="no-master"} 0`, `revolve_alarm_channel_failing{channel="ntfy"} 1`} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, unknown := range []string{`revolve_node_eligible{node="c"}`, `revolve_node_in_sync{node="c"}`, `revolve_link_up{node="b",link="slow"}`, `revolve_standby_lag_seconds{volume="home",node="c"}`,
		`revolve_standby_pending_changes{volume="home",node="c"}`} {
		for _, line := range got {
			if strings.HasPrefix(line, unknown) {
				t.Errorf("%s is not known", line)
			}
		}
	}
	for _, line := range lines(control.Status{Master: control.Unknown}) {
		if strings.HasPrefix(line, `revolve_verdict{state="ok"} 1`) {
			t.Error("a status that says nothing is shown as ok")
		}
	}
}

// Names cannot end their quotes or their line, and what is no UTF-8 does not spoil the page.
func TestNamesStayInTheirQuotes(t *testing.T) {
	want := `revolve_info{cluster="home\"lab\\\n` + "\uFFFD" + `",node="a",engine="builtin"} 1`
	if got := lines(sample()); !slices.Contains(got, want) {
		t.Errorf("no line %s", want)
	}
}

// No text of another machine is a label, and nothing secret or of a person is on the page.
func TestLabelsAreBounded(t *testing.T) {
	got := string(Render(sample(), process{}))
	for _, foreign := range []string{"<b>new</b>", "02:00:00:00:00:99", "half of it is gone", "it failed", "it is a sample", "<i>b</i>", "it is dead", "status 500"} {
		if strings.Contains(got, foreign) {
			t.Errorf("%q is on the page", foreign)
		}
	}
}

// The largest cluster that a configuration allows has so many series; time, failures and clients add none.
func TestSeriesAreBounded(t *testing.T) {
	s := control.Status{}
	for i := range config.MaxNodes {
		n := control.Node{Name: cluster.NodeID(fmt.Sprint("n", i)), Eligible: control.Yes, InSync: control.Yes, Hold: control.Yes, Maintenance: control.Yes, Since: time.Now()}
		for j := range config.MaxLinks {
			n.Links = append(n.Links, control.Link{Name: cluster.LinkID(fmt.Sprint("l", j)), Up: control.Yes, Quality: &control.Quality{}, Limit: 1})
		}
		s.Nodes = append(s.Nodes, n)
	}
	for i := range config.MaxVolumes {
		v := control.Volume{Name: cluster.VolumeID(fmt.Sprint("v", i)), Proof: &control.ProofStatus{Ended: time.Now()}}
		for j := range config.MaxNodes - 1 {
			v.Standbys = append(v.Standbys, control.Standby{Node: cluster.NodeID(fmt.Sprint("n", j)), Since: time.Now(), Proven: time.Now(), Progress: &control.Progress{}})
		}
		s.Volumes = append(s.Volumes, v)
	}
	for i := range config.MaxVIPs {
		s.VIPs = append(s.VIPs, control.VIP{Address: fmt.Sprint("10.0.0.", i)})
	}
	for i := range config.MaxServices {
		s.Services = append(s.Services, control.Service{Name: fmt.Sprint("s", i), Since: time.Now()})
	}
	s.Failovers = control.Failovers{ByCause: map[string]int64{"made up": 7}, Last: &history.Record{}}
	got := string(Render(s, process{}))
	series := regexp.MustCompile(`(?m)^[a-z]`).FindAllString(got, -1)
	if n := len(series); n > 20000 || n < 15000 || strings.Contains(got, "made up") {
		t.Errorf("%d series", n)
	}
}

// However many ask, a status is taken once in a second, and the answers of a second are counted.
func TestScrapesShareOnePage(t *testing.T) {
	now, taken := time.Unix(1000, 0), 0
	h := newHandler(func() control.Status { taken++; return sample() }, func() time.Time { return now }, lookAtProcess)
	ask := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Code
	}
	refused := 0
	for range 5000 {
		if ask() == http.StatusTooManyRequests {
			refused++
		}
	}
	if taken != 1 || refused != 5000-perFresh {
		t.Errorf("5000 scrapes in one moment: %d statuses, %d refused", taken, refused)
	}
	now = now.Add(freshFor)
	if code := ask(); code != http.StatusOK || taken != 2 {
		t.Errorf("a second later: %d, %d statuses", code, taken)
	}
	now = now.Add(-time.Hour) // a clock that was set back does not keep an old page
	if code := ask(); code != http.StatusOK || taken != 3 {
		t.Errorf("the clock was set back: %d, %d statuses", code, taken)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/metrics", strings.NewReader("x")))
	if w.Code != http.StatusMethodNotAllowed || taken != 3 {
		t.Errorf("POST: %d", w.Code)
	}
}

// What the kernel says of the process is read.
func TestProcessIsSeen(t *testing.T) {
	x := lookAtProcess()
	if x.cpu < 0 || x.memory <= 0 || x.files < 3 || x.goroutines < 1 {
		t.Errorf("got %+v", x)
	}
}
