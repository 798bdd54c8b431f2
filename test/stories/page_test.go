package stories

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// get asks the status page at an address, from the node, as a browser would.
func (n *node) get(address, path string) (status int, body string, err error) {
	r, body, err := n.ask(address, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, address))
	if err != nil {
		return 0, "", err
	}
	return r.StatusCode, body, nil
}

// post sends a form to the page.
func (n *node) post(address, path, cookie string, form url.Values) (r *http.Response, body string, err error) {
	text := form.Encode()
	return n.ask(address, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nCookie: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", path, address, cookie, len(text), text))
}

func (n *node) ask(address, request string) (r *http.Response, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	host, port, _ := strings.Cut(address, ":")
	out, err := n.Run(ctx, "bash", "-c", `exec 3<>"/dev/tcp/$1/$2" && printf %s "$3" >&3 && cat <&3`, "bash", host, port, request)
	if err != nil {
		return nil, "", err
	}
	if r, err = http.ReadResponse(bufio.NewReader(strings.NewReader(string(out))), nil); err != nil {
		return nil, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r, string(b), err
}

// ordersOnThePage: who has the token of a standby orders a switch to it, hold and a silence there; who comes over the network does not.
func ordersOnThePage(t *testing.T, l *lab, m, other *node) {
	token := url.Values{"token": {strings.TrimSpace(l.mustRevolve("page", "token", "--state", m.state()))}}
	const home = "127.0.0.1:8480"
	abroad := fmt.Sprintf("10.77.0.%d:8480", 11+slices.Index(l.names, m.name))
	if r, body, err := other.post(abroad, "/orders/in", "", token); err != nil || r.StatusCode != http.StatusForbidden || len(r.Cookies()) > 0 || !strings.Contains(body, "ssh -L") {
		t.Errorf("over the network: %v %v %s", r, err, body)
	}
	r, body, err := m.post(home, "/orders/in", "", token)
	must(t, err)
	if r.StatusCode != http.StatusSeeOther || len(r.Cookies()) != 1 {
		t.Fatalf("signing in: %v %s", r, body)
	}
	cookie := r.Cookies()[0].Name + "=" + r.Cookies()[0].Value
	_, body, err = m.ask(home, fmt.Sprintf("GET /orders HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nCookie: %s\r\n\r\n", home, cookie))
	must(t, err)
	secret := regexp.MustCompile(`name="form" value="([^"]+)"`).FindStringSubmatch(body)
	if secret == nil {
		t.Fatalf("signed in: %s", body)
	}
	for _, order := range []struct {
		path string
		form url.Values
	}{
		{"switch", url.Values{"from": {other.name}, "to": {m.name}, "sure": {"yes"}}},
		{"hold", url.Values{"on": {"yes"}}},
		{"silence", url.Values{"kind": {"all"}, "for": {"1h"}}},
	} {
		order.form.Set("form", secret[1])
		if r, body, err := m.post(home, "/orders/"+order.path, cookie, order.form); err != nil || r.StatusCode != http.StatusSeeOther {
			t.Errorf("%s: %v %v %s", order.path, r, err, body)
		}
	}
	l.eventually("what was ordered on the page is so", askEvery, func() error {
		s, err := m.status()
		if err == nil && (s.Master != m.name || !slices.ContainsFunc(s.Nodes, func(n control.Node) bool { return string(n.Name) == other.name && n.Hold == control.Yes }) ||
			!slices.ContainsFunc(s.Alarms.Silences, func(x control.AlarmSilence) bool { return x.By == "signed in to the page on "+m.name })) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
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

		// The master's volumes know that it is in-sync some heartbeats before it says so itself.
		l.eventually(other.name+" eligible", askEvery, func() error { return l.eligible(m, other, control.Yes) })
		l.mustRevolve("switch", other.name, "--state", m.state())
		page(m, "10.77.0.200:8480", "as "+other.name+" sees it")
		page(m, "10.77.0.200:8481", other.name+" is master")
		page(m, "10.77.0.200:8481", m.name+" handed over, as ordered")
		ordersOnThePage(t, l, m, other)
		page(other, "10.77.0.200:8480", "as "+m.name+" sees it")

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
