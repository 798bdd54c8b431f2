package agent

import (
	"context"
	"time"

	"revolve/internal/metrics"
	"revolve/internal/web"
)

// pageRecords is how many failovers the status page is given: more than it shows.
const pageRecords = 20

// page serves the status page, and the metrics beside it.
func (a *Agent) page(ctx context.Context) error { return web.Serve(ctx, a.pageOptions()) }

func (a *Agent) pageOptions() web.Options {
	cfg := a.o.Config
	o := web.Options{Listen: cfg.Web.Listen, Names: cfg.Web.Names, Log: a.o.Log, Metrics: metrics.Handler(backend{a}.Status), Orders: backend{a}, State: a.o.State, Cluster: cfg.Cluster, Node: a.o.Node}
	for _, v := range cfg.VIPs {
		o.VIPs = append(o.VIPs, v.Prefix.Addr())
	}
	o.Snapshot = func() web.Snapshot {
		list := a.history.List()
		return web.Snapshot{Status: backend{a}.Status(), Records: list[:min(len(list), pageRecords)], VMs: a.machines.show(time.Now())}
	}
	return o
}
