package deliver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"revolve/internal/alarm"
	"revolve/internal/config"
	"revolve/internal/problem"
)

// secretWord stands in every secret of these tests; it may be nowhere else.
const secretWord = "s3cr3t"

// place is somewhere that alarms go to: it keeps what came.
type place struct {
	*httptest.Server
	mu     sync.Mutex
	got    []seen
	answer func(n int, r seen, w http.ResponseWriter)
}

type seen struct {
	method, path, query, body string
	header                    http.Header
}

func newPlace(t *testing.T, answer func(n int, r seen, w http.ResponseWriter)) *place {
	t.Helper()
	p := &place{answer: answer}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s := seen{r.Method, r.URL.Path, r.URL.RawQuery, string(body), r.Header}
		p.mu.Lock()
		p.got = append(p.got, s)
		n := len(p.got)
		p.mu.Unlock()
		if p.answer != nil {
			p.answer(n, s, w)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *place) last(t *testing.T) seen {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.got) == 0 {
		t.Fatal("nothing came")
	}
	return p.got[len(p.got)-1]
}

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// long is a group with so many alarms that no place takes it whole, and with text that wants to be more than text.
func long(state string) alarm.Message {
	g := alarm.Group{ID: "1-a", Began: time.Unix(1000, 0)}
	for i := range 32 {
		g.Entries = append(g.Entries, alarm.Entry{Alarm: alarm.Alarm{Kind: alarm.VolumeBroken, Subject: fmt.Sprint(i), Severity: alarm.Critical, Text: "@everyone *bold* <script> \u00fc " + strings.Repeat("x", 300)}, Began: g.Began})
	}
	if state == alarm.Resolved {
		g.Resolved = g.Began.Add(time.Hour)
	}
	return g.Message("homelab", "a", time.Unix(2000, 0))
}

func channel(a config.Alarm) *Channel { a.Name = a.Kind; return newChannel(a) }

// Discord: the limit holds whatever there is to say, nobody is called, the answer names the message, and the end changes it in place.
func TestDiscord(t *testing.T) {
	p := newPlace(t, func(n int, r seen, w http.ResponseWriter) {
		if r.method == http.MethodPost {
			fmt.Fprint(w, `{"id":"1234"}`)
		}
	})
	c := channel(config.Alarm{Kind: config.AlarmDiscord, URLFile: write(t, p.URL+"/api/webhooks/1/"+secretWord+"?thread_id=9\n", 0o600)})
	id, err := c.Deliver(t.Context(), long(alarm.Firing), "")
	if err != nil || id != "1234" {
		t.Fatalf("%q %v", id, err)
	}
	r := p.last(t)
	var sent struct {
		Content  string
		Mentions struct{ Parse []string } `json:"allowed_mentions"`
	}
	if err := json.Unmarshal([]byte(r.body), &sent); err != nil {
		t.Fatal(err)
	}
	if r.method != http.MethodPost || r.query != "thread_id=9&wait=true" || length(sent.Content) > discordMost || length(sent.Content) < 1000 || sent.Mentions.Parse == nil || len(sent.Mentions.Parse) > 0 {
		t.Errorf("%s %s %s: %d characters", r.method, r.path, r.query, length(sent.Content))
	}
	if strings.Contains(sent.Content, "@everyone") || strings.Contains(sent.Content, "*bold*") && !strings.Contains(sent.Content, `\*bold\*`) || !strings.Contains(sent.Content, "more lines: revolve alarm list") {
		t.Errorf("got %s", sent.Content)
	}
	if id, err = c.Deliver(t.Context(), long(alarm.Resolved), id); err != nil || id != "1234" {
		t.Fatalf("%q %v", id, err)
	}
	if r := p.last(t); r.method != http.MethodPatch || !strings.HasSuffix(r.path, secretWord+"/messages/1234") {
		t.Errorf("its end: %s %s", r.method, r.path)
	}
	p.answer = func(n int, r seen, w http.ResponseWriter) {
		if r.method == http.MethodPatch {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, `{"id":"5678"}`)
	}
	if id, err = c.Deliver(t.Context(), long(alarm.Resolved), id); err != nil || id != "5678" {
		t.Errorf("the message was deleted there: %q %v", id, err)
	}
}

// A place that wants to be left alone says for how long, in its body or its header; an absurd time is bounded.
func TestWait(t *testing.T) {
	for _, c := range []struct {
		header, body string
		want         time.Duration
	}{{"", `{"retry_after": 2.5, "global": false}`, 2500 * time.Millisecond}, {"7", "", 7 * time.Second}, {"999999999", "", maxWait}, {"-1", `{"retry_after": -1}`, 30 * time.Second}, {"0", "", time.Second}} {
		p := newPlace(t, func(n int, r seen, w http.ResponseWriter) {
			w.Header().Set("Retry-After", c.header)
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, c.body)
		})
		_, err := channel(config.Alarm{Kind: config.AlarmDiscord, URLFile: write(t, p.URL, 0o600)}).Deliver(t.Context(), long(alarm.Firing), "")
		var wait *Wait
		if !errors.As(err, &wait) || wait.For != c.want {
			t.Errorf("%q %q: %v", c.header, c.body, err)
		}
	}
}

// ntfy: title, priority and tag go by severity and state, and a long text is cut where a character ends.
func TestNtfy(t *testing.T) {
	p := newPlace(t, nil)
	c := channel(config.Alarm{Kind: config.AlarmNtfy, URL: p.URL + "/topic", TokenFile: write(t, "tk_"+secretWord, 0o400)})
	if _, err := c.Deliver(t.Context(), long(alarm.Firing), ""); err != nil {
		t.Fatal(err)
	}
	r := p.last(t)
	if r.header.Get("Priority") != "5" || r.header.Get("Tags") != "rotating_light" || len(r.body) > ntfyMost || r.header.Get("Authorization") != "Bearer tk_"+secretWord || strings.ContainsAny(r.header.Get("Title"), "\u00fc\r\n") {
		t.Errorf("%v, %d bytes", r.header, len(r.body))
	}
	if _, err := c.Deliver(t.Context(), long(alarm.Resolved), ""); err != nil || p.last(t).header.Get("Priority") != "3" {
		t.Errorf("its end: %v %v", err, p.last(t).header)
	}
}

// A webhook gets the message as JSON, with every alarm of it.
func TestWebhook(t *testing.T) {
	p := newPlace(t, nil)
	if _, err := channel(config.Alarm{Kind: config.AlarmWebhook, URL: p.URL}).Deliver(t.Context(), long(alarm.Firing), ""); err != nil {
		t.Fatal(err)
	}
	var m alarm.Message
	if err := json.Unmarshal([]byte(p.last(t).body), &m); err != nil || m.State != alarm.Firing || len(m.Alarms) != 32 || m.Cluster != "homelab" {
		t.Errorf("%v %+v", err, m)
	}
}

// The two dialects of a dead-man's switch.
func TestHeartbeats(t *testing.T) {
	p := newPlace(t, func(n int, r seen, w http.ResponseWriter) { fmt.Fprint(w, `{"ok":true}`) })
	hc := channel(config.Alarm{Kind: config.AlarmHeartbeat, Dialect: config.DialectHealthchecks, URL: p.URL + "/uuid"})
	kuma := channel(config.Alarm{Kind: config.AlarmHeartbeat, Dialect: config.DialectKuma, URL: p.URL + "/api/push/token?status=up&msg=OK&ping="})
	for _, c := range []struct {
		to    *Channel
		well  bool
		path  string
		query string
		body  string
	}{{hc, true, "/uuid", "", "all is well"}, {hc, false, "/uuid/fail", "", "all is well"}, {kuma, true, "/api/push/token", "msg=all+is+well&ping=&status=up", ""}, {kuma, false, "/api/push/token", "msg=all+is+well&ping=&status=down", ""}} {
		if err := c.to.Beat(t.Context(), c.well, "all is well"); err != nil {
			t.Fatal(err)
		}
		if r := p.last(t); r.path != c.path || r.query != c.query || r.body != c.body {
			t.Errorf("got %s ? %s: %s", r.path, r.query, r.body)
		}
	}
	p.answer = func(n int, r seen, w http.ResponseWriter) {
		fmt.Fprint(w, `{"ok":false,"msg":"Monitor not found or not active."}`)
	}
	if err := kuma.Beat(t.Context(), true, ""); err == nil {
		t.Error("it did not accept the heartbeat, and nobody notices")
	}
}

// What an answer says of the message is told from what it says of the place.
func TestRefusedForGood(t *testing.T) {
	for status, forGood := range map[int]bool{400: true, 413: true, 422: true, 401: false, 403: false, 404: false, 408: false, 429: false, 500: false, 503: false} {
		p := newPlace(t, func(n int, r seen, w http.ResponseWriter) { w.WriteHeader(status) })
		for _, kind := range []string{config.AlarmDiscord, config.AlarmWebhook, config.AlarmNtfy} {
			_, err := channel(config.Alarm{Kind: kind, URL: p.URL}).Deliver(t.Context(), long(alarm.Firing), "")
			var refused *Refused
			if err == nil || errors.As(err, &refused) != forGood || problem.HintOf(err) == "" {
				t.Errorf("%s, status %d: %v", kind, status, err)
			}
		}
	}
}

// A secret is never in an error, whatever goes wrong with the place, and is not carried to another one.
func TestSecretsStay(t *testing.T) {
	elsewhere := newPlace(t, nil)
	refusing := newPlace(t, func(n int, r seen, w http.ResponseWriter) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, r.path)
	})
	redirecting := newPlace(t, func(n int, r seen, w http.ResponseWriter) {
		w.Header().Set("Location", elsewhere.URL+r.path)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, url := range map[string]string{"refused": refusing.URL + "/" + secretWord, "redirected": redirecting.URL + "/" + secretWord, "gone": gone.URL + "/" + secretWord,
		"no host": "https:///" + secretWord, "no scheme": "ftp://x/" + secretWord, "no URL": "https://x/%zz" + secretWord, "no name": "https://nowhere.invalid/" + secretWord} {
		for _, kind := range []string{config.AlarmDiscord, config.AlarmWebhook, config.AlarmNtfy, config.AlarmAlertmanager} {
			_, err := channel(config.Alarm{Kind: kind, URLFile: write(t, url, 0o600)}).Deliver(t.Context(), long(alarm.Firing), "")
			if err == nil || strings.Contains(fmt.Sprintf("%v %+v %s", err, err, problem.HintOf(err)), secretWord) {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
	if len(elsewhere.got) > 0 {
		t.Error("a redirect was followed with the secret")
	}
}
