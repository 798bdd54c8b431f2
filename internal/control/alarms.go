package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"revolve/internal/problem"
)

// Alarms are what people are told.
type Alarms struct {
	Speaks   bool           `json:"speaks"` // this node is the one that tells them
	Open     []AlarmEntry   `json:"open"`
	Silences []AlarmSilence `json:"silences"`
	Channels []AlarmChannel `json:"channels"` // where they go
	Tested   time.Time      `json:"tested,omitzero"`
}

// AlarmEntry is one alarm that stands.
type AlarmEntry struct {
	Kind     string    `json:"kind"`
	Subject  string    `json:"subject,omitempty"`
	Severity string    `json:"severity"`
	Text     string    `json:"text"`
	Since    time.Time `json:"since"`
	Seen     time.Time `json:"seen,omitzero"`           // last; one that was not seen for a while is calming down
	Told     bool      `json:"told"`                    // a message about it has arrived somewhere
	Silenced time.Time `json:"silenced_until,omitzero"` // nobody is told of it before
}

// AlarmSilence is a kind, or one alarm, of which nobody is told for a while.
type AlarmSilence struct {
	Kind    string    `json:"kind"` // "all": everything
	Subject string    `json:"subject,omitempty"`
	Until   time.Time `json:"until"`
	By      string    `json:"by,omitempty"`
}

// AlarmChannel is a way out of the house, as this node used it last. It never says where it leads.
type AlarmChannel struct {
	Name    string    `json:"name"`
	Arrived time.Time `json:"arrived,omitzero"` // something was accepted there last
	Failed  time.Time `json:"failed,omitzero"`  // something was not
	Error   string    `json:"error,omitempty"`  // why, unless something was accepted since
	// Dropped counts the messages that were refused there for good since the agent's start: they were not sent again.
	Dropped    int       `json:"dropped,omitempty"`
	DroppedAt  time.Time `json:"dropped_at,omitzero"`   // the last of them
	DroppedWhy string    `json:"dropped_why,omitempty"` // and why
}

// SilenceOrder is an order about a silence; For of zero takes it back.
type SilenceOrder struct {
	Kind    string        `json:"kind"`
	Subject string        `json:"subject,omitempty"`
	For     time.Duration `json:"for"`
}

// Alarmer is what the API asks of the agent about alarms.
type Alarmer interface {
	TestAlarm(ctx context.Context) ([]AlarmChannel, error)
	Silence(ctx context.Context, o SilenceOrder) error
}

// testWithin bounds a test of all channels.
const testWithin = time.Minute

func handleAlarms(mux *http.ServeMux, b Alarmer) {
	mux.HandleFunc("POST /v1/alarms/test", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), testWithin)
		defer cancel()
		list, err := b.TestAlarm(ctx)
		answer(w, list, err)
	})
	mux.HandleFunc("POST /v1/alarms/silence", func(w http.ResponseWriter, r *http.Request) {
		var o SilenceOrder
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&o); err != nil {
			answer(w, nil, &problem.Problem{Op: "read order", Kind: problem.Invalid, Err: err, Hint: "use the same version of revolve as the agent"})
			return
		}
		answer(w, struct{}{}, b.Silence(r.Context(), o))
	})
}

// TestAlarm has the agent send a test over every channel, and tells how each went.
func (c *Client) TestAlarm(ctx context.Context) (list []AlarmChannel, err error) {
	return list, c.do(ctx, http.MethodPost, "/v1/alarms/test", nil, &list)
}

// Silence has nobody told of a kind of alarms for a while.
func (c *Client) Silence(ctx context.Context, o SilenceOrder) error {
	var done struct{}
	return c.do(ctx, http.MethodPost, "/v1/alarms/silence", o, &done)
}
