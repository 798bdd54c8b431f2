package page

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
	"revolve/internal/vm"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
	"revolve/internal/web"
)

// house is a page server that shows what a test says.
type house struct {
	t    *testing.T
	url  string
	addr netip.AddrPort
	stop func()

	orders web.Orders // nil: none are taken
	state  string

	mu    sync.Mutex
	shown web.Snapshot
}

// openHouse serves a snapshot on the loopback interface, until it is stopped.
func openHouse(t *testing.T, s web.Snapshot) *house { return openHouseFor(t, s, nil, "") }

// openHouseFor takes orders as well; the state directory has the token.
func openHouseFor(t *testing.T, s web.Snapshot, orders web.Orders, state string) *house {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	addr := netip.MustParseAddrPort(l.Addr().String())
	must(t, l.Close())
	h := &house{t: t, url: fmt.Sprintf("http://%s/", addr), addr: addr, shown: s, orders: orders, state: state}
	h.again()
	return h
}

// again serves at the same address as before.
func (h *house) again() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- web.Serve(ctx, web.Options{Listen: []netip.AddrPort{h.addr}, Snapshot: h.snapshot, Orders: h.orders, State: h.state, Log: slog.New(slog.DiscardHandler)})
	}()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
	})
	h.t.Cleanup(h.stop)
	for end := time.Now().Add(answerWithin); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp4", h.addr.String()); err == nil {
			must(h.t, c.Close())
			return
		} else if time.Now().After(end) {
			h.t.Fatal(err)
		}
	}
}

func (h *house) snapshot() web.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shown
}

func (h *house) show(s web.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shown = s
}

// noon is when the snapshots of the tests are, so that pictures stay as they are.
func noon() time.Time { return time.Date(2026, 11, 21, 12, 0, 7, 0, time.UTC) }

// calm is a cluster in which all is well.
func calm(names ...cluster.NodeID) web.Snapshot {
	now := noon()
	s := control.Status{AsOf: now, Cluster: "homelab", Node: names[0], Term: 42, Master: string(names[0]), Verdict: control.OK, Reasons: []string{},
		VIPs: []control.VIP{{Address: "10.77.0.200/24", Holder: string(names[0])}, {Address: "fd77::200/64", Holder: string(names[0])}}}
	home := control.Volume{Name: "home", Path: "/srv/home", State: "leading", Position: cluster.Position{Term: 42, Seq: 184213}, Trash: control.Trash{Kept: 41, Bytes: 214 << 20},
		Proof: &control.ProofStatus{Began: now.Add(-9 * time.Hour), Ended: now.Add(-8 * time.Hour), Files: 214_880, Bytes: 391 << 30}}
	zones := control.Volume{Name: "zones", Path: "/srv/zones", State: "leading", Position: cluster.Position{Term: 42, Seq: 310}, Proof: &control.ProofStatus{Began: now.Add(-8 * time.Hour), Ended: now.Add(-8 * time.Hour), Files: 37, Bytes: 81 << 10}}
	for i, n := range names {
		x := control.Node{Name: n, State: "alive", Since: now.Add(-76 * time.Hour), Role: "standby", Eligible: control.Yes, InSync: control.Yes, Class: "in-sync",
			Links: []control.Link{{Name: "fast", Up: control.Yes}, {Name: "lan", Up: control.Yes}}}
		if i == 0 {
			x.Role = "master"
		} else {
			x.Links[0].Quality = &control.Quality{Heard: 2400, Jitter: 0.3, Gap: 54 + float64(i)}
			for _, v := range []*control.Volume{&home, &zones} {
				v.Standbys = append(v.Standbys, control.Standby{Node: n, State: "in-sync", Since: now.Add(-75 * time.Hour), LagMS: control.Count(2 + 3*i), Position: v.Position, Proven: now.Add(-8 * time.Hour)})
			}
		}
		s.Nodes = append(s.Nodes, x)
		for _, o := range names[i+1:] {
			s.Pairs = append(s.Pairs, control.Pair{A: n, B: o, Links: []control.PairLink{{Name: "fast", Up: control.Yes}, {Name: "lan", Up: control.Yes}}})
		}
	}
	s.Volumes = []control.Volume{home, zones}
	s.Services = []control.Service{{Name: "dns", How: "unit named.service", State: "healthy", Since: now.Add(-76 * time.Hour), Required: true}, {Name: "nfs", How: "unit nfs-server.service", State: "healthy", Since: now.Add(-76 * time.Hour)}}
	return web.Snapshot{Status: s, Records: records(names, now), VMs: machines(names, now)}
}

// machines are two: one runs on the first node, one is off; every node has points of both.
func machines(names []cluster.NodeID, now time.Time) *web.Machines {
	m := &web.Machines{At: now.Add(-12 * time.Second), Wanted: []web.Wanted{{Name: "dc1", Nodes: names}, {Name: "mail", Nodes: names}}}
	for i, n := range names {
		v := vm.View{Node: n}
		for j, w := range m.Wanted {
			s := vm.Seen{VM: w.Name}
			if i == 0 {
				s.State = []libvirt.State{libvirt.Running, libvirt.Off}[j]
			}
			for k := range 4 - j {
				p := points.Record{Point: points.Point{Taken: now.Add(-time.Duration(9+168*k) * time.Hour), Level: points.Level([]string{"freeze", "shutdown"}[j])}}
				if i > 0 {
					p.Here.Proof = points.Proof{Samples: 64, Bytes: 64 << 20}
				}
				s.Points = append(s.Points, p)
			}
			v.VMs = append(v.VMs, s)
		}
		m.Views = append(m.Views, v)
	}
	return m
}

// records are three failovers: a power cut, a planned switch, the start.
func records(names []cluster.NodeID, now time.Time) []history.Record {
	a, b := names[0], names[len(names)-1]
	at := func(base time.Time, ms float64) *time.Time {
		t := base.Add(time.Duration(ms * float64(time.Millisecond)))
		return &t
	}
	n, zero, none, two, rpo := uint64(2), uint64(0), 0, 2, 12.0
	cutAt, switched := now.Add(-76*time.Hour), now.Add(-20*24*time.Hour)
	list := []history.Record{
		{Term: 42, Master: a, From: b, FromTerm: 41, Cause: history.CauseSilence, At: *at(cutAt, 199),
			Times:   history.Times{Heard: &cutAt, Suspect: at(cutAt, 110), Claim: at(cutAt, 187), Address: at(cutAt, 199), Announced: at(cutAt, 201), Packet: at(cutAt, 214), Answer: at(cutAt, 222)},
			Volumes: []history.Volume{{Name: "home", Missing: &n, RPO: &rpo, KeptAside: &two}, {Name: "zones", Missing: &zero, RPO: new(float64), KeptAside: &none}}},
		{Term: 41, Master: b, From: a, FromTerm: 40, Cause: history.CauseSwitch, At: *at(switched, 7), Ordered: &history.Order{Why: history.WhyMaintenance, Node: a},
			Times:   history.Times{Heard: &switched, Released: at(switched, 2), Claim: at(switched, 6), Address: at(switched, 8), Announced: at(switched, 9), Packet: at(switched, 12)},
			Volumes: []history.Volume{{Name: "home", Missing: &zero, RPO: new(float64), KeptAside: &none}}},
		{Term: 40, Master: a, Cause: history.CauseStart, At: now.Add(-40 * 24 * time.Hour), Volumes: []history.Volume{}},
	}
	for i := range list {
		list[i].Measure()
	}
	return list
}

// troubled is a cluster in which one node is dead, one catches up, and things wait for a person.
func troubled() web.Snapshot {
	s := calm("attic", "cellar", "office", "garage")
	st := &s.Status
	st.Verdict = control.Critical
	st.Reasons = []string{
		"volume zones is paused here: its directory is empty, and was not; look: `ls /srv/zones`; go on: `revolve volume resume zones`",
		"volume home keeps 2 divergent changes aside; see `revolve divergent list`",
		"volume home: office is catching-up", "volume home: garage is unknown", "node garage is dead", "link fast of office is down"}
	dead := &st.Nodes[3]
	dead.State, dead.Role, dead.Eligible, dead.InSync, dead.Since = "dead", "unknown", control.NotKnown, control.NotKnown, st.AsOf.Add(-11*time.Minute)
	for i := range dead.Links {
		dead.Links[i].Up, dead.Links[i].Quality = control.No, nil
	}
	st.Nodes[2].Links[0].Up, st.Nodes[2].InSync, st.Nodes[2].Eligible, st.Nodes[2].WhyNot = control.No, control.No, control.No, "it is stale"
	for i := range st.Volumes {
		v := &st.Volumes[i]
		v.Standbys[2] = control.Standby{Node: "garage", State: "unknown", LagMS: -1, Pending: -1, Owed: -1}
		v.Standbys[1].Since = st.AsOf.Add(-3 * time.Minute)
	}
	st.Volumes[0].Divergent = 2
	office := &st.Volumes[0].Standbys[1]
	office.State, office.LagMS, office.Pending, office.Proven = "catching-up", 184_000, 20_411, time.Time{}
	office.Progress = &control.Progress{Files: 812, FilesTotal: 1200, Bytes: 3 << 30, BytesTotal: 5 << 30, BytesPerSecond: 96 << 20, LeftSeconds: 21}
	st.Volumes[1].State, st.Volumes[1].Problem = "paused", "its directory is empty, and was not"
	st.Volumes[1].Standbys[0].State, st.Volumes[1].Standbys[0].LagMS = "lagging", 1300
	for i, p := range st.Pairs {
		for k := range p.Links {
			switch {
			case p.B == "garage" && p.A == "attic":
				st.Pairs[i].Links[k].Up, st.Pairs[i].Links[k].WhyNot = control.No, "garage is dead"
			case p.B == "garage":
				st.Pairs[i].Links[k].Up, st.Pairs[i].Links[k].WhyNot = control.NotKnown, "garage is dead"
			case p.B == "office" && k == 0:
				st.Pairs[i].Links[k].Up, st.Pairs[i].Links[k].WhyNot = control.No, "they do not hear each other"
			}
		}
	}
	s.VMs.Views, s.VMs.Silent = s.VMs.Views[:3], []cluster.NodeID{"garage"}
	s.VMs.Views[1].VMs[0].Points = nil
	st.Services[1].State, st.Services[1].LastError, st.Services[1].Restarts = "ill", "connection refused", 3
	return s
}
