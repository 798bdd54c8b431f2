package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// Client talks to the agent of one state directory.
type Client struct {
	socket string
	http   http.Client
}

// Dial prepares a client; nothing is opened yet.
func Dial(state string) *Client {
	c := &Client{socket: Socket(state)}
	c.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		short, done, err := shortPath(c.socket)
		if err != nil {
			return nil, err
		}
		defer done()
		var d net.Dialer
		return d.DialContext(ctx, "unix", short)
	}}
	return c
}

// statusWithin bounds the wait for a status: the agent answers from memory.
const statusWithin = 5 * time.Second

// Status asks for the state of the cluster as this node sees it. It fails with
// kind Timeout if the agent is there and does not answer.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	err = c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
	if problem.KindOf(err) == problem.Timeout {
		err = &problem.Problem{Op: "ask the agent at", Kind: problem.Timeout, Subject: c.socket, Err: errors.New("it is there and does not answer"),
			Hint: "look at its log (journalctl -u revolve); it may wait for a disk, or be stopped; systemctl restart revolve"}
	}
	return s, err
}

// Switch orders a planned move; an empty name lets the master choose. It
// returns the new master.
func (c *Client) Switch(ctx context.Context, to cluster.NodeID) (cluster.NodeID, error) {
	var a struct{ Master cluster.NodeID }
	err := c.do(ctx, http.MethodPost, "/v1/switch", map[string]cluster.NodeID{"To": to}, &a)
	return a.Master, err
}

// Sync waits until every in-sync standby has everything written before it. It
// returns how long that took, in milliseconds.
func (c *Client) Sync(ctx context.Context) (ms float64, err error) {
	var a struct {
		TookMS float64 `json:"took_ms"`
	}
	err = c.do(ctx, http.MethodPost, "/v1/sync", nil, &a)
	return a.TookMS, err
}

// History is every failover that a node that answers knows of.
func (c *Client) History(ctx context.Context) (h History, err error) {
	return h, c.do(ctx, http.MethodGet, "/v1/history", nil, &h)
}

// Divergent lists the changes kept aside on this node.
func (c *Client) Divergent(ctx context.Context) (list []Divergent, err error) {
	return list, c.do(ctx, http.MethodGet, "/v1/divergent", nil, &list)
}

// Hold turns automatic moves off (on is true) or on, on every node that answers.
func (c *Client) Hold(ctx context.Context, on bool) (o Ordered, err error) {
	return o, c.do(ctx, http.MethodPost, "/v1/hold", toggle{On: on}, &o)
}

// Maintenance has this node step aside, or take part again. With force it steps
// aside even if nobody is there to take the addresses without a loss.
func (c *Client) Maintenance(ctx context.Context, on, force bool) (o Ordered, err error) {
	return o, c.do(ctx, http.MethodPost, "/v1/maintenance", toggle{on, force}, &o)
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, &body)
	if err != nil {
		return err
	}
	if at, ok := ctx.Deadline(); ok {
		req.Header.Set(withinHeader, AnswerBefore(time.Until(at)).String())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var f failure
		if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
			return &problem.Problem{Op: "ask the agent", Kind: problem.Internal, Subject: path, Err: errors.New(resp.Status),
				Hint: "run the same version of revolve as the agent: revolve version; systemctl restart revolve"}
		}
		return &problem.Problem{Op: f.Op, Kind: f.Kind, Subject: f.Subject, Err: errors.New(f.Error), Hint: f.Hint}
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// withinHeader tells the agent how long the caller waits, as time.Duration prints it:
// who gives up first knows less about why.
const withinHeader = "Revolve-Within"

// AnswerBefore leaves the answer time to arrive: a tenth of the wait, 200 ms at most.
func AnswerBefore(d time.Duration) time.Duration {
	return max(d-min(d/10, 200*time.Millisecond), time.Millisecond)
}

func (c *Client) unreachable(err error) error {
	p := &problem.Problem{Op: "ask the agent at", Kind: problem.Unavailable, Subject: c.socket, Err: err, Hint: "start it: revolve agent --config FILE --node NAME"}
	switch {
	case errors.Is(err, syscall.ENOENT):
		p.Err, p.Kind = errors.New("no agent runs with this state directory"), problem.NotFound
		p.Hint = "start one: revolve agent --config FILE --node NAME; or name its directory: --state DIR"
	case errors.Is(err, syscall.ECONNREFUSED):
		p.Err = errors.New("its agent has gone")
	case errors.Is(err, syscall.EACCES):
		p.Err, p.Kind, p.Hint = errors.New("not allowed"), problem.Permission, "run it as the user of the agent (sudo)"
	case errors.Is(err, context.DeadlineExceeded):
		p.Kind, p.Hint = problem.Timeout, "see what it says: revolve status"
	}
	p.Err = unanswered{p.Err}
	return p
}

// unanswered marks that no agent said anything.
type unanswered struct{ error }

func (u unanswered) Unwrap() error { return u.error }

// Unanswered reports whether an error is no answer of an agent, but that there was none.
func Unanswered(err error) bool {
	var u unanswered
	return errors.As(err, &u)
}

func itoa(fd uintptr) string { return strconv.FormatUint(uint64(fd), 10) }
