// Command page measures what the status page costs a node: nothing while nobody
// looks, and with fifty clients that follow it, that scrape it, or that ask as
// fast as they can. It never judges; it prints the share of one CPU that the
// serving process took, as a table.
//
//	make bench-page
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/metrics"
	"revolve/internal/web"
)

const (
	clients = 50
	during  = 20 * time.Second
	warm    = 3 * time.Second // the burst of a start is no rate
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 {
		err = serve(ctx, os.Args[1])
	} else {
		err = measure(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/page:", err)
		os.Exit(1)
	}
}

// serve is the process that is measured: a status of four nodes and two volumes in which lags change every second.
func serve(ctx context.Context, addr string) error {
	status := func() control.Status {
		now := time.Now()
		s := control.Status{AsOf: now, Cluster: "homelab", Node: "a", Term: 7, Master: "a", Verdict: control.OK, VIPs: []control.VIP{{Address: "10.77.0.200/24", Holder: "a"}}}
		names := []cluster.NodeID{"a", "b", "c", "d"}
		for _, v := range []cluster.VolumeID{"home", "zones"} {
			x := control.Volume{Name: v, State: "leading"}
			for i, n := range names[1:] {
				x.Standbys = append(x.Standbys, control.Standby{Node: n, State: "in-sync", LagMS: control.Count((now.Unix() + int64(i)) % 10)})
			}
			s.Volumes = append(s.Volumes, x)
		}
		for i, n := range names {
			s.Nodes = append(s.Nodes, control.Node{Name: n, State: "alive", Role: "standby", InSync: control.Yes, Links: []control.Link{{Name: "lan", Up: control.Yes}, {Name: "fast", Up: control.Yes}}})
			for _, o := range names[i+1:] {
				s.Pairs = append(s.Pairs, control.Pair{A: n, B: o, Links: []control.PairLink{{Name: "lan", Up: control.Yes}, {Name: "fast", Up: control.Yes}}})
			}
		}
		return s
	}
	return web.Serve(ctx, web.Options{Listen: []netip.AddrPort{netip.MustParseAddrPort(addr)}, Log: slog.New(slog.DiscardHandler), Metrics: metrics.Handler(status),
		Snapshot: func() web.Snapshot { return web.Snapshot{Status: status()} }})
}

// load is what clients do until ctx ends; it counts what they got.
type load struct {
	what string
	act  func(ctx context.Context, addr string, got *atomic.Int64)
}

func measure(ctx context.Context) error {
	fmt.Printf("| %d clients that | share of one CPU | answers or events in a second |\n|---|---|---|\n", clients)
	for _, l := range []load{
		{"do nothing", func(ctx context.Context, _ string, _ *atomic.Int64) { <-ctx.Done() }},
		{"follow the events", follow},
		{"load the page every second", func(ctx context.Context, addr string, got *atomic.Int64) { ask(ctx, addr, "/", time.Second, got) }},
		{"scrape the metrics every second", func(ctx context.Context, addr string, got *atomic.Int64) {
			ask(ctx, addr, "/metrics", time.Second, got)
		}},
		{"load the page as fast as they can", func(ctx context.Context, addr string, got *atomic.Int64) { ask(ctx, addr, "/", 0, got) }},
		{"connect as fast as they can", connect},
	} {
		if !strings.Contains(l.what, os.Getenv("ROWS")) {
			continue
		}
		if err := one(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

func one(ctx context.Context, l load) error {
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := free.Addr().String()
	if err := free.Close(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := exec.CommandContext(ctx, "/proc/self/exe", addr)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return err
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	var got atomic.Int64
	for range clients {
		all.Go(func() { l.act(ctx, addr, &got) })
	}
	time.Sleep(warm)
	before, was, at := cpu(server.Process.Pid), got.Load(), time.Now()
	time.Sleep(during)
	used, n, took := cpu(server.Process.Pid)-before, got.Load()-was, time.Since(at).Seconds()
	fmt.Printf("| %s | %.2f %% | %.0f |\n", l.what, 100*used.Seconds()/took, float64(n)/took)
	cancel()
	_ = server.Wait() // it was ended
	return nil
}

// cpu is what a process has used (proc(5): fields 14 and 15, in ticks of 10 ms).
func cpu(pid int) time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func follow(ctx context.Context, addr string, got *atomic.Int64) {
	for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/events", nil)
		if err != nil {
			return
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		for in := bufio.NewScanner(r.Body); in.Scan(); {
			if strings.HasPrefix(in.Text(), "event: stamp") {
				got.Add(1)
			}
		}
		_ = r.Body.Close()
	}
}

func ask(ctx context.Context, addr, path string, every time.Duration, got *atomic.Int64) {
	client := &http.Client{Transport: &http.Transport{}}
	for ; ctx.Err() == nil; time.Sleep(every) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			return
		}
		r, err := client.Do(req)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		if r.StatusCode == http.StatusOK {
			got.Add(1)
		}
	}
}

func connect(ctx context.Context, addr string, got *atomic.Int64) {
	for ctx.Err() == nil {
		c, err := net.DialTimeout("tcp4", addr, time.Second)
		if err != nil {
			continue
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if n, _ := c.Read(make([]byte, 12)); n == 12 {
			got.Add(1)
		}
		_ = c.Close()
	}
}
