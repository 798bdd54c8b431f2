package stories

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// get asks the status page at an address, from the node, as a browser would.
func (n *node) get(address, path string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	host, port, _ := strings.Cut(address, ":")
	out, err := n.Run(ctx, "bash", "-c", fmt.Sprintf(`exec 3<>/dev/tcp/%s/%s && printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' >&3 && cat <&3`, host, port, path, address))
	if err != nil {
		return 0, "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(out))), nil)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// TestStatusPage: every node serves the page, and the floating address that of whoever holds it,
// also after it moved.
func TestStatusPage(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{extra: "web: { listen: [ \":8480\", \"10.77.0.200:8481\" ] }\n"})
		m := l.form()
		page := func(from *node, address, says string) {
			t.Helper()
			l.eventually("a page at "+address+" that says "+says, askEvery, func() error {
				status, body, err := from.get(address, "/")
				if err == nil && (status != http.StatusOK || !strings.Contains(body, says)) {
					err = fmt.Errorf("status %d, %.2000s", status, body)
				}
				return err
			})
		}
		for _, n := range l.nodes {
			page(n, "127.0.0.1:8480", m.name+" is master; 2 of 2 standbys in-sync")
			page(n, "127.0.0.1:8480", "as "+n.name+" sees it")
		}
		other := l.others(m)[0]
		page(other, "10.77.0.200:8480", "as "+m.name+" sees it")
		page(other, "10.77.0.200:8481", "as "+m.name+" sees it")
		status, body, err := other.get("10.77.0.200:8480", "/status.json")
		must(t, err)
		var s control.Status
		must(t, json.Unmarshal([]byte(body), &s))
		if status != http.StatusOK || s.Master != m.name || len(s.Pairs) != 3 {
			t.Errorf("status.json: %d, %s", status, body)
		}
		l.eventually("links of every pair that are up", askEvery, func() error {
			s, err := other.status()
			if err != nil {
				return err
			}
			for _, p := range s.Pairs {
				for _, x := range p.Links {
					if x.Up != control.Yes || len(p.Links) != 2 {
						err = errors.Join(err, fmt.Errorf("%s-%s: %+v", p.A, p.B, x))
					}
				}
			}
			return err
		})
		status, body, err = other.get("10.77.0.200:8480", "/metrics")
		must(t, err)
		if status != http.StatusOK || !strings.Contains(body, "revolve_") {
			t.Errorf("metrics: %d, %s", status, body)
		}

		l.mustRevolve("switch", other.name, "--state", m.state())
		page(m, "10.77.0.200:8480", "as "+other.name+" sees it")
		page(m, "10.77.0.200:8481", other.name+" is master")
		page(m, "10.77.0.200:8481", m.name+" handed over, as ordered")

		third := l.others(m)[1]
		must(t, third.Cut(fast))
		l.eventually("the matrix says which link is down, also where it is another's", askEvery, func() error {
			_, body, err := m.get("127.0.0.1:8480", "/")
			if err == nil && !strings.Contains(body, "1 of 2") {
				err = errors.New(body)
			}
			return err
		})
	})
}
