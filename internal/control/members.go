package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/problem"
)

// Change is what a person wants changed of the cluster; exactly one of Config,
// Revoke and Raise is set.
type Change struct {
	Config string `json:"config,omitempty"`  // the text of a new configuration
	DryRun bool   `json:"dry_run,omitempty"` // with Config: only say what it would do
	// Deadline is, with Config, how long it is tried before the former one comes back by itself; 0: it stays whatever happens.
	Deadline time.Duration `json:"deadline_ns,omitempty"`

	Base   *uint32        `json:"base,omitempty"`   // with Config: the generation that it was made from; another one in force is a conflict
	Revoke cluster.NodeID `json:"revoke,omitempty"` // refuse this node's certificates, and change the heartbeat key
	Raise  cluster.NodeID `json:"raise,omitempty"`  // refuse this node's certificates below Epoch
	Epoch  uint32         `json:"epoch,omitempty"`
	Key    bool           `json:"key,omitempty"` // with Raise: change the heartbeat key too
}

// Changed is what became of a Change.
type Changed struct {
	Generation uint32           `json:"generation"` // in force now; with DryRun, the one that would be
	Added      []cluster.NodeID `json:"added"`
	Removed    []cluster.NodeID `json:"removed"`
	Altered    []cluster.NodeID `json:"altered"` // other priority, address, paths ...
	Restart    []string         `json:"restart"` // what takes effect only when agents start anew
	Anew       []string         `json:"anew"`    // for what agents start anew by themselves
	Trial      bool             `json:"trial"`   // the generation is only tried yet
	Key        string           `json:"heartbeat_key,omitempty"`
	Nodes      []Told           `json:"nodes"`
}

// Told is whether a node has a new generation.
type Told struct {
	Node cluster.NodeID `json:"node"`
	Took bool           `json:"took"`
	Why  string         `json:"why,omitempty"` // not: it gets it when it is back
}

// What became of the heartbeat key.
const (
	KeyChanged  = "changed"
	KeyChanging = "changing" // a node that lives did not confirm yet; the master goes on by itself
)

// Members is the part of the backend that changes the cluster.
type Members interface {
	Change(ctx context.Context, c Change) (Changed, error)
	Configuration() Configuration
}

// Configuration is the configuration in force.
type Configuration struct {
	Generation uint32 `json:"generation"`
	Config     string `json:"config"`
	Trial      *Trial `json:"trial,omitempty"` // nil: it is in force for good
	TurnedBack bool   `json:"turned_back"`     // it is the one before another that was not confirmed
}

// Trial is what is known of a configuration that is only tried.
type Trial struct {
	Left     float64 `json:"left_s"`              // seconds, until this node goes back
	WaitsFor string  `json:"waits_for,omitempty"` // which node has not confirmed and why, as the master sees it
}

func handleMembers(mux *http.ServeMux, b Members) {
	mux.HandleFunc("GET /v1/config", func(w http.ResponseWriter, r *http.Request) {
		answer(w, b.Configuration(), nil)
	})
	mux.HandleFunc("POST /v1/members", func(w http.ResponseWriter, r *http.Request) {
		var c Change
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*config.MaxBytes)).Decode(&c); err != nil {
			answer(w, nil, &problem.Problem{Op: "read order", Kind: problem.Invalid, Err: err, Hint: "use the same version of revolve as the agent"})
			return
		}
		done, err := b.Change(r.Context(), c)
		answer(w, done, err)
	})
}

// Change changes the cluster.
func (c *Client) Change(ctx context.Context, change Change) (done Changed, err error) {
	return done, c.do(ctx, http.MethodPost, "/v1/members", change, &done)
}

// Configuration asks for the configuration in force.
func (c *Client) Configuration(ctx context.Context) (conf Configuration, err error) {
	return conf, c.do(ctx, http.MethodGet, "/v1/config", nil, &conf)
}
