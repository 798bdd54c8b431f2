package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/election"
	"revolve/internal/failover/history"
	"revolve/internal/mirror"
)

// backend answers the local API.
type backend struct{ a *Agent }

// Switch orders a planned move. One away from the master is of the master that was known first: if another one leads
// when it is tried again, it is fulfilled, and that one is left where it is.
func (b backend) Switch(ctx context.Context, to cluster.NodeID) (cluster.NodeID, error) {
	o := orderFrame{What: "switch", To: to, By: b.a.typed(ctx, history.WhySwitch)}
	var from cluster.NodeID
	return patiently(ctx, func() (cluster.NodeID, error) {
		r := b.a.current()
		if from = cmp.Or(from, r.Master); to == "" && r.Master != "" && r.Master != from {
			return r.Master, nil
		}
		return b.a.doAt(ctx, r, o)
	})
}

// Sync waits for the barrier.
func (b backend) Sync(ctx context.Context) error {
	o := orderFrame{What: "sync"}
	if at, ok := ctx.Deadline(); ok {
		o.Within = control.AnswerBefore(time.Until(at)) // the master gives up first: it knows what it waits for
	}
	_, err := b.a.do(ctx, o)
	return err
}

// Divergent lists what is kept aside on this node.
func (b backend) Divergent() ([]control.Divergent, error) {
	out := []control.Divergent{}
	for _, v := range b.a.o.Config.Volumes {
		list, err := b.a.engine.Divergent(v.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, b.a.divergentOf(b.a.o.Node, v.Name, list)...)
	}
	return out, nil
}

// masterNone stands for a name where there is no master.
const masterNone = "none"

// reportAge is how old the beat process' last report may be before what it says counts as unknown.
const reportAge = 2 * time.Second

// Status puts the reports together.
func (b backend) Status() control.Status {
	a := b.a
	a.mu.Lock()
	r, at := a.report, a.reported
	a.mu.Unlock()
	known := fresh(at)
	if !known {
		r = beat.Report{SeenTerm: r.SeenTerm}
	}
	s := control.Status{
		AsOf: time.Now(), Cluster: a.o.Config.Cluster, Node: a.o.Node, Term: max(r.Reign.Term, r.SeenTerm), Master: "unknown",
		Reasons: []string{}, Nodes: []control.Node{}, VIPs: []control.VIP{}, Duplicates: []control.Duplicate{}, Volumes: []control.Volume{}, Services: a.serviceStatus(),
		Beat:      control.Beat{RealTime: r.RealTime, Refused: append([]string{}, r.Refused...), LateMax: ms(r.LateMax), LateP99: ms(r.LateP99), Every: a.heartbeatMS()},
		Failovers: a.failoverStatus(), ClientsKnown: a.clients.known(a.o.Node, time.Now()), Rehearsal: a.rehearsalStatus(),
	}
	switch {
	case r.Master != "":
		s.Master = string(r.Master)
	case known:
		s.Master = masterNone
	}
	seen := a.looks.look()
	reports := seen.volumes
	s.Looked, s.Started = seen.at, a.since
	for _, n := range a.cfg().Nodes {
		s.Nodes = append(s.Nodes, a.nodeStatus(n.Name, r, reports))
	}
	s.Pairs = pairs(a.cfg().Nodes, s.Nodes, r, a.o.Node)
	for _, v := range a.o.Config.VIPs {
		s.VIPs = append(s.VIPs, a.vipStatus(v, r))
	}
	for _, d := range r.Duplicates {
		s.Duplicates = append(s.Duplicates, control.Duplicate{Address: d.Addr.String(), Link: d.Link, MAC: d.MAC, Since: d.Since})
	}
	for _, v := range reports {
		s.Volumes = append(s.Volumes, a.volumeStatus(v))
	}
	s.Generation, s.CertificateUntil = a.generation(), a.id.NotAfter()
	s.Engine, s.Frozen, s.Blocked = a.o.Config.Failover.Engine, r.Frozen, r.Blocked
	s.Isolation = a.isolationStatus(&r, known)
	s.Disks, s.Copies, s.Alarms = a.disks.Why(), a.copyStatus(s.AsOf), a.alarmStatus(s.AsOf)
	a.judge(&s, seen)
	return s
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func holder(addr string, r beat.Report, self cluster.NodeID) string {
	for _, v := range r.VIPs {
		if v.Addr.String() == addr && v.HeldHere {
			return string(self)
		}
	}
	switch {
	case r.Master == "" || r.Master == self:
		return "none"
	}
	return string(r.Master)
}

func (a *Agent) nodeStatus(name cluster.NodeID, r beat.Report, volumes []mirror.Report) control.Node {
	cfg, known := a.cfg().Node(name)
	if !known { // removed this moment
		cfg = &config.Node{Name: name}
	}
	n := control.Node{Name: name, State: string(beat.PeerUnknown), Role: "unknown", Class: "unknown", Since: a.since, OnDemand: a.mayBeOff(name), Links: []control.Link{}}
	if name == a.o.Node {
		n.State, n.Role, n.Since, n.Class = string(beat.PeerAlive), r.Role.String(), a.since, r.Class.String()
		n.InSync = control.Known(r.Class == cluster.InSync)
		ordered := a.record.memory()
		n.Hold, n.Maintenance = control.Known(ordered.Hold), control.Known(ordered.Maintenance)
		if s := a.standing.Load(); s != nil && (a.ill() || ordered.Maintenance) { // then its class is not that of its data
			n.InSync = control.Known(s.class == cluster.InSync)
		}
		n.Eligible, n.WhyNot = eligible(cfg, r.Class, a.ill(), ordered.Maintenance)
		for _, l := range r.Links {
			n.Links = append(n.Links, control.Link{Name: l.ID, Up: control.Known(l.Bound && l.Carrier), Limit: a.bandwidth(l.ID, time.Now())})
		}
		return n
	}
	i := slices.IndexFunc(r.Peers, func(p beat.PeerReport) bool { return p.Node == name })
	if i < 0 {
		return n
	}
	p := r.Peers[i]
	n.State, n.Since = string(p.State), p.Since
	if a.mayBeOff(name) && p.State != beat.PeerAlive && p.State != beat.PeerSuspect {
		n.State = stateOff
	}
	for _, l := range p.Links {
		up := control.Known(l.Heard && l.HearsMe)
		if p.State == beat.PeerUnknown {
			up = control.NotKnown
		}
		n.Links = append(n.Links, control.Link{Name: l.ID, Up: up, Quality: qualityOf(l.Quality)})
	}
	if p.State == beat.PeerAlive || p.State == beat.PeerSuspect {
		n.Role, n.Class = p.Role.String(), p.Class.String()
		n.InSync = inSync(p, r.Role == cluster.Master, volumes)
		n.Hold, n.Maintenance = control.Known(p.Hold), control.Known(p.Maintenance)
		n.Eligible, n.WhyNot = eligible(cfg, p.Class, p.Ill, p.Maintenance)
	}
	return n
}

// qualityOf is nil where nothing was heard.
func qualityOf(q beat.Quality) *control.Quality {
	if q.Heard == 0 {
		return nil
	}
	return &control.Quality{Heard: q.Heard, Loss: float64(q.Lost) / float64(q.Heard+q.Lost), Silences: q.Silences, Jitter: ms(q.Jitter), Gap: ms(q.Gap), GapMax: ms(q.GapMax)}
}

// heartbeatMS is the interval of the profile in force.
func (a *Agent) heartbeatMS() float64 {
	timers, _ := election.Profile(a.o.Config.Failover.Profile)
	return ms(time.Duration(timers.Heartbeat))
}

// whyIll is why a node is not eligible whose beacons say that it is ill.
const whyIll = "a required service or a disk is ill there"

// eligible says whether a node may become or stay master now, and if not, why.
func eligible(cfg *config.Node, class cluster.Class, ill, maintenance bool) (control.Tri, string) {
	why := ""
	switch {
	case !cfg.Candidate:
		why = "it is no candidate"
	case maintenance:
		why = "it is in maintenance"
	case ill:
		why = whyIll
	case class != cluster.InSync:
		why = "it is " + class.String()
	}
	return control.Known(why == ""), why
}

// inSync is whether a node that is heard has what the master has. What it says of itself is of the
// last word of its agent: one that thaws says for some moments what was so before. The master knows better.
func inSync(p beat.PeerReport, leading bool, volumes []mirror.Report) control.Tri {
	switch {
	case p.Class == cluster.InSync && leading, (p.Ill || p.Maintenance) && p.Class < cluster.InSync: // the latter's class is not that of its data
		return inSyncAsTold(p.Node, volumes)
	}
	return control.Known(p.Class == cluster.InSync)
}

// inSyncAsTold is what the master says of a node's volumes.
func inSyncAsTold(name cluster.NodeID, volumes []mirror.Report) control.Tri {
	all := control.Yes
	for _, v := range volumes {
		i := slices.IndexFunc(v.Standbys, func(s mirror.Standby) bool { return s.Node == name })
		switch {
		case i < 0:
			return control.NotKnown
		case v.Standbys[i].State != "in-sync":
			all = control.No
		}
	}
	return all
}

// serviceStatus is how the services are on this node.
func (a *Agent) serviceStatus() []control.Service {
	out := []control.Service{}
	for _, r := range a.daemon.Reports() {
		out = append(out, control.Service{Name: r.Name, How: r.How, State: string(r.State), Since: r.Since, Required: r.Required, LastError: r.LastError, Restarts: r.Restarts})
	}
	return out
}

func (a *Agent) volumeStatus(r mirror.Report) control.Volume {
	v := control.Volume{
		Name: r.Name, Path: r.Path, Problem: r.Problem, Position: r.Position, Owed: r.Owed, Divergent: r.Divergent, Alarm: r.Alarm, Trash: trashOf(r),
		Watcher: r.Backend, AsOf: r.AsOf, Standbys: []control.Standby{}, Refused: r.Apply.ChownRefused, NoXattrs: r.Apply.XattrRefused, NoNodes: r.Apply.NodesRefused,
		NoLinks: r.Apply.LinksRefused, State: "waiting",
	}
	if h := a.hooks[r.Name]; h != nil {
		v.OnChange = h.Failure()
	}
	switch {
	case r.Paused != nil:
		v.State, v.Paused = "paused", (*control.Pause)(r.Paused)
	case r.Problem != "":
		v.State = "broken"
	case r.Leading:
		v.State = "leading"
	case r.Up:
		v.State = "following"
	}
	v.Proof = proofStatus(r.Proof) // not asked of the volume: it may wait for its disk
	if r.Live.Bound > 0 {
		v.Live = &control.LiveSet{Files: r.Live.Files, Bound: r.Live.Bound.Seconds()}
	}
	if e := r.Events; e.Raw > 0 {
		v.Events = &control.Events{Read: e.Raw, Foreign: e.Foreign, Own: e.Own, Ignored: e.Ignored, Overflows: e.Overflows}
	}
	master := a.o.Node
	if !r.Leading {
		master = r.Master
	}
	for _, n := range a.cfg().Nodes {
		if n.Name == master {
			continue
		}
		s := control.Standby{Node: n.Name, State: "unknown", LagMS: -1, Pending: -1, Owed: -1}
		i := slices.IndexFunc(r.Standbys, func(x mirror.Standby) bool { return x.Node == n.Name })
		if i >= 0 && (r.Leading && time.Since(r.AsOf) < lookOld || time.Since(r.AsOf) < reportAge) {
			x := r.Standbys[i]
			s = control.Standby{Node: n.Name, State: x.State, Since: x.Since, LagMS: control.Count(x.LagMS), LagP50: x.LagP50, LagP99: x.LagP99, Pending: control.Count(x.Pending),
				Owed: control.Count(x.Owed), Position: x.Position, Absent: x.Absent,
				Sample: x.Sample, Divergent: x.Divergent, Alarm: x.Alarm, Progress: progressOf(x.Progress), Proven: x.Proven}
			if x.Restless != nil {
				s.Restless = &control.Restless{Files: x.Restless.Files, Path: x.Restless.Path, Since: x.Restless.Since}
			}
		}
		v.Standbys = append(v.Standbys, s)
	}
	return v
}

func progressOf(p *mirror.Progress) *control.Progress {
	if p == nil {
		return nil
	}
	return &control.Progress{Began: p.Began, Names: p.Names, Files: p.Files, FilesTotal: control.Count(p.FilesTotal), Bytes: p.Bytes, BytesTotal: control.Count(p.BytesTotal),
		Changes: p.Changes, ChangesTotal: control.Count(p.ChangesTotal), BytesPerSecond: p.BytesPerSecond, LeftSeconds: control.Count(p.LeftSeconds)}
}

// stateOff is the state of a node that is on demand and not heard: nothing to worry about.
const stateOff = "off"

// mayBeOff reports whether being off is a normal state of the node.
func (a *Agent) mayBeOff(name cluster.NodeID) bool {
	cfg, known := a.cfg().Node(name)
	return known && cfg.Power.Mode == "on-demand"
}

// judge gives the verdict and its reasons, worst first.
func (a *Agent) judge(s *control.Status, seen sight) {
	volumes := seen.volumes
	var critical, warning []string
	if s.Master == control.Unknown {
		warning = append(warning, "the election is not heard: who is master is unknown")
	}
	critical = append(append(critical, a.judgeHolders(s)...), duplicateText(s.Duplicates, s.AsOf)...)
	if s.Blocked {
		critical = append(critical, fmt.Sprintf("heartbeats are blocked: a silent node's card still answers for the addresses, so nobody else takes them; look for a firewall (UDP port %d) or a hanging beat process on the nodes that are dead below", a.o.Config.Port))
	}
	c, w := a.judgeServices(s)
	critical, warning = append(critical, c...), append(warning, w...)
	c, w = a.judgeIsolation(s)
	critical, warning = append(critical, c...), append(warning, w...)
	off := map[cluster.NodeID]bool{}
	for _, n := range s.Nodes {
		off[n.Name] = n.State == stateOff
	}
	warning = append(warning, unseenText(s)...)
	for i := range s.Volumes {
		c, w = judgeVolume(s, &s.Volumes[i], off, volumes)
		critical, warning = append(critical, c...), append(warning, w...)
	}
	warning = append(append(warning, orderedText(s.Nodes)...), rehearsalText(s)...)
	warning = append(append(warning, proofReasons(s.Volumes)...), a.membership(seen.kept)...)
	warning = append(append(warning, copyReasons(s)...), alarmReasons(s)...)
	warning = append(warning, a.restReasons()...)
	for _, n := range s.Nodes {
		if n.State != "alive" && n.State != stateOff {
			warning = append(warning, fmt.Sprintf("node %s is %s", n.Name, n.State))
		}
		for _, l := range n.Links {
			if l.Up == control.No && n.State == "alive" {
				warning = append(warning, fmt.Sprintf("link %s of %s is down", l.Name, n.Name))
			}
		}
	}
	s.Reasons = append(s.Reasons, append(critical, warning...)...)
	switch {
	case len(critical) > 0:
		s.Verdict = control.Critical
	case s.Master == "unknown":
		s.Verdict = control.Unknown
	case len(warning) > 0:
		s.Verdict = control.Warning
	default:
		s.Verdict = control.OK
	}
}

// unseenText says that what is told of the volumes is old.
func unseenText(s *control.Status) []string {
	switch {
	case s.Looked.IsZero():
		return []string{fmt.Sprintf("the volumes were not seen yet, and the agent started %s ago", s.AsOf.Sub(s.Started).Round(time.Second))}
	case s.AsOf.Sub(s.Looked) < lookOld:
		return nil
	}
	return []string{fmt.Sprintf("the volumes were seen %s ago, and how they are now is not known: a disk, or something else, holds whoever looks at them; look at dmesg", s.AsOf.Sub(s.Looked).Round(time.Second))}
}

// judgeVolume gives the reasons that lie in one volume; off are the nodes that may be off and are.
func judgeVolume(s *control.Status, v *control.Volume, off map[cluster.NodeID]bool, volumes []mirror.Report) (critical, warning []string) {
	switch {
	case v.Paused != nil:
		critical = append(critical, fmt.Sprintf("volume %s is paused here: %s; look: %s; go on: %s", v.Name, v.Paused.Why, v.Paused.Look, v.Paused.GoOn))
	case v.Problem != "":
		critical = append(critical, fmt.Sprintf("volume %s does not work here: %s", v.Name, v.Problem))
	}
	if v.Alarm != "" {
		warning = append(warning, alarmReason(v.Name, s.Node, v.Alarm))
	}
	if v.OnChange != "" {
		warning = append(warning, fmt.Sprintf("volume %s: %s", v.Name, v.OnChange))
	}
	if v.Divergent > 0 {
		warning = append(warning, fmt.Sprintf("volume %s keeps %d divergent changes aside; see `revolve divergent list`", v.Name, v.Divergent))
	}
	for _, sb := range v.Standbys {
		if sb.Node != s.Node { // of itself this node has spoken above
			warning = append(warning, saidReasons(v.Name, sb)...)
		}
		if sb.Absent > 0 {
			warning = append(warning, fmt.Sprintf("volume %s: %d names on %s were not found on the master after a scan; they are kept (deletion is paused); look: %s; go on: revolve volume resume %s, on the master",
				v.Name, sb.Absent, sb.Node, strings.Join(sb.Sample, ", "), v.Name))
		}
		if sb.State != "in-sync" && !off[sb.Node] && s.Master != "none" && s.Master != "unknown" {
			warning = append(warning, fmt.Sprintf("volume %s: %s is %s", v.Name, sb.Node, sb.State))
		}
	}
	if string(s.Node) != s.Master && v.Problem == "" && v.State != "following" && s.Master != "none" {
		warning = append(warning, fmt.Sprintf("volume %s does not follow the master: %s", v.Name, reason(volumes, v.Name)))
	}
	return critical, warning
}

// duplicateText is the alarm of a machine that has a VIP and is no node.
func duplicateText(list []control.Duplicate, now time.Time) (lines []string) {
	for _, d := range list {
		lines = append(lines, fmt.Sprintf("another machine has the address %s, too: the card %s on link %s is no node's, since %s (%s); clients may reach it instead; find it by its card, and take the address from it",
			d.Address, d.MAC, d.Link, d.Since.Local().Format("15:04:05"), now.Sub(d.Since).Round(time.Second)))
	}
	return lines
}

// alarmReason is the alarm of a mass deletion, and what to do.
func alarmReason(volume cluster.VolumeID, node cluster.NodeID, alarm string) string {
	return fmt.Sprintf("volume %s: %s on %s; bring things back: revolve trash restore %s PATH; or, if it was meant: revolve trash unpin %s", volume, alarm, node, volume, volume)
}

// saidReasons is what a standby says of itself.
func saidReasons(volume cluster.VolumeID, sb control.Standby) (reasons []string) {
	if sb.Alarm != "" {
		reasons = append(reasons, alarmReason(volume, sb.Node, sb.Alarm))
	}
	if sb.Divergent > 0 {
		reasons = append(reasons, fmt.Sprintf("volume %s: %s keeps %d divergent changes aside; see `revolve divergent list`", volume, sb.Node, sb.Divergent))
	}
	return reasons
}

func trashOf(r mirror.Report) control.Trash {
	t := r.Apply.Trash
	out := control.Trash{Kept: t.Kept, Bytes: t.Bytes, Skipped: t.Skipped, Dropped: t.Dropped}
	for _, p := range t.Pins {
		out.Pinned = append(out.Pinned, p.Slot)
	}
	return out
}

func reason(volumes []mirror.Report, name cluster.VolumeID) string {
	for _, v := range volumes {
		if v.Name == name && v.Reason != "" {
			return v.Reason
		}
	}
	return "not connected yet"
}
