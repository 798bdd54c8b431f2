package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// Backend is what the API asks of the agent.
type Backend interface {
	Status() Status
	Switch(ctx context.Context, to cluster.NodeID) (cluster.NodeID, error)
	Sync(ctx context.Context) error
	History(ctx context.Context) (History, error)
	Fitness() Fitness
	Divergent() ([]Divergent, error)
	Hold(ctx context.Context, on bool) (Ordered, error)
	Maintenance(ctx context.Context, on, force bool) (Ordered, error)
	Rehearser
	Powerer
	// Ordered says that a person orders something here, before it is carried out.
	Ordered(what string)
	Alarmer
	Keeper
	Verifier
	Explainer
	Members
	Machines
}

// Socket is the path of the control socket of a state directory.
func Socket(state string) string { return filepath.Join(state, "control.sock") }

const (
	maxBody    = 64 << 10
	maxRequest = 10 * time.Minute // a barrier may wait for a large file
)

// failure is the body of an answer that is an error.
type failure struct {
	Op      string       `json:"op"`
	Kind    problem.Kind `json:"kind"`
	Subject string       `json:"subject,omitempty"`
	Error   string       `json:"error"`
	Hint    string       `json:"hint,omitempty"`
}

// Serve answers on the socket until ctx ends. The caller holds the lock of the
// state directory, so a socket found there is a dead agent's and replaced.
func Serve(ctx context.Context, socket string, b Backend, log *slog.Logger) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	short, done, err := shortPath(socket)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", short)
	done()
	if err != nil {
		return &problem.Problem{Op: "listen on control socket", Kind: problem.Unavailable, Subject: socket, Err: err,
			Hint: "put the state directory on a filesystem of this machine that has sockets: --state DIR"}
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	srv := &http.Server{Handler: handler(b), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: withCaller}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		return errors.Join(srv.Close(), os.Remove(socket))
	})
	return g.Wait()
}

func handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { answer(w, b.Status(), nil) })
	mux.HandleFunc("GET /v1/eligible", func(w http.ResponseWriter, r *http.Request) { answer(w, b.Fitness(), nil) })
	mux.HandleFunc("GET /v1/divergent", func(w http.ResponseWriter, r *http.Request) {
		list, err := b.Divergent()
		answer(w, list, err)
	})
	mux.HandleFunc("GET /v1/history", func(w http.ResponseWriter, r *http.Request) {
		h, err := b.History(r.Context())
		answer(w, h, err)
	})
	mux.HandleFunc("POST /v1/switch", func(w http.ResponseWriter, r *http.Request) {
		var req struct{ To cluster.NodeID }
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
			answer(w, nil, &problem.Problem{Op: "read order", Kind: problem.Invalid, Err: err})
			return
		}
		to, err := b.Switch(r.Context(), req.To)
		answer(w, map[string]cluster.NodeID{"master": to}, err)
	})
	mux.HandleFunc("POST /v1/hold", func(w http.ResponseWriter, r *http.Request) {
		order(w, r, func(o toggle) (Ordered, error) { return b.Hold(r.Context(), o.On) })
	})
	mux.HandleFunc("POST /v1/maintenance", func(w http.ResponseWriter, r *http.Request) {
		order(w, r, func(o toggle) (Ordered, error) { return b.Maintenance(r.Context(), o.On, o.Force) })
	})
	mux.HandleFunc("POST /v1/sync", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), within(r))
		defer cancel()
		began := time.Now()
		err := b.Sync(ctx)
		answer(w, map[string]float64{"took_ms": float64(time.Since(began).Microseconds()) / 1000}, err)
	})
	handleRehearse(mux, b)
	handlePower(mux, b)
	handleAlarms(mux, b)
	handleKept(mux, b)
	handleVerify(mux, b)
	handleExplain(mux, b)
	handleMembers(mux, b)
	handleVMs(mux, b)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && !onlyLooks(r.URL.Path) {
			b.Ordered(strings.TrimPrefix(r.URL.Path, "/v1/"))
		}
		mux.ServeHTTP(w, r)
	})
}

// onlyLooks reports whether what is posted there orders nothing, or it depends on what it says: then the backend tells itself.
func onlyLooks(path string) bool {
	return slices.Contains([]string{"/v1/explain", "/v1/kept/trash", "/v1/kept/divergent", "/v1/vms", "/v1/verify"}, path)
}

// within is how long the caller waits for its answer, maxRequest at most and if it does not say.
func within(r *http.Request) time.Duration {
	if d, err := time.ParseDuration(r.Header.Get(withinHeader)); err == nil && d > 0 {
		return min(d, maxRequest)
	}
	return maxRequest
}

// toggle is the body of an order that turns something on or off.
type toggle struct {
	On    bool `json:"on"`
	Force bool `json:"force"`
}

func order(w http.ResponseWriter, r *http.Request, do func(toggle) (Ordered, error)) {
	var o toggle
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&o); err != nil {
		answer(w, nil, &problem.Problem{Op: "read order", Kind: problem.Invalid, Err: err, Hint: "use the same version of revolve as the agent"})
		return
	}
	done, err := do(o)
	answer(w, done, err)
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		_ = json.NewEncoder(w).Encode(v) // the client has gone if this fails
		return
	}
	f := failure{Kind: problem.KindOf(err), Error: err.Error(), Hint: problem.HintOf(err)}
	var p *problem.Problem
	if errors.As(err, &p) && p.Err != nil {
		f.Op, f.Subject, f.Error = p.Op, p.Subject, p.Err.Error()
	}
	w.WriteHeader(f.Kind.HTTPStatus())
	_ = json.NewEncoder(w).Encode(f) // the client has gone if this fails
}

// sunPath is how long a socket's path may be (unix(7): sun_path is 108 bytes with its zero).
const sunPath = 107

// shortPath gives a socket path that fits into sun_path, through a descriptor of
// its directory where the real one is too long. done releases it.
func shortPath(path string) (string, func(), error) {
	if len(path) <= sunPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return filepath.Join("/proc/self/fd", itoa(dir.Fd()), filepath.Base(path)), func() { dir.Close() }, nil
}
