// Package web is the status page that every node serves over plain HTTP, where
// the configuration says so: server-rendered, complete without JavaScript, live
// by server-sent events with it.
//
// It reads reports and decides nothing. Orders are taken apart from it, at /orders, of who is signed in with this
// node's token and speaks over the loopback interface or TLS; they are handed on to who carries them out.
// It asks for a snapshot at most once a second and only while somebody looks,
// renders it once for all who do, and bounds what clients can make it do:
// connections, requests a second, followers, time and size of everything.
//
//	err := web.Serve(ctx, web.Options{Listen: cfg.Web.Listen, Snapshot: snapshot, Log: log})
package web

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
	"revolve/internal/problem"
)

// What clients can make a node spend. Fifty clients that reload as fast as they can are the bound's reason:
// make bench-page shows some 2 % of one CPU.
const (
	maxConns    = 256 // at once; one more is closed unread
	maxFollow   = 64  // of them those that follow the events
	connsPer    = 30  // accepted in a second (a new one costs some 500 µs, an answer on an old one 100); the rest waits in the kernel's queue
	connsBurst  = 128
	asksPer     = 50 // requests answered in a second, of all clients together
	asksBurst   = 256
	askPatience = 2 * time.Second // a request waits for its turn so long

	waitSlot = 200 * time.Millisecond // those that wait are let go on together at the ends of such times

	headerWithin = 5 * time.Second
	writeWithin  = 5 * time.Second // a reader that takes no more within it is dropped
	idleFor      = 30 * time.Second
	maxHeader    = 8 << 10
	maxUnread    = 256 << 10 // of a body that nobody wants, read so that the answer arrives
	sendBuffer   = 64 << 10  // of the kernel, for one client

	// endWithin is how long handlers have to end, which wait for nothing then.
	endWithin = 200 * time.Millisecond

	// listenAgain is when an address is tried again that could not be had. A page is no reason to stop a node.
	listenAgain = 5 * time.Second
	listenQuiet = 10 * time.Minute // between two log lines of the same failure
)

// Snapshot is what the page shows: the status, and the newest records of failovers.
type Snapshot struct {
	Status  control.Status
	Records []history.Record // newest first
	VMs     *Machines        // nil: the cluster has none
}

// Options say what is served where.
type Options struct {
	Listen   []netip.AddrPort // an unspecified IPv6 address is every address of both families
	Sockets  []net.Listener   // listening already; closed at the end
	Names    []string         // DNS names of requests that are answered, beside those that only a house has
	Snapshot func() Snapshot  // is called from one goroutine at a time, at most once a second, and around an order
	Metrics  http.Handler     // at /metrics; nil: there are none
	Orders   Orders           // carries out what is ordered at /orders; nil: nothing is
	State    string           // where the token for that is
	Cluster  string           // with Node: whose orders they are
	Node     cluster.NodeID
	VIPs     []netip.Addr // they move, so no orders are taken by them
	Log      *slog.Logger
}

// Serve serves until ctx ends. An address that cannot be had is no error: it is tried again.
func Serve(ctx context.Context, o Options) error {
	h, err := newHub(o.Snapshot)
	if err != nil {
		return err
	}
	h.renderer.desk = o.Orders != nil
	site := newSite(h, o)
	if site.desk != nil {
		site.desk.agent = ctx
	}
	srv := &http.Server{Handler: site, ReadHeaderTimeout: headerWithin, WriteTimeout: writeWithin + askPatience + waitSlot, IdleTimeout: idleFor, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx }}
	g, gctx := errgroup.WithContext(ctx)
	gates := newGates()
	for _, addr := range o.Listen {
		g.Go(func() error { return attend(gctx, srv, gates, addr, o.Log) })
	}
	for _, l := range o.Sockets {
		g.Go(func() error {
			if err := srv.Serve(gates.at(gctx, l)); !errors.Is(err, http.ErrServerClosed) && gctx.Err() == nil {
				return err
			}
			return nil
		})
	}
	g.Go(func() error {
		h.run(gctx, o.Log)
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
		defer cancel()
		_ = srv.Shutdown(late) // the handlers end with ctx; who has connected and said nothing is not waited for
		return srv.Close()
	})
	return g.Wait()
}

// attend listens on one address, and tries again when it cannot.
func attend(ctx context.Context, srv *http.Server, gates *gates, addr netip.AddrPort, log *slog.Logger) error {
	var said time.Time
	for {
		l, err := listen(ctx, addr)
		if err == nil {
			log.Info("the status page is served", "address", l.Addr())
			if err = srv.Serve(gates.at(ctx, l)); errors.Is(err, http.ErrServerClosed) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(said) > listenQuiet {
			said = time.Now()
			log.Warn("the status page cannot be served; it is tried again", "address", addr, "err", err, "hint", problem.HintOf(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
	}
}

// listen binds an address, also one that is not here yet: a floating one, or that of a link
// which comes up later (ip(7), IP_FREEBIND).
func listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	network, level, option := "tcp", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	if addr.Addr().Is4() {
		network, level, option = "tcp4", unix.IPPROTO_IP, unix.IP_FREEBIND
	}
	lc := net.ListenConfig{Control: func(net, _ string, raw syscall.RawConn) (err error) {
		if net == "tcp4" {
			level, option = unix.IPPROTO_IP, unix.IP_FREEBIND
		}
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(err, cerr)
	}}
	where := addr.String()
	if addr.Addr() == netip.IPv6Unspecified() {
		where = net.JoinHostPort("", portText(addr)) // both families, also on a machine without IPv6
	}
	l, err := lc.Listen(ctx, network, where)
	if err == nil {
		return l, nil
	}
	p := &problem.Problem{Op: "listen on", Kind: problem.Unavailable, Subject: addr.String(), Err: err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		p.Kind, p.Hint = problem.Conflict, "stop what holds the port, or choose another under web: in the configuration"
	case errors.Is(err, syscall.EACCES):
		p.Kind, p.Hint = problem.Permission, "ports below 1024 need privilege; choose another under web: in the configuration"
	}
	return nil, p
}
