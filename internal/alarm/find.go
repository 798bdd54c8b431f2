package alarm

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
)

const (
	lossy        = 0.05 // a heartbeat in twenty: a failover then needs luck
	behindMS     = 60_000
	unheardAfter = time.Minute // of a node that was never heard: it may still be booting
	failoverFor  = 5 * time.Minute
	// whyNoCandidate is how the status says that a node shall never lead.
	whyNoCandidate = "it is no candidate"
	unseenAfter    = 5 * time.Second     // what was seen of the volumes longer ago says nothing about now
	expiresSoon    = 30 * 24 * time.Hour // renewal begins months before
)

// finder collects the alarms of one status.
type finder struct {
	s     *control.Status
	found []Alarm
}

func (f *finder) add(kind, subject, node, format string, args ...any) *Alarm {
	k, _ := KindOf(kind)
	f.found = append(f.found, Alarm{Kind: kind, Subject: plain(subject, maxName), Severity: k.Severity, Node: node, After: k.After, Text: plain(fmt.Sprintf(format, args...), maxText)})
	return &f.found[len(f.found)-1]
}

// Find is what is wrong by one status, the worst first: the whole cluster as this node sees it, and what only
// this node can know of itself.
func Find(s control.Status) []Alarm {
	f := &finder{s: &s}
	f.roles()
	f.addresses()
	f.nodes()
	f.own()
	for i := range s.Volumes {
		f.volume(&s.Volumes[i])
	}
	f.failover()
	f.found = implied(f.found)
	slices.SortStableFunc(f.found, func(a, b Alarm) int { return rank(a) - rank(b) })
	return f.found
}

// Own are those of them that no other node can see: they are told to the one that speaks.
func Own(found []Alarm, node cluster.NodeID) (own []Alarm) {
	local := []string{MasterUnknown, Frozen, Isolated, VolumePaused, VolumeBroken, DiskIll, VolumesUnseen, ServiceIll, Divergent, MassDeletion, OnChangeFailed, WitnessSilent, CopyMissed, CertExpires, Undelivered}
	for _, a := range found {
		if a.Node == string(node) && slices.Contains(local, a.Kind) && len(own) < MaxFound {
			own = append(own, a)
		}
	}
	return own
}

func rank(a Alarm) int {
	n := slices.IndexFunc(Kinds(), func(k Kind) bool { return k.Name == a.Kind })
	if a.Severity != Critical {
		n += len(Kinds())
	}
	return n
}

// implied leaves out what follows from a node's death or from having no master.
func implied(found []Alarm) (rest []Alarm) {
	dead, headless := map[string]bool{}, false
	for _, a := range found {
		dead[a.Node] = dead[a.Node] || a.Kind == NodeDead
		headless = headless || a.Kind == NoMaster || a.Kind == MasterUnknown
	}
	for _, a := range found {
		follows := dead[a.Node] && a.Node != "" && a.Kind != NodeDead && a.Kind != Divergent
		if !follows && !(headless && (a.Kind == StandbyBehind || a.Kind == NoSuccessor)) {
			rest = append(rest, a)
		}
	}
	return rest
}

func (f *finder) roles() {
	s := f.s
	var leading []string
	for _, n := range s.Nodes {
		if n.Role == cluster.Master.String() && n.State == "alive" {
			leading = append(leading, string(n.Name))
		}
	}
	switch {
	case s.Master == "none":
		f.add(NoMaster, "", "", "no node is master: the floating addresses are nowhere")
	case s.Master == control.Unknown:
		f.add(MasterUnknown, string(s.Node), string(s.Node), "the election is not heard on %s: who is master is not known there", s.Node)
	case len(leading) > 1:
		f.add(TwoMasters, "", "", "%s say that they are master", strings.Join(leading, " and "))
	}
	if s.Blocked {
		f.add(Blocked, "", "", "a silent node's card still answers for the addresses, so no other node takes them")
	}
	if s.Frozen {
		f.add(Frozen, string(s.Node), string(s.Node), "the addresses are on %s, but %s reigns with a higher term", s.Node, s.Master)
	}
	if s.Isolation.Isolated == control.Yes {
		f.add(Isolated, string(s.Node), string(s.Node), "%s hears no other node and does not serve", s.Node)
	}
	if s.Isolation.Patience > 1 {
		f.add(Flapping, "", "", "masters that were taken for dead lived, several times in a minute: silence is now borne %d times as long", s.Isolation.Patience)
	}
}

func (f *finder) addresses() {
	for _, d := range f.s.Duplicates {
		f.add(DuplicateAddress, d.Address, "", "another machine has the address %s, too: the card %s on link %s is no node's", d.Address, d.MAC, d.Link)
	}
	for _, v := range f.s.VIPs {
		if len(v.Holders) > 1 {
			f.add(TwoMasters, v.Address, "", "%s is on %d nodes at once", v.Address, len(v.Holders))
		}
	}
}

func (f *finder) nodes() {
	s, successor, others := f.s, false, false
	for i := range s.Nodes {
		n := &s.Nodes[i]
		name := string(n.Name)
		switch {
		case n.State == "dead":
			f.add(NodeDead, name, name, "node %s is dead: it is heard on no link", name)
		case n.State == "unknown" && s.Master != control.Unknown:
			f.add(NodeDead, name, name, "node %s was not heard since the agent's start on %s", name, s.Node).After = unheardAfter
		}
		if name != s.Master && n.State != "off" && n.WhyNot != whyNoCandidate {
			others = others || !n.OnDemand // the cluster is to do without it
			successor = successor || n.State == "alive" && n.Eligible == control.Yes
		}
		if n.Hold == control.Yes {
			f.add(ForgottenOrder, "hold on "+name, name, "hold is on (%s): no automatic moves", name)
		}
		if n.Maintenance == control.Yes {
			f.add(ForgottenOrder, "maintenance of "+name, name, "node %s is in maintenance", name)
		}
		f.links(n)
	}
	if others && !successor {
		f.add(NoSuccessor, "", "", "no other node could take over now: if %s fails, nobody serves", s.Master)
	}
}

func (f *finder) links(n *control.Node) {
	for _, l := range n.Links {
		at := fmt.Sprintf("%s of %s", l.Name, n.Name)
		switch {
		case n.State != "alive":
		case l.Up == control.No:
			f.add(LinkDown, at, string(n.Name), "link %s is down, as %s sees it", at, f.s.Node)
		case l.Quality != nil && l.Quality.Loss > lossy:
			f.add(LinkLossy, at, string(n.Name), "link %s loses %.0f %% of the heartbeats, as %s sees it", at, 100*l.Quality.Loss, f.s.Node)
		}
	}
}

// own is what this node knows of itself.
func (f *finder) own() {
	s, me := f.s, string(f.s.Node)
	for _, v := range s.Services {
		if v.State != "ill" {
			continue
		}
		a := f.add(ServiceIll, fmt.Sprintf("%s on %s", v.Name, me), me, "service %s is ill on %s: %s", v.Name, me, v.LastError)
		if v.Required && me == s.Master {
			a.Severity = Critical
		}
	}
	for _, why := range s.Disks {
		f.add(DiskIll, me, me, "%s: %s", me, why)
	}
	f.unseen()
	if w := s.Isolation.Witness; w != nil && w.State == "silent" {
		f.add(WitnessSilent, "witness, from "+me, me, "the witness %s does not answer %s", w.Address, me)
	}
	for _, r := range s.Isolation.References {
		if r.Up == control.No {
			f.add(WitnessSilent, r.Address+", from "+me, me, "the reference %s does not answer %s", r.Address, me)
		}
	}
	if left := s.CertificateUntil.Sub(s.AsOf); !s.CertificateUntil.IsZero() && left < expiresSoon {
		f.add(CertExpires, me, me, "the certificate of %s expires on %s", me, s.CertificateUntil.UTC().Format(time.DateOnly))
	}
	for _, c := range s.Copies {
		if c.Trouble != "" {
			f.add(CopyMissed, fmt.Sprintf("%s by %s", c.VM, c.Schedule), me, "%s; %d in a row: revolve vm schedule", c.Trouble, c.Behind)
		}
	}
	for _, c := range s.Alarms.Channels {
		if c.Error != "" {
			f.add(Undelivered, c.Name, me, "alarms do not go out over %s: %s", c.Name, c.Error)
		}
	}
}

// unseen is about who looks at the volumes; an ill disk is said already.
func (f *finder) unseen() {
	s, me := f.s, string(f.s.Node)
	never := s.Looked.IsZero()
	since := s.Looked
	if never {
		since = s.Started
	}
	age := s.AsOf.Sub(since)
	switch {
	case age <= unseenAfter || since.IsZero() || len(s.Disks) > 0:
	case never:
		f.add(VolumesUnseen, me, me, "%s has not seen its volumes since its agent started, %s ago: something holds whoever looks at them", me, age.Round(time.Second))
	default:
		f.add(VolumesUnseen, me, me, "%s saw its volumes %s ago: something holds whoever looks at them", me, age.Round(time.Second))
	}
}

func (f *finder) volume(v *control.Volume) {
	me := string(f.s.Node)
	on := func(node string) string { return fmt.Sprintf("%s on %s", v.Name, node) }
	switch {
	case v.Paused != nil:
		f.add(VolumePaused, on(me), me, "volume %s is paused on %s: %s; look: %s; go on: %s", v.Name, me, v.Paused.Why, v.Paused.Look, v.Paused.GoOn)
	case v.Problem != "":
		f.add(VolumeBroken, on(me), me, "volume %s does not work on %s: %s", v.Name, me, v.Problem)
	}
	if v.Alarm != "" {
		f.add(MassDeletion, on(me), me, "volume %s: %s on %s; bring things back: revolve trash restore %s PATH; or, if it was meant: revolve trash unpin %s", v.Name, v.Alarm, me, v.Name, v.Name)
	}
	if v.Divergent > 0 {
		f.add(Divergent, on(me), me, "volume %s keeps %d changes aside on %s: revolve divergent list", v.Name, v.Divergent, me)
	}
	if v.OnChange != "" {
		f.add(OnChangeFailed, on(me), me, "volume %s on %s: %s", v.Name, me, v.OnChange)
	}
	if v.Proof != nil && v.Proof.Differences > 0 && v.State == "leading" {
		f.add(ProofDifferences, string(v.Name), "", "volume %s: a proof found %d differences: revolve verify --show %s", v.Name, v.Proof.Differences, v.Name)
	}
	for i := range v.Standbys {
		if x := &v.Standbys[i]; string(x.Node) != me {
			f.standby(v, x)
		}
	}
}

func (f *finder) standby(v *control.Volume, x *control.Standby) {
	on, node := fmt.Sprintf("%s on %s", v.Name, x.Node), string(x.Node)
	if x.Alarm != "" {
		f.add(MassDeletion, on, node, "volume %s: %s on %s; bring things back: revolve trash restore %s PATH; or, if it was meant: revolve trash unpin %s", v.Name, x.Alarm, x.Node, v.Name, v.Name)
	}
	if x.Divergent > 0 {
		f.add(Divergent, on, node, "volume %s keeps %d changes aside on %s: revolve divergent list", v.Name, x.Divergent, x.Node)
	}
	if x.Absent > 0 {
		f.add(NamesAbsent, on, node, "volume %s: %d names on %s were not found on the master, and are kept: revolve volume resume %s, on the master", v.Name, x.Absent, x.Node, v.Name)
	}
	alive := slices.ContainsFunc(f.s.Nodes, func(n control.Node) bool { return n.Name == x.Node && n.State == "alive" })
	if alive && (x.State != "in-sync" || x.LagMS > behindMS) {
		f.add(StandbyBehind, on, node, "volume %s: %s is %s", v.Name, x.Node, x.State)
	}
}

// failover is what happened lately, not what is: it ends by itself.
func (f *finder) failover() {
	s := f.s
	if r := s.Rehearsal; r != nil && (r.Result == history.Aborted || r.Result == history.Refused) {
		f.add(RehearsalFailed, "", "", "the rehearsal of %s was %s: %s", r.Began.UTC().Format(time.DateTime), r.Result, r.Why)
	}
	r := s.Failovers.Last
	if r == nil || s.AsOf.Sub(r.At) > failoverFor || !slices.Contains([]string{history.CauseSilence, history.CauseReleased, history.CauseFenced, history.CauseMet}, r.Cause) {
		return
	}
	text := fmt.Sprintf("%s took over from %s (%s)", r.Master, orNobody(r.From), r.Cause)
	if r.RTO != nil {
		text += fmt.Sprintf("; the addresses were away for %.0f ms", *r.RTO)
	}
	for _, v := range r.Volumes {
		if v.Missing != nil && *v.Missing > 0 {
			text += fmt.Sprintf("; %d changes of %s were not there yet", *v.Missing, v.Name)
		}
	}
	f.add(Failover, fmt.Sprintf("term %d", r.Term), "", "%s", text)
}

func orNobody(n cluster.NodeID) string {
	if n == "" {
		return "nobody"
	}
	return string(n)
}

// Speaks reports whether the node of this status is the one that tells people: the
// master; where nobody leads, of the nodes that are heard the first by name.
func Speaks(s control.Status) bool {
	master := false
	first := s.Node
	for _, n := range s.Nodes {
		present := n.State == "alive" || n.State == "suspect"
		master = master || present && string(n.Name) == s.Master
		if present && n.Name < first {
			first = n.Name
		}
	}
	if master {
		return string(s.Node) == s.Master
	}
	return first == s.Node
}
