package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf16"

	"revolve/internal/alarm"
	"revolve/internal/config"
)

// discordMost is how long a message may be; one that is longer is refused as a whole
// (Discord's documentation, "Create Message": content, up to 2000 characters).
const discordMost = 2000

// discord posts a message, or changes the one that is there.
func (c *Channel) discord(ctx context.Context, m alarm.Message, edit string) (string, error) {
	u, err := c.address()
	if err != nil {
		return "", err
	}
	// Names of files and machines call nobody: no mention is parsed.
	body, header, err := jsonBody(map[string]any{"content": discordText(m), "allowed_mentions": map[string]any{"parse": []string{}}})
	if err != nil {
		return "", c.failed(err)
	}
	if edit != "" {
		at := *u
		at.Path = strings.TrimRight(u.Path, "/") + "/messages/" + url.PathEscape(edit)
		if _, err = c.send(ctx, http.MethodPatch, &at, header, body); !errors.Is(err, errNotThere) {
			return edit, err
		} // somebody has deleted it: a new one
	}
	q := u.Query()
	q.Set("wait", "true") // the answer is then the message, with its id
	u.RawQuery = q.Encode()
	answer, err := c.send(ctx, http.MethodPost, u, header, body)
	if err != nil {
		return "", c.there(err)
	}
	var message struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(answer, &message); err != nil {
		return "", c.failed(errors.New("its answer is no message"))
	}
	return message.ID, nil
}

// discordText is the message within the limit: lines are left out from the end.
func discordText(m alarm.Message) string {
	text := "**" + inert(m.Title) + "**"
	for i, line := range m.Lines {
		next := text + "\n" + inert(line)
		if left := len(m.Lines) - i; length(next) > discordMost-48 { // the line below has 42 at most
			return text + fmt.Sprintf("\n... and %d more lines: revolve alarm list", left)
		}
		text = next
	}
	return text
}

// length counts as JavaScript does, which is never less than Discord counts.
func length(text string) int { return len(utf16.Encode([]rune(text))) }

// inert is text that Discord shows as it is.
func inert(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "~", `\~`, "`", "\\`", "|", `\|`, ">", `\>`, "#", `\#`, "[", `\[`, "]", `\]`, "<", `\<`, "@", "@\u200b").Replace(text)
}

// webhook posts the message as it is.
func (c *Channel) webhook(ctx context.Context, m alarm.Message) error {
	u, err := c.address()
	if err != nil {
		return err
	}
	body, header, err := jsonBody(m)
	if err == nil {
		_, err = c.send(ctx, http.MethodPost, u, header, body)
	}
	return c.there(err)
}

// ntfyMost is how long a message of ntfy may be in bytes; what is longer becomes an attachment (docs.ntfy.sh/config, message-size-limit).
const ntfyMost = 4096

// ntfy publishes the message to a topic.
func (c *Channel) ntfy(ctx context.Context, m alarm.Message) error {
	u, err := c.address()
	if err != nil {
		return err
	}
	priority, tag := "4", "warning"
	switch {
	case m.State == alarm.Resolved:
		priority, tag = "3", "white_check_mark"
	case m.State == alarm.Tested:
		priority, tag = "3", "test_tube"
	case m.Severity == alarm.Critical:
		priority, tag = "5", "rotating_light"
	}
	text := m.Text()
	if len(text) > ntfyMost-8 {
		text = strings.ToValidUTF8(text[:ntfyMost-8], "") + "\n..."
	}
	header := map[string]string{"Title": mime.QEncoding.Encode("utf-8", m.Title), "Priority": priority, "Tags": tag, "Content-Type": "text/plain; charset=utf-8"}
	_, err = c.send(ctx, http.MethodPost, u, header, []byte(text))
	return c.there(err)
}

// standsFor is how long Alertmanager believes an alarm without hearing of it again; it is told every minute.
const standsFor = 5 * time.Minute

// amAlert is an alert of Alertmanager's API v2 (api/v2/openapi.yaml, postableAlert).
type amAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

// Stream tells a channel that groups by itself all that stands, and what has ended lately.
func (c *Channel) Stream(ctx context.Context, clusterName string, entries []alarm.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, Within)
	defer cancel()
	return c.alertmanager(ctx, clusterName, entries, time.Now())
}

func (c *Channel) alertmanager(ctx context.Context, clusterName string, entries []alarm.Entry, now time.Time) error {
	u, err := c.address()
	if err != nil {
		return err
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/api/v2/alerts"
	alerts := []amAlert{}
	for _, e := range entries {
		a := amAlert{Labels: map[string]string{"alertname": e.Kind, "severity": e.Severity, "cluster": clusterName}, Annotations: map[string]string{"summary": e.Text, "runbook": "docs/operations.md#" + e.Kind},
			StartsAt: e.Began, EndsAt: now.Add(standsFor)}
		if e.Subject != "" {
			a.Labels["subject"] = e.Subject
		}
		if e.Node != "" {
			a.Labels["node"] = e.Node
		}
		if e.Kind == alarm.Test {
			a.EndsAt = now.Add(time.Minute) // long enough for it to go on to people
		} else if !e.Closed.IsZero() {
			a.EndsAt = e.Closed
		}
		alerts = append(alerts, a)
	}
	body, header, err := jsonBody(alerts)
	if err == nil {
		_, err = c.send(ctx, http.MethodPost, u, header, body)
	}
	return c.there(err)
}

// Beat tells a dead-man's switch that the cluster lives and can tell; well is false
// if something critical stands, which the switch then shows at once.
func (c *Channel) Beat(ctx context.Context, well bool, text string) error {
	ctx, cancel := context.WithTimeout(ctx, Within)
	defer cancel()
	u, err := c.address()
	if err != nil {
		return err
	}
	if c.to.Dialect == config.DialectKuma {
		return c.kuma(ctx, u, well, text)
	}
	// Healthchecks: the ping URL, or /fail below it; the body is shown in its log.
	if !well {
		u.Path = strings.TrimRight(u.Path, "/") + "/fail"
	}
	_, err = c.send(ctx, http.MethodPost, u, map[string]string{"Content-Type": "text/plain; charset=utf-8"}, []byte(text))
	return c.there(err)
}

// kuma calls the push URL of Uptime Kuma, which answers {"ok":true}.
func (c *Channel) kuma(ctx context.Context, u *url.URL, well bool, text string) error {
	q := u.Query()
	q.Set("status", map[bool]string{true: "up", false: "down"}[well])
	q.Set("msg", text[:min(len(text), 200)])
	u.RawQuery = q.Encode()
	answer, err := c.send(ctx, http.MethodGet, u, nil, nil)
	if err != nil {
		return c.there(err)
	}
	var said struct {
		OK bool `json:"ok"`
	}
	if json.Unmarshal(answer, &said) != nil || !said.OK {
		return c.failed(errors.New("it did not accept the heartbeat"))
	}
	return nil
}
