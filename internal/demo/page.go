package demo

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/control"
	past "revolve/internal/failover/history"
	"revolve/internal/problem"
	"revolve/internal/web"
)

// This file serves the status page of the demo's cluster to a browser of this machine. The
// nodes' networks are their own; a socket in the file system is what both sides see.

const (
	envPage = "REVOLVE_DEMO_PAGE" // the socket's path, for the program on the stage

	pageConns  = 64                     // passed on at once; one more is closed
	pageWithin = 300 * time.Millisecond // a node that is frozen does not answer
	pageLookup = 5 * time.Second        // between two looks at the records of failovers, which ask every node
)

// PageSocket is where the program on the stage serves the page; "" if nobody wants it.
func PageSocket() string { return os.Getenv(envPage) }

// WithPage runs the demo, and as long passes what connects to an address on to its page; with no
// address it only runs.
func WithPage(ctx context.Context, address string, run func() error) error {
	if address == "" {
		return run()
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return &problem.Problem{Op: "serve the status page", Kind: problem.Conflict, Subject: address, Err: err, Hint: "choose a free address and port of this machine, such as --web 127.0.0.1:8480"}
	}
	dir, err := os.MkdirTemp("", "revolve-page-") // for this user only
	if err != nil {
		return errors.Join(&problem.Problem{Op: "make a temporary directory", Kind: problem.Unavailable, Err: err, Hint: "set TMPDIR to a directory that you may write to"}, l.Close())
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "page")
	if err := os.Setenv(envPage, socket); err != nil {
		return errors.Join(err, l.Close())
	}
	inner, stop := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return pass(inner, l, socket) })
	err = run()
	stop()
	return errors.Join(err, g.Wait())
}

// pass connects those who come with the socket, until ctx ends.
func pass(ctx context.Context, l net.Listener, socket string) error {
	var all sync.WaitGroup
	defer all.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	open := make(chan struct{}, pageConns)
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		select {
		case open <- struct{}{}:
			all.Go(func() {
				passOne(ctx, c, socket)
				<-open
			})
		default:
			_ = c.Close() // nobody waits for it
		}
	}
}

func passOne(ctx context.Context, outside net.Conn, socket string) {
	defer outside.Close()
	inside, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return // the page is not there yet, or no more: the browser says so
	}
	defer inside.Close()
	defer context.AfterFunc(ctx, func() { outside.Close(); inside.Close() })()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(outside, inside) // one of the two has gone if this ends
		_ = outside.Close()
	})
	_, _ = io.Copy(inside, outside)
	_ = inside.Close()
	back.Wait()
}

// page serves, as the master sees the cluster, or any node that answers.
func (t *theatre) page(ctx context.Context, socket string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		kind := problem.Unavailable
		if errors.Is(err, syscall.ENOENT) {
			kind = problem.NotFound
		}
		return &problem.Problem{Op: "serve the status page", Kind: kind, Subject: socket, Err: err, Hint: "leave --web out"}
	}
	var records atomic.Pointer[[]past.Record]
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		t.records(gctx, &records)
		return nil
	})
	g.Go(func() error {
		return web.Serve(gctx, web.Options{Sockets: []net.Listener{l}, Log: slog.New(slog.DiscardHandler), Snapshot: func() (s web.Snapshot) {
			s.Status, _ = t.seen(gctx)
			if list := records.Load(); list != nil {
				s.Records = *list
			}
			return s
		}})
	})
	return g.Wait()
}

// records looks at what is known of failovers: apart from the page, since every node is asked.
func (t *theatre) records(ctx context.Context, into *atomic.Pointer[[]past.Record]) {
	tick := time.NewTicker(pageLookup)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, client := t.seen(ctx); client != nil {
			within, cancel := context.WithTimeout(ctx, pageLookup)
			if h, err := client.History(within); err == nil { // otherwise what was known stays
				into.Store(&h.Records)
			}
			cancel()
		}
	}
}

// seen is the status as the master tells it, or another node, and who was asked; nobody at first.
func (t *theatre) seen(ctx context.Context) (control.Status, *control.Client) {
	found := control.Status{AsOf: time.Now(), Cluster: "demo", Node: "nobody", Master: control.Unknown, Verdict: control.Unknown, Reasons: []string{"no node answers yet"}}
	var who *control.Client
	for _, name := range t.plan.names {
		client := control.Dial(t.plan.state(name))
		within, cancel := context.WithTimeout(ctx, pageWithin)
		s, err := client.Status(within)
		cancel()
		if err == nil && (who == nil || cluster.NodeID(s.Master) == s.Node) {
			found, who = s, client
		}
	}
	return found, who
}
