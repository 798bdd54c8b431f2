package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"revolve/internal/control"
)

// A real Prometheus scrapes two nodes: every query of the dashboard has an answer there, and every rule is evaluated.
func TestPrometheusScrapes(t *testing.T) {
	program := tool(t, "prometheus")
	changes := uint64(0)
	a := httptest.NewServer(Handler(func() control.Status {
		s := sample()
		changes++
		s.Volumes[0].Position.Seq += changes
		return s
	}))
	defer a.Close()
	b := httptest.NewServer(Handler(func() control.Status { s := sample(); s.Node = "b"; return s }))
	defer b.Close()
	p := startPrometheus(t, program, a.Listener.Addr().String(), b.Listener.Addr().String())
	queries := dashboardQueries(t)
	if len(queries) < 25 {
		t.Fatalf("the dashboard has %d queries", len(queries))
	}
	for _, q := range queries {
		p.answered(t, q)
	}
	p.rulesAreWell(t)
}

// errQuery is an answer of Prometheus that says that the query is wrong.
var errQuery = errors.New("prometheus refuses the query")

// prometheus is a running one.
type prometheus struct {
	address string
	log     *strings.Builder
}

func startPrometheus(t *testing.T, program string, targets ...string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs(filepath.Join("..", "..", "examples", "prometheus", "revolve.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: [ %q ]\nscrape_configs:\n  - job_name: homelab\n    static_configs: [ { targets: [ %q, %q ] } ]\n", rules, targets[0], targets[1])
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{address: l.Addr().String(), log: &strings.Builder{}}
	l.Close()
	cmd := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("log of prometheus:\n%s", p.log)
		}
	})
	return p
}

// get asks Prometheus' API and fills data.
func (p *prometheus) get(path string, data any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%w: %s", errQuery, answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

// answered waits until a query has a result.
func (p *prometheus) answered(t *testing.T, query string) {
	t.Helper()
	var err error
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(100 * time.Millisecond) {
		var data struct{ Result []json.RawMessage }
		if err = p.get("/api/v1/query?query="+url.QueryEscape(query), &data); err == nil && len(data.Result) > 0 {
			return
		}
		if errors.Is(err, errQuery) {
			break // a query that is wrong stays wrong
		}
	}
	t.Errorf("no answer to %s: %v", query, err)
}

// rulesAreWell waits until every rule was evaluated, and finds no error.
func (p *prometheus) rulesAreWell(t *testing.T) {
	t.Helper()
	type rule struct{ Name, Health, LastError string }
	var last []rule
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(100 * time.Millisecond) {
		var data struct{ Groups []struct{ Rules []rule } }
		if err := p.get("/api/v1/rules", &data); err != nil {
			t.Fatal(err)
		}
		last = nil
		n := 0
		for _, g := range data.Groups {
			n += len(g.Rules)
			for _, r := range g.Rules {
				if r.Health != "ok" {
					last = append(last, r)
				}
			}
		}
		if n > 20 && len(last) == 0 {
			return
		}
	}
	t.Errorf("these rules are not well: %+v", last)
}

// dashboardQueries are all queries of the Grafana dashboard, with its variables filled in.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "examples", "grafana", "revolve.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$job", "homelab", "$__rate_interval", "1m")
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			q := fill.Replace(target.Expr)
			if regexp.MustCompile(`\$`).MatchString(q) {
				t.Errorf("%s: %s has a variable that nobody fills", p.Title, q)
			}
			queries = append(queries, q)
		}
	}
	return queries
}
