package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// What this program is when the harness starts it again, in argv[1].
const (
	roleServe = "serve" // NAME VOLUME STATE: what clients use on each node; it writes the records into the volume
	roleAsk   = "ask"   // ADDRESS: the clients; they say on stdout what they were told
)

const (
	servePort   = 8080
	writeEvery  = 100 * time.Millisecond
	writeWithin = time.Second
	probeEvery  = 50 * time.Millisecond
	probeWithin = 300 * time.Millisecond
	syncEvery   = 3 * time.Second
	syncWithin  = 6 * time.Second
	perDir      = 250 // records in a directory
)

func child(ctx context.Context, args []string) (ok bool, err error) {
	switch {
	case len(args) == 5 && args[1] == roleServe:
		return true, serve(ctx, args[2], args[3], args[4])
	case len(args) == 3 && args[1] == roleAsk:
		return true, ask(ctx, args[2], os.Stdout)
	}
	return false, nil
}

// recordPath is where a record lies below the volume.
func recordPath(n int) string {
	return filepath.Join("records", strconv.Itoa(n/perDir), fmt.Sprintf("rec-%d", n))
}

// content is the record that this node wrote: 60 bytes to 4 KiB.
func content(n int, node string) string {
	line := fmt.Sprintf("record %d, written on %s\n", n, node)
	return strings.Repeat(line, 2+n*7919%120)
}

// serve is the application on a node.
func serve(ctx context.Context, name, volume, state string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /who", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	mux.HandleFunc("PUT /record/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err == nil {
			err = store(filepath.Join(volume, recordPath(n)), content(n, name), r.URL.Query().Has("durable"))
		}
		answer(w, name, err)
	})
	mux.HandleFunc("POST /sync", func(w http.ResponseWriter, r *http.Request) {
		cmd := exec.CommandContext(r.Context(), os.Getenv(envBin), "sync", "--wait", "--timeout", "5s", "--state", state)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		answer(w, name, err)
	})
	mux.HandleFunc("POST /alarm", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // what is cut is said as it is
		fmt.Printf("alarm %s\n", strings.TrimSpace(string(b)))
	})
	s := &http.Server{Addr: fmt.Sprintf(":%d", servePort), Handler: mux, ReadTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func answer(w http.ResponseWriter, name string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprint(w, name)
}

// store writes a new file as a careful program does, or as an ordinary one.
func store(path, text string, durable bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if durable {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil || !durable {
		return err
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path)), filepath.Dir(filepath.Dir(filepath.Dir(path)))} {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}

// client is everybody who uses the address. Each question is a connection of its own.
type client struct {
	base string
	http *http.Client

	mu   sync.Mutex
	out  io.Writer
	last int // record that was asked for last
	run  streak
}

// streak are the records that one node has taken one after the other, with nothing between: all of one reign.
type streak struct {
	node        string
	first, last int
	broken      int // counts the ends of streaks
}

// took takes a record, or ends the streak (node "").
func (s *streak) took(n int, node string) {
	if node != s.node || node == "" {
		*s = streak{node: node, first: n, broken: s.broken + 1}
	}
	s.last = n
}

func ask(ctx context.Context, address string, out io.Writer) error {
	c := &client{base: fmt.Sprintf("http://%s:%d", address, servePort), out: out,
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return every(ctx, writeEvery, func() { c.write(ctx) }) })
	g.Go(func() error { return every(ctx, syncEvery, func() { c.sync(ctx) }) })
	g.Go(func() error { return c.probe(ctx) })
	return g.Wait()
}

func (c *client) say(format string, args ...any) {
	fmt.Fprintf(c.out, format+"\n", args...) // one write each: a line is whole
}

// do asks once, and gives who answered.
func (c *client) do(ctx context.Context, within time.Duration, method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	return string(b), err
}

// write asks for the next record; what was not answered counts for nothing.
func (c *client) write(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	n, path := c.last, fmt.Sprintf("/record/%d", c.last)
	durable := n%2 == 0
	if durable {
		path += "?durable"
	}
	c.mu.Unlock()
	node, err := c.do(ctx, writeWithin, http.MethodPut, path)
	c.mu.Lock()
	if err != nil {
		c.run.took(n, "")
		return
	}
	c.run.took(n, node)
	c.say("record %d %s %v %d", n, node, durable, time.Now().UnixMilli())
}

// sync asks for the barrier; what it covers are the records of the streak that was there before it, if that goes on.
func (c *client) sync(ctx context.Context) {
	c.mu.Lock()
	before := c.run
	c.mu.Unlock()
	if before.node == "" {
		return
	}
	node, err := c.do(ctx, syncWithin, http.MethodPost, "/sync")
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && node == before.node && c.run.broken == before.broken {
		c.say("synced %s %d %d %d", node, before.first, before.last, time.Now().UnixMilli())
	}
}

// probe looks whether anybody answers, and says when that changes.
func (c *client) probe(ctx context.Context) error {
	down, who := time.Time{}, ""
	return every(ctx, probeEvery, func() {
		began := time.Now()
		node, err := c.do(ctx, probeWithin, http.MethodGet, "/who")
		switch {
		case ctx.Err() != nil:
		case err != nil && down.IsZero():
			down = began
		case err != nil:
		case !down.IsZero():
			c.say("away %d %d", down.UnixMilli(), time.Now().UnixMilli())
			down = time.Time{}
		}
		if err == nil && node != who {
			who = node
			c.say("who %s %d", node, time.Now().UnixMilli())
		}
	})
}

func every(ctx context.Context, d time.Duration, do func()) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			do()
		}
	}
}
