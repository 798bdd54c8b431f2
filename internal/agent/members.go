package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// serviceRoster exchanges rosters: one JSON frame each way, and whoever has the
// older one takes the other's.
const serviceRoster = "roster"

const (
	// tellWithin bounds the exchange with one node.
	tellWithin = 2 * time.Second
	// catchUpWithin is how long a node that starts waits for the others to say whether it missed a change, before it may lead.
	// A start listens for longer than this anyhow if somebody is missing.
	catchUpWithin = 1200 * time.Millisecond
	// fetchPause and fetchLine are the rest after a failed fetch, and between two lines about it.
	fetchPause = 200 * time.Millisecond
	fetchLine  = time.Minute
	// membersEvery is how often what was left unfinished is tried again.
	membersEvery = 5 * time.Second
)

// rosterFrame is both the question and the answer.
type rosterFrame struct {
	Generation uint32          `json:"generation"`
	Mark       uint64          `json:"mark"`
	Roster     json.RawMessage `json:"roster,omitempty"` // if the sender thinks that the other one lacks it
	Err        string          `json:"err,omitempty"`    // why the sender could not take the other's
}

func (f *rosterFrame) stamp() beat.Stamp { return beat.Stamp{Generation: f.Generation, Mark: f.Mark} }

// cfg is the configuration in force: of nodes it is always the newest, of the rest
// what this agent was started with is in a.o.Config.
func (a *Agent) cfg() *config.Config { return a.o.Roster.Config() }

func (a *Agent) stamp() beat.Stamp {
	g, m := a.o.Roster.Stamp()
	return beat.Stamp{Generation: g, Mark: m}
}

// counts decides whose certificates count.
func (a *Agent) counts(node cluster.NodeID, epoch uint32) error {
	if !a.known(node) {
		return &peer.Refused{Why: peer.WhyUnknown, Reason: fmt.Sprintf("node %s is not in the configuration here", node)}
	}
	if epoch < a.o.Roster.Epoch(node) {
		return &peer.Refused{Why: peer.WhyRevoked, Reason: fmt.Sprintf("this certificate of node %s was revoked or replaced", node)}
	}
	return nil
}

func (a *Agent) generation() uint32 { return a.stamp().Generation }

// leave ends this node's membership: durably, and then the agent.
func (a *Agent) leave(why string) {
	if a.o.Roster.Out() != "" {
		return // said already
	}
	if err := a.o.Roster.Leave(why); err != nil {
		a.o.Log.Error("that this node is no member any more could not be written down", "err", err)
	}
	select {
	case a.left <- outProblem(a.o.Node, a.o.State, why):
	default:
	}
}

func outProblem(node cluster.NodeID, state, why string) error {
	hint := fmt.Sprintf("to let it in again: add it with `revolve config apply`, get a token where the CA is (`revolve token %s`), move %s/identity away, and `revolve join`", node, state)
	if peer.HasCA(state) {
		hint = "the CA's key is in this state directory: carry identity/ca.key to another node (mode 0600) before you remove it; " + hint
	}
	return &problem.Problem{Op: "run node", Kind: problem.Permission, Subject: string(node), Err: errors.New(why), Hint: hint}
}

// refused looks at a failed dial: the other node may know that this one is out.
func (a *Agent) refused(err error) {
	var r *peer.Refused
	if !errors.As(err, &r) || r.Generation <= a.generation() {
		return
	}
	switch r.Why {
	case peer.WhyRevoked:
		a.leave(fmt.Sprintf("its identity was revoked or replaced (generation %d)", r.Generation))
	case peer.WhyUnknown:
		if a.o.Roster.NoWayBack(a.o.Node) {
			return // the others went back to before it joined
		}
		a.leave(fmt.Sprintf("it was removed from the cluster (generation %d)", r.Generation))
	}
}

// members keeps this node's roster the newest that it can hear of, and ends with
// an error when it is no member any more.
func (a *Agent) members(ctx context.Context) error {
	a.askAll(ctx, nil)
	a.asked.Store(true)
	tick := time.NewTicker(membersEvery)
	defer tick.Stop()
	var tried, told time.Time
	for {
		r, changed := a.reportAndNext()
		if r.Newer.Stamp.Newer(a.stamp()) && r.Newer.From.IsValid() && time.Since(tried) > fetchPause {
			if err := a.fetch(ctx, r.Newer.From); err != nil {
				tried = time.Now()
				if time.Since(told) > fetchLine && ctx.Err() == nil {
					told = tried
					a.o.Log.Warn("a newer list of members is not to be had yet", "from", r.Newer.From, "err", err, "hint", problem.HintOf(err))
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-a.left:
			return err
		case <-changed:
		case <-tick.C:
			a.unfinished(ctx)
		}
	}
}

// seek brings together what heartbeats alone do not. Two halves of a split network
// may have changed the heartbeat key, each in its own way: then neither hears the
// other when the network heals, and only an exchange over TCP finds that out. And
// the half that lost may know of a revocation that the other never heard of.
func (a *Agent) seek(ctx context.Context) error {
	tick := time.NewTicker(membersEvery)
	defer tick.Stop()
	var told time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		a.askAll(ctx, alive(a.current()))
		for node, epoch := range a.o.Roster.Forgotten() {
			if _, err := a.change(ctx, control.Change{Raise: node, Epoch: epoch, Key: true}); err != nil && ctx.Err() == nil && time.Since(told) > fetchLine {
				told = time.Now()
				a.o.Log.Warn("a revocation that only one half of a split network heard of is not in force everywhere yet", "node", node, "err", err, "hint", problem.HintOf(err))
			}
		}
	}
}

func (a *Agent) reportAndNext() (beat.Report, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.report, a.changed
}

// askAll exchanges rosters with every node that answers, but those in except.
func (a *Agent) askAll(ctx context.Context, except []cluster.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, catchUpWithin)
	defer cancel()
	var g errgroup.Group
	for _, n := range a.cfg().Nodes {
		if n.Name != a.o.Node && !slices.Contains(except, n.Name) {
			g.Go(func() error {
				_ = a.exchange(ctx, n.Name, false) // who does not answer now is heard later
				return nil
			})
			if paths := a.triedPaths(n); len(paths) > 0 {
				g.Go(func() error {
					if conn, err := peer.Dial(ctx, a.id, n.Name, paths, serviceRoster); err == nil {
						_ = a.talk(ctx, conn, false)
					}
					return nil
				})
			}
		}
	}
	_ = g.Wait()
}

// fetch gets the newer roster of whoever has that address.
func (a *Agent) fetch(ctx context.Context, from netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	path := peer.Path{Link: "roster", Remote: netip.AddrPortFrom(from, a.o.Config.Port)}
	conn, err := peer.Dial(ctx, a.id, peer.Anybody, []peer.Path{path}, serviceRoster)
	if err == nil {
		err = a.talk(ctx, conn, false)
	}
	if err != nil {
		a.refused(err)
	}
	return err
}

// exchange brings this node and another to the newer of their rosters.
func (a *Agent) exchange(ctx context.Context, node cluster.NodeID, push bool) error {
	conn, err := a.dial(ctx, node, serviceRoster)
	if err != nil {
		return err
	}
	return a.talk(ctx, conn, push)
}

func (a *Agent) talk(ctx context.Context, conn *peer.Conn, push bool) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := a.say(conn, push, ""); err != nil {
		return err
	}
	f, err := a.listen(conn)
	if err != nil {
		return err
	}
	if err := a.absorb(f); err != nil {
		return err
	}
	if f.Err != "" {
		return &problem.Problem{Op: "tell the members to", Kind: problem.Unavailable, Subject: string(conn.Peer()), Err: errors.New(f.Err)}
	}
	return nil
}

// say sends the stamp, and the roster if it is to be pushed.
func (a *Agent) say(conn *peer.Conn, push bool, why string) error {
	r := a.o.Roster.Current()
	f := rosterFrame{Generation: r.Generation, Mark: r.Mark(), Err: why}
	var err error
	if push && r.Generation > 0 {
		if f.Roster, err = json.Marshal(r); err != nil {
			return err
		}
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return errors.Join(conn.Write(frameOrder, b), conn.Flush())
}

func (a *Agent) listen(conn *peer.Conn) (*rosterFrame, error) {
	if err := conn.SetReadDeadline(time.Now().Add(tellWithin)); err != nil {
		return nil, err
	}
	_, payload, err := conn.Read()
	if err != nil {
		return nil, err
	}
	f := &rosterFrame{}
	if err := json.Unmarshal(payload, f); err != nil {
		return nil, &problem.Problem{Op: "read roster", Kind: problem.Corrupt, Subject: string(conn.Peer()), Err: errors.New("not a roster")}
	}
	return f, nil
}

// serveRoster answers an exchange.
func (a *Agent) serveRoster(conn *peer.Conn) error {
	defer conn.Close()
	f, err := a.listen(conn)
	if err != nil {
		return err
	}
	why := ""
	if err = a.absorb(f); err != nil {
		why = err.Error()
	}
	return errors.Join(err, a.say(conn, a.stamp().Newer(f.stamp()), why))
}

// absorb takes the roster of a frame, if it has one.
func (a *Agent) absorb(f *rosterFrame) error {
	if f.Roster == nil {
		return nil
	}
	r, cfg, err := roster.Decode(f.Roster)
	if err != nil {
		return err
	}
	_, err = a.take(r, cfg)
	return err
}

// take puts a newer roster in force here: durable first, then connections, then
// the heartbeats.
func (a *Agent) take(r *roster.Roster, cfg *config.Config) (bool, error) {
	a.taking.Lock()
	defer a.taking.Unlock()
	if cfg.Cluster != a.o.Config.Cluster {
		return false, &problem.Problem{Op: "take roster", Kind: problem.Conflict, Subject: cfg.Cluster, Err: fmt.Errorf("this node is of cluster %s", a.o.Config.Cluster)}
	}
	if now := a.o.Roster.Current(); r.Newer(&now) {
		if err := a.fileRefusesRoster(r, &now); err != nil {
			defer a.id.Enforce()
			return false, errors.Join(err, a.o.Roster.Heed(r.Epochs))
		}
	}
	if _, member := cfg.Node(a.o.Node); !member {
		if err := a.waitsForWord(r); err != nil {
			defer a.id.Enforce()
			return false, errors.Join(err, a.o.Roster.Heed(r.Epochs))
		}
	}
	taken, err := a.o.Roster.Take(r, cfg)
	if err != nil || !taken {
		return taken, err
	}
	a.o.Log.Info("members", "generation", r.Generation, "by", r.By, "nodes", strings.Join(names(cfg), " "))
	a.id.Enforce()
	if _, ok := cfg.Node(a.o.Node); !ok {
		a.leave(fmt.Sprintf("it was removed from the cluster (generation %d)", r.Generation))
		return true, nil
	}
	if peer.Epoch(a.id.Leaf()) < a.o.Roster.Epoch(a.o.Node) {
		a.leave(fmt.Sprintf("its identity was revoked or replaced (generation %d)", r.Generation))
		return true, nil
	}
	if a.startsAnew(cfg) {
		return true, nil
	}
	if err := a.beat.Reconfigure(a.beatConfig()); err != nil {
		a.o.Log.Warn("the new configuration takes effect when this agent starts anew", "err", err, "hint", problem.HintOf(err))
	}
	return true, nil
}

func names(cfg *config.Config) (out []string) {
	for _, n := range cfg.Nodes {
		out = append(out, string(n.Name))
	}
	return out
}

// heartbeatKeys are the keys for the beat process: the own one first.
func (a *Agent) heartbeatKeys() (send [32]byte, accept, retired [][32]byte) {
	k := a.o.Roster.Current().Keys
	send = a.id.HeartbeatKey
	if k.Send != nil {
		send = *k.Send
	}
	for _, other := range []*roster.Key{k.Next, k.Former} {
		if other != nil {
			accept = append(accept, *other)
		}
	}
	for _, old := range k.Retired {
		retired = append(retired, old)
	}
	return send, accept, retired
}

// sortedLinks keeps the order of a node's links apart from the order in which a file names them.
func sortedLinks(links []config.Link) []config.Link {
	s := slices.Clone(links)
	slices.SortFunc(s, func(x, y config.Link) int { return strings.Compare(string(x.Name), string(y.Name)) })
	return s
}

// membership is what is worth a warning about certificates, keys and the list of members.
func (a *Agent) membership(kept []string) (warnings []string) {
	if why := a.renewal.Load(); why != nil {
		warnings = append(warnings, fmt.Sprintf("the certificate of this node expires on %s and cannot be renewed: %s", a.id.NotAfter().UTC().Format(time.RFC3339), *why))
	} else if w := a.id.Warning(time.Now()); w != "" && peer.Life(a.id.Leaf()) >= peer.DefaultLife/2 {
		warnings = append(warnings, w)
	}
	if len(kept) > 0 {
		warnings = append(warnings, fmt.Sprintf("both halves of a split network changed the members, and the change in %s lost: make it again if it is still wanted, and remove the file", kept[0]))
	}
	warnings = append(warnings, a.trialWarning()...)
	if w := a.apartFromFile(); w != "" {
		warnings = append(warnings, w)
	}
	if r, _ := a.reportAndNext(); r.Newer.Stamp.Newer(a.stamp()) {
		warnings = append(warnings, fmt.Sprintf("%s goes by generation %d of the members, this node by %d, and it could not be fetched yet", r.Newer.From, r.Newer.Stamp.Generation, a.generation()))
	}
	if a.leads() && a.o.Roster.Current().Keys.Changing() {
		warnings = append(warnings, "the heartbeat key is being changed: a node that lives has not confirmed it yet")
	}
	return warnings
}
