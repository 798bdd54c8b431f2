package metrics

import (
	"slices"
	"time"

	"revolve/internal/control"
	"revolve/internal/failover/history"
)

// Render is the page of one status.
func Render(s control.Status, x process) []byte {
	p := &page{b: make([]byte, 0, 32<<10)}
	p.clusterMetrics(&s)
	p.nodeMetrics(s.Nodes)
	p.linkMetrics(s.Nodes)
	p.vipMetrics(&s)
	p.volumeMetrics(s.Volumes)
	p.trashMetrics(s.Volumes)
	p.proofMetrics(s.Volumes)
	p.standbyMetrics(s.Volumes)
	p.serviceMetrics(s.Services)
	p.failoverMetrics(&s.Failovers)
	p.rehearsalMetrics(s.Rehearsal)
	p.isolationMetrics(&s.Isolation)
	p.beatMetrics(&s.Beat)
	p.alarmMetrics(&s.Alarms)
	p.processMetrics(x)
	return p.b
}

// verdicts, the last is what a word counts as that is none of them.
func verdicts() []string {
	return []string{control.OK, control.Warning, control.Critical, control.Unknown}
}

func (p *page) clusterMetrics(s *control.Status) {
	p.family("info", gauge, "The node that says all this, and its cluster.")
	p.sample(1, "cluster", s.Cluster, "node", string(s.Node), "engine", s.Engine)
	p.family("status_timestamp_seconds", gauge, "When the status was taken that the metrics are made of.")
	p.when(s.AsOf)
	p.family("verdict", gauge, "1 for the verdict of revolve status on this node.")
	p.state(s.Verdict, verdicts())
	p.one("reasons", gauge, "Reasons why the verdict is not ok.", float64(len(s.Reasons)))
	p.one("term", gauge, "Term of the reign, or the highest seen.", float64(s.Term))
	p.family("master", gauge, "1 for the node that this one takes for the master; 0 everywhere: there is none, or it is not known.")
	for _, n := range s.Nodes {
		p.sample(float64(boolInt(string(n.Name) == s.Master)), "node", string(n.Name))
	}
	p.one("blocked", gauge, "1: the card of a silent node still answers for the VIPs, so no other node claims them.", float64(boolInt(s.Blocked)))
	p.one("frozen", gauge, "1: another engine left the VIPs here although a higher term reigns elsewhere.", float64(boolInt(s.Frozen)))
	p.one("clients_known", gauge, "Connections of clients with the master that this standby knows.", float64(s.ClientsKnown))
	p.one("generation", gauge, "Changes of the cluster's members and keys that this node has.", float64(s.Generation))
	p.family("certificate_expiry_timestamp_seconds", gauge, "When the certificate of this node expires.")
	p.when(s.CertificateUntil)
}

func nodeStates() []string { return []string{"alive", "suspect", "dead", "off", "unknown"} }

func nodeRoles() []string { return []string{"listening", "standby", "master", "limbo", "unknown"} }

func (p *page) nodeMetrics(nodes []control.Node) {
	each := func(name, help string, write func(n *control.Node, label ...string)) {
		p.family(name, gauge, help)
		for i := range nodes {
			write(&nodes[i], "node", string(nodes[i].Name))
		}
	}
	each("node_state", "1 for the state of the node; off is normal for one on demand.", func(n *control.Node, l ...string) { p.state(n.State, nodeStates(), l...) })
	each("node_state_since_timestamp_seconds", "Since when the node is in its state.", func(n *control.Node, l ...string) { p.when(n.Since, l...) })
	each("node_role", "1 for the role of the node.", func(n *control.Node, l ...string) {
		for _, role := range nodeRoles() {
			p.sample(float64(boolInt(role == n.Role)), "node", string(n.Name), "role", role)
		}
	})
	each("node_eligible", "1: the node may become master now. No sample: not known.", func(n *control.Node, l ...string) { p.tri(n.Eligible, l...) })
	each("node_in_sync", "1: the node has everything. No sample: not known.", func(n *control.Node, l ...string) { p.tri(n.InSync, l...) })
	each("node_hold", "1: no automatic moves were ordered on the node.", func(n *control.Node, l ...string) { p.tri(n.Hold, l...) })
	each("node_maintenance", "1: the node stepped aside.", func(n *control.Node, l ...string) { p.tri(n.Maintenance, l...) })
}

func (p *page) linkMetrics(nodes []control.Node) {
	each := func(name, help string, write func(l *control.Link, label ...string)) {
		p.family(name, gauge, help)
		for i := range nodes {
			for j := range nodes[i].Links {
				l := &nodes[i].Links[j]
				write(l, "node", string(nodes[i].Name), "link", string(l.Name))
			}
		}
	}
	quality := func(name, help string, value func(q *control.Quality) float64) {
		each(name, help, func(l *control.Link, label ...string) {
			if l.Quality != nil {
				p.sample(value(l.Quality), label...)
			}
		})
	}
	each("link_up", "1: heard in both directions; of this node itself: carrier. No sample: not known.", func(l *control.Link, label ...string) { p.tri(l.Up, label...) })
	each("link_limit_bytes_per_second", "How much this node may send to standbys over its own link now. No sample: no limit.", func(l *control.Link, label ...string) {
		if l.Limit > 0 {
			p.sample(float64(l.Limit), label...)
		}
	})
	quality("link_heartbeats_heard", "Heartbeats that came in over the link in the last one to two minutes.", func(q *control.Quality) float64 { return float64(q.Heard) })
	quality("link_loss_ratio", "Share of the heartbeats that were lost in the last one to two minutes, outside of silences.", func(q *control.Quality) float64 { return q.Loss })
	quality("link_silences", "Silences in the last one to two minutes that were longer than the time after which a node counts as dead.", func(q *control.Quality) float64 { return float64(q.Silences) })
	quality("link_jitter_seconds", "Smoothed jitter of the heartbeats (RFC 3550).", func(q *control.Quality) float64 { return q.Jitter / 1000 })
	quality("link_gap_p999_seconds", "99.9 % of the gaps between two heartbeats were no longer, in the last one to two minutes.", func(q *control.Quality) float64 { return q.Gap / 1000 })
	quality("link_gap_max_seconds", "Longest gap between two heartbeats in the last one to two minutes.", func(q *control.Quality) float64 { return q.GapMax / 1000 })
}

func (p *page) vipMetrics(s *control.Status) {
	p.family("vip_held", gauge, "1 for the node that holds the address; 0 everywhere: nobody does, or it is not known.")
	for _, v := range s.VIPs {
		for _, n := range s.Nodes {
			held := v.Holder == string(n.Name) || slices.Contains(v.Holders, n.Name)
			p.sample(float64(boolInt(held)), "address", v.Address, "node", string(n.Name))
		}
	}
	p.family("vip_duplicates", gauge, "Cards that have an address and are no node's.")
	for _, v := range s.VIPs {
		n := 0
		for _, d := range s.Duplicates {
			n += boolInt(sameAddress(v.Address, d.Address))
		}
		p.sample(float64(n), "address", v.Address)
	}
}

func (p *page) serviceMetrics(services []control.Service) {
	p.family("service_state", gauge, "1 for the state of the service on this node.")
	for _, s := range services {
		p.state(s.State, []string{"starting", "healthy", "ill", "unknown"}, "service", s.Name)
	}
	p.family("service_required", gauge, "1: a node on which it is ill does not lead while another can.")
	for _, s := range services {
		p.sample(float64(boolInt(s.Required)), "service", s.Name)
	}
	p.family("service_state_since_timestamp_seconds", gauge, "Since when the service is in its state.")
	for _, s := range services {
		p.when(s.Since, "service", s.Name)
	}
	p.family("service_restarts_total", counter, "Restarts of the service since the agent's start.")
	for _, s := range services {
		p.sample(float64(s.Restarts), "service", s.Name)
	}
}

func (p *page) failoverMetrics(f *control.Failovers) {
	p.family("failovers_total", counter, "Reigns that this node began since its agent's start, by what ended the reign before.")
	for _, cause := range history.Causes() {
		p.sample(float64(f.ByCause[cause]), "cause", cause)
	}
	p.one("failover_records", gauge, "Records of failovers that this node keeps.", float64(f.Known))
	p.family("last_failover_timestamp_seconds", gauge, "When the last reign began that this node knows of.")
	if f.Last != nil {
		p.when(f.Last.At)
	}
	p.family("last_failover_rto_seconds", gauge, "From the last heartbeat, or the release, of the old master to the new one's first announcement.")
	if f.Last != nil && f.Last.RTO != nil {
		p.sample(*f.Last.RTO / 1000)
	}
	p.family("last_failover_rpo_seconds", gauge, "How long before the last sign of the old master everything was with the new one.")
	p.lastVolumes(f, func(v *history.Volume) *float64 { return v.RPO }, 1e-3)
	p.family("last_failover_missing_changes", gauge, "Changes that the old master had told of and the new one did not have.")
	p.lastVolumes(f, func(v *history.Volume) *float64 { return asFloat(v.Missing) }, 1)
	p.family("last_failover_kept_aside_changes", gauge, "Changes that the old master brought back and no other node had; they are kept aside.")
	p.lastVolumes(f, func(v *history.Volume) *float64 { return asFloat(v.KeptAside) }, 1)
}

func (p *page) lastVolumes(f *control.Failovers, value func(v *history.Volume) *float64, scale float64) {
	if f.Last == nil {
		return
	}
	for i := range f.Last.Volumes {
		if v := value(&f.Last.Volumes[i]); v != nil {
			p.sample(*v*scale, "volume", string(f.Last.Volumes[i].Name))
		}
	}
}

func asFloat[N int | uint64](n *N) *float64 {
	if n == nil {
		return nil
	}
	f := float64(*n)
	return &f
}

func (p *page) rehearsalMetrics(r *history.Rehearsal) {
	p.family("last_rehearsal_timestamp_seconds", gauge, "When the last rehearsal began that this node knows of.")
	if r != nil {
		p.when(r.Began)
	}
	p.family("last_rehearsal_success", gauge, "1: the last rehearsal came to its end; 0: it was aborted or refused. No sample: it runs, or there was none.")
	if r != nil && r.Result != history.Running {
		p.sample(float64(boolInt(r.Result == history.Done)))
	}
}

func (p *page) isolationMetrics(i *control.Isolation) {
	p.family("isolated", gauge, "1: the policy keeps this node from serving, because it hears no other one. No sample: not known.")
	p.tri(i.Isolated)
	p.family("patience_ratio", gauge, "Silence is borne so many times as long, because roles changed too often. No sample: not known.")
	p.count(i.Patience, 1)
	p.family("reference_up", gauge, "1: the reference's card answers this node. No sample: not known.")
	for _, r := range i.References {
		p.tri(r.Up, "address", r.Address)
	}
	w := i.Witness
	p.family("witness_state", gauge, "1 for how the witness answers this node.")
	if w != nil {
		p.state(w.State, []string{"reachable", "refusing", "silent", "unknown"})
	}
	p.family("witness_answer_seconds", gauge, "From the question to the witness's last answer.")
	if w != nil && w.Took > 0 {
		p.sample(w.Took / 1000)
	}
	p.family("witness_late_answers_total", counter, "Answers of the witness since the agent's start that came too late to count.")
	if w != nil {
		p.sample(float64(w.Late))
	}
}

func (p *page) beatMetrics(b *control.Beat) {
	p.one("beat_real_time", gauge, "1: the process that beats has real-time priority.", float64(boolInt(b.RealTime)))
	p.one("beat_refused", gauge, "Privileges that the process that beats asked for and did not get.", float64(len(b.Refused)))
	p.one("beat_late_max_seconds", gauge, "Latest that the process that beats woke up.", b.LateMax/1000)
	p.one("beat_late_p99_seconds", gauge, "99 % of its wake-ups were no later.", b.LateP99/1000)
	p.family("heartbeat_interval_seconds", gauge, "Between two heartbeats, in the profile in force.")
	if b.Every > 0 {
		p.sample(b.Every * float64(time.Millisecond) / float64(time.Second))
	}
}
