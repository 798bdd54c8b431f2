// Package deliver brings alarms out of the house: Discord, webhooks, ntfy, e-mail,
// Alertmanager, and heartbeats to a dead-man's switch.
//
// It decides nothing: each call is one message to one place, and says whether it was
// accepted. Secrets are read from their files at each use, are refused if others may read
// them, and are never in an error: what a failure says may be shown to everybody.
//
//	channels := deliver.Channels(cfg.Alarms)
//	id, err := channels[0].Deliver(ctx, message, "")
package deliver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"revolve/internal/alarm"
	"revolve/internal/config"
	"revolve/internal/problem"
	"revolve/internal/secret"
)

const (
	// Within bounds one delivery.
	Within = 15 * time.Second
	// maxAnswer is what is read of an answer.
	maxAnswer = 64 << 10
	// maxWait bounds how long a place may have us wait.
	maxWait = time.Hour
)

// Channel is a way out for messages.
type Channel struct {
	Name  string
	Edits bool // a message can be changed where it is
	// Whole: it does its own grouping, and is told all that stands, again and again.
	Whole bool
	to    config.Alarm
	http  *http.Client

	mu    sync.Mutex
	lates map[string]int // mailboxes that want the mail later, and how often in a row
}

// Wait is an error of a place that wants to be left alone for a while.
type Wait struct {
	For time.Duration
	Err error
}

// Error says who wants it.
func (w *Wait) Error() string { return fmt.Sprintf("%v; again in %s", w.Err, w.For) }

// Unwrap is what it answered.
func (w *Wait) Unwrap() error { return w.Err }

// Refused is an error of a place that will never take this message, however often it is sent.
type Refused struct{ Err error }

// Error says why.
func (r *Refused) Error() string { return r.Err.Error() }

// Unwrap is what it answered.
func (r *Refused) Unwrap() error { return r.Err }

// refused is an answer that is about this message, not about the place.
func (c *Channel) refused(err error) error {
	return &Refused{&problem.Problem{Op: "send alarm over", Kind: problem.Invalid, Subject: c.Name, Err: err, Hint: "revolve alarm list says what stands; revolve alarm test tries the place"}}
}

// Channels are those of a configuration, heartbeats apart.
func Channels(list []config.Alarm) (channels []*Channel) {
	for _, to := range list {
		if to.Kind != config.AlarmHeartbeat {
			channels = append(channels, newChannel(to))
		}
	}
	return channels
}

// Heartbeats are the dead-man's switches of a configuration.
func Heartbeats(list []config.Alarm) (beats []*Channel) {
	for _, to := range list {
		if to.Kind == config.AlarmHeartbeat {
			beats = append(beats, newChannel(to))
		}
	}
	return beats
}

func newChannel(to config.Alarm) *Channel {
	client := &http.Client{Timeout: Within, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: Within, MaxResponseHeaderBytes: maxAnswer},
		// A redirect would carry the secret of the address elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Channel{Name: to.Name, Edits: to.Kind == config.AlarmDiscord, Whole: to.Kind == config.AlarmAlertmanager, to: to, http: client, lates: map[string]int{}}
}

// Every is the interval of a heartbeat.
func (c *Channel) Every() time.Duration { return c.to.Every }

// Deliver brings one message; edit is how the channel calls the one to change, "" for a new
// one. It returns how the channel calls the message. The error is a *Wait if the place says so.
func (c *Channel) Deliver(ctx context.Context, m alarm.Message, edit string) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, Within)
	defer cancel()
	switch c.to.Kind {
	case config.AlarmDiscord:
		return c.discord(ctx, m, edit)
	case config.AlarmWebhook:
		return "", c.webhook(ctx, m)
	case config.AlarmNtfy:
		return "", c.ntfy(ctx, m)
	case config.AlarmEmail:
		return "", c.email(ctx, m)
	case config.AlarmAlertmanager:
		return "", c.alertmanager(ctx, m.Cluster, m.Alarms, time.Now())
	}
	return "", &problem.Problem{Op: "send alarm", Kind: problem.Internal, Subject: c.to.Kind, Err: errors.New("it is no channel")}
}

// address is where the channel leads: from the configuration, or a secret.
func (c *Channel) address() (*url.URL, error) {
	text := c.to.URL
	if c.to.URLFile != "" {
		var err error
		if text, err = secret.Read(c.to.URLFile); err != nil {
			return nil, err
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, &problem.Problem{Op: "send alarm", Kind: problem.Invalid, Subject: c.Name, Err: errors.New("its URL is none"), // not said: it may be a secret
			Hint: "write https://HOST/PATH into the file that url_file names"}
	}
	return u, nil
}

// failed is an answer that is no success.
func (c *Channel) failed(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the address: it may be a secret
	}
	kind := problem.Unavailable
	if errors.Is(err, context.DeadlineExceeded) || u != nil && u.Timeout() {
		kind, err = problem.Timeout, errors.New("no answer in time")
	}
	return &problem.Problem{Op: "send alarm over", Kind: kind, Subject: c.Name, Err: err, Hint: "it is tried again; revolve alarm test tries it now"}
}

// send makes a request and gives the body of a good answer.
func (c *Channel) send(ctx context.Context, method string, u *url.URL, header map[string]string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, c.failed(err)
	}
	req.Header.Set("User-Agent", "revolve")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	if c.to.TokenFile != "" {
		token, err := secret.Read(c.to.TokenFile)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failed(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.failed(err)
	}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		return nil, &Wait{For: retryAfter(resp.Header.Get("Retry-After"), answer), Err: c.failed(errors.New("it takes no more for now (status 429)"))}
	case resp.StatusCode == http.StatusNotFound:
		return answer, errNotThere
	case slices.Contains([]int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity}, resp.StatusCode):
		return nil, c.refused(fmt.Errorf("it refuses the message (status %d)", resp.StatusCode))
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, c.failed(fmt.Errorf("it answered with status %d", resp.StatusCode))
	}
	return answer, nil
}

// errNotThere is the status 404.
var errNotThere = errors.New("what the address names is not there (status 404)")

// retryAfter is how long a place wants to be left alone: in the body (Discord: "retry_after" in seconds, with a fraction)
// or in the header (RFC 9110 section 10.2.3: whole seconds).
func retryAfter(header string, body []byte) time.Duration {
	wait := 30 * time.Second
	if n, err := strconv.Atoi(strings.TrimSpace(header)); err == nil && n >= 0 {
		wait = time.Duration(n) * time.Second
	}
	var said struct {
		After *float64 `json:"retry_after"`
	}
	if json.Unmarshal(body, &said) == nil && said.After != nil && *said.After >= 0 && *said.After < maxWait.Seconds() {
		wait = time.Duration(*said.After * float64(time.Second))
	}
	return min(max(wait, time.Second), maxWait)
}

// jsonBody is v with its content type.
func jsonBody(v any) ([]byte, map[string]string, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return b.Bytes(), map[string]string{"Content-Type": "application/json"}, err
}

// there turns a 404 into words of this channel.
func (c *Channel) there(err error) error {
	if errors.Is(err, errNotThere) {
		return c.failed(err)
	}
	return err
}
