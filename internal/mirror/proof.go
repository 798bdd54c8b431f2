package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/verify"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

const (
	// barrierWithin bounds a proof's wait for one standby: it is behind then, and nothing can be said of it.
	barrierWithin = time.Minute
	// resumable is how old an unfinished proof may be to be gone on with: what it read first is worth less and less.
	resumable = 30 * 24 * time.Hour
	// maxProof bounds the file of a proof's state.
	maxProof = 16 << 20
)

// Proving says how a volume is to be proven.
type Proving struct {
	Rate        int64 // bytes per second and node; 0: the default
	Repair      bool
	Restart     bool // from the beginning, even if there is one to go on with
	TrustMaster bool // where the rule leaves it to a person
}

// Proof is a volume's proof, running or the last one.
type Proof struct {
	verify.State
	Running bool
	Error   string // why it stopped before its end
}

// prover is what a volume keeps of proofs; the volume's lock guards it.
type prover struct {
	order chan Proving // holds the proof that is to begin
	stop  context.CancelFunc
	state *verify.State // a copy; nil: none was ever made here
	runs  bool
	err   string
}

func (v *volume) proofFile(suffix string) string {
	return filepath.Join(v.e.o.State, "proof", string(v.c.Name)+suffix)
}

// Prove starts, or goes on with, the proof of a volume.
func (e *Engine) Prove(name cluster.VolumeID, p Proving) error {
	v := e.volume(name)
	if v == nil {
		return &problem.Problem{Op: "verify", Kind: problem.NotFound, Subject: string(name), Err: errors.New("there is no such volume"), Hint: "revolve status lists them"}
	}
	if p.Rate == 0 {
		p.Rate = verify.DefaultRate
	}
	if p.Rate < verify.LeastRate || p.Rate > verify.MostRate {
		return &problem.Problem{Op: "verify", Kind: problem.Invalid, Subject: string(name), Err: fmt.Errorf("a rate of %d bytes per second", p.Rate),
			Hint: fmt.Sprintf("from %d to %d", int64(verify.LeastRate), int64(verify.MostRate))}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.leading.Term == 0:
		return &problem.Problem{Op: "verify", Kind: problem.Unavailable, Subject: string(name), Err: errors.New("this node is not its master"), Hint: "type it on the master: revolve status says who that is"}
	case v.prover.runs:
		return &problem.Problem{Op: "verify", Kind: problem.Conflict, Subject: string(name), Err: errors.New("a proof of it runs already"), Hint: "revolve verify --stop ends it; the next goes on where it stood"}
	}
	select {
	case v.prover.order <- p:
		v.prover.runs, v.prover.err = true, ""
	default:
	}
	return nil
}

// StopProof stops a proof; it can be gone on with.
func (e *Engine) StopProof(name cluster.VolumeID) {
	if v := e.volume(name); v != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.prover.stop != nil {
			v.prover.stop()
		}
	}
}

// ProofOf is the proof of a volume that runs, or ran last on this node.
func (e *Engine) ProofOf(name cluster.VolumeID) (Proof, bool) {
	v := e.volume(name)
	if v == nil {
		return Proof{}, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.prover.proof()
}

// proof is the last proof, or the one that runs.
func (r *prover) proof() (Proof, bool) {
	p := Proof{Running: r.runs, Error: r.err}
	if r.state == nil {
		return p, p.Running || p.Error != ""
	}
	p.State = *r.state
	return p, true
}

// proofs carries out what Prove ordered until ctx ends.
func (v *volume) proofs(ctx context.Context, o *opened) error {
	v.loadProof()
	for {
		var p Proving
		select {
		case <-ctx.Done():
			return nil
		case p = <-v.prover.order:
		}
		err := v.prove(ctx, o, p)
		v.mu.Lock()
		v.prover.runs, v.prover.stop, v.prover.err = false, nil, ""
		if err != nil {
			v.prover.err = err.Error()
		}
		v.mu.Unlock()
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			v.log.Warn("a proof stopped before its end", "err", err, "hint", "revolve verify goes on where it stood")
		}
	}
}

func (v *volume) loadProof() {
	b, err := os.ReadFile(v.proofFile(".json"))
	if err != nil || len(b) > maxProof {
		return // none was made here, or nothing is known of it: the next begins anew
	}
	s := &verify.State{}
	if json.Unmarshal(b, s) != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.prover.state = s
}

func (v *volume) saveProof(s *verify.State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var c verify.State // what others see must not change under their eyes
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	v.mu.Lock()
	v.prover.state = &c
	v.mu.Unlock()
	root, err := tree.Open(v.e.o.State)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll("proof"); err != nil {
		return err
	}
	return root.WriteFile("proof/"+string(v.c.Name)+".json", b)
}

// prove runs one proof, for as long as this node leads.
func (v *volume) prove(ctx context.Context, o *opened, p Proving) error {
	v.mu.Lock()
	reign, leadCtx, last := v.leading, v.leadCtx, v.prover.state
	ctx, cancel := context.WithCancel(ctx)
	v.prover.stop = cancel
	v.mu.Unlock()
	defer cancel()
	if leadCtx == nil {
		return errors.New("this node does not lead any more")
	}
	defer context.AfterFunc(leadCtx, cancel)()
	s := v.proofState(o, last, p)
	index, err := verify.OpenIndex(v.proofFile(".db"))
	if err != nil {
		return err
	}
	w := &verify.Walk{
		Self: v.e.o.Node, Reader: &verify.Reader{Root: o.root, Excluded: v.excluded, Index: index}, Standbys: map[cluster.NodeID]verify.Standby{}, Fix: p.Repair, TrustMaster: p.TrustMaster,
		Save: v.saveProof,
		Barrier: func(ctx context.Context, n cluster.NodeID) error {
			return v.barrier(ctx, o, n)
		},
		Fetch: func(ctx context.Context, rel string, from verify.Standby, e *verify.Entry) error {
			return v.mend(o, reign, rel, from, e)
		},
	}
	for n := range v.followers() {
		conn, err := v.verifyWith(ctx, n, reign)
		if err != nil {
			v.log.Warn("a standby is not part of the proof", "standby", n, "err", err)
			continue
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		w.Standbys[n] = verify.Remote{C: conn}
	}
	if len(w.Standbys) == 0 {
		return errors.Join(&problem.Problem{Op: "verify", Kind: problem.Unavailable, Subject: string(v.c.Name), Err: errors.New("no standby is connected")}, index.Close())
	}
	return errors.Join(verify.Run(ctx, w, s), index.Close())
}

// barrier returns when a standby has everything written before the call. One
// that reconnects, or is behind for a moment, is waited for.
func (v *volume) barrier(ctx context.Context, o *opened, n cluster.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, barrierWithin)
	defer cancel()
	for {
		f := v.followers()[n]
		err := errors.New("it is not connected")
		if f != nil {
			err = errors.Join(o.watcher.Drain(ctx), v.namesTold(ctx, o))
		}
		if err == nil {
			err = v.reached(ctx, map[cluster.NodeID]*follower{n: f}, 1, o.journal.Position())
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryMost):
		}
	}
}

// proofState is a new proof's, or that of one to go on with.
func (v *volume) proofState(o *opened, last *verify.State, p Proving) *verify.State {
	s := &verify.State{Began: time.Now(), Nodes: map[cluster.NodeID]*verify.NodeState{}, Findings: []verify.Finding{}}
	if last != nil && last.Ended.IsZero() && !p.Restart && time.Since(last.Began) < resumable {
		b, err := json.Marshal(last)
		if err == nil {
			err = json.Unmarshal(b, s)
		}
		if err != nil { // it was marshalled before
			s = &verify.State{Began: time.Now(), Nodes: map[cluster.NodeID]*verify.NodeState{}, Findings: []verify.Finding{}}
		}
	} else if last != nil {
		for n, st := range last.Nodes { // what was proven before stays known
			s.Nodes[n] = &verify.NodeState{Proven: st.Proven}
		}
	}
	s.Rate, s.Position = p.Rate, o.journal.Position()
	return s
}

func (v *volume) verifyWith(ctx context.Context, n cluster.NodeID, reign cluster.Reign) (Conn, error) {
	conn, err := v.e.o.Dial(ctx, n, wire.ServiceVerify)
	if err != nil {
		return nil, err
	}
	if err := writeJSON(conn, wire.FrameHello, wire.Hello{Volume: v.c.Name, Reign: reign}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// serveVerify answers the master's proof.
func (v *volume) serveVerify(ctx context.Context, conn Conn, hello wire.Hello) error {
	v.mu.Lock()
	o, leading, master := v.open, v.leading, v.follow.master
	v.mu.Unlock()
	seen := v.e.o.Terms.Seen()
	switch {
	case hello.Reign.Term < seen:
		return refuse(conn, problem.StaleTerm, fmt.Sprintf("reign %v is over; term %d has been seen", hello.Reign, seen), seen)
	case o == nil || leading.Term != 0 || master != conn.Peer():
		return refuse(conn, problem.Unavailable, "this node does not follow that master (yet)", seen)
	}
	root, err := tree.Open(v.c.Path) // its own: it may outlive this opening of the volume
	if err != nil {
		return err
	}
	defer root.Close()
	index, err := verify.OpenIndex(v.proofFile(".db"))
	if err != nil {
		return refuse(conn, problem.KindOf(err), err.Error(), seen)
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	h := verify.Host{
		Reader: &verify.Reader{Root: root, Excluded: v.excluded, Index: index},
		Not: func() verify.End {
			v.mu.Lock()
			defer v.mu.Unlock()
			return verify.End{NoOwner: v.applied.ChownRefused > 0, NoXattrs: v.applied.XattrRefused > 0, NoNodes: v.applied.NodesRefused > 0}
		},
		Repair: func(ctx context.Context, r verify.Repair) error { return v.comeAgain(ctx, conn.Peer(), hello.Reign, r) },
	}
	return errors.Join(verify.Serve(ctx, conn, h), index.Close())
}

// askAgain is how often the stream is reminded to ask for what is to come again; askFor is for how long.
const (
	askAgain = 50 * time.Millisecond
	askFor   = 5 * time.Second
)

// comeAgain keeps what is wrong here aside and has the master's come. The term is checked for every order (P3).
func (v *volume) comeAgain(ctx context.Context, master cluster.NodeID, reign cluster.Reign, r verify.Repair) error {
	v.mu.Lock()
	o, leading, following := v.open, v.leading, v.follow.master
	v.mu.Unlock()
	if seen := v.e.o.Terms.Seen(); seen > reign.Term || o == nil || leading.Term != 0 || following != master {
		return &problem.Problem{Op: "repair", Kind: problem.StaleTerm, Subject: string(v.c.Name), Err: fmt.Errorf("reign %v is over here", reign)}
	}
	paths := func(names [][]byte) (out []string) {
		for _, n := range names {
			if rel := tree.Join(string(r.Dir), string(n)); !v.excluded(rel) {
				out = append(out, rel)
			}
		}
		return out
	}
	o.applying.Lock()
	set := apply.NewSet(o.root, v.e.o.Node, reign.Term, apply.WhyDamaged, time.Now())
	err := o.applier.ComeAgain(set, paths(r.Keep), paths(r.Come))
	o.applying.Unlock()
	if err != nil {
		return err
	}
	v.log.Warn("a proof found files here that are not the master's; they are kept aside and come again", "keep", len(r.Keep), "come", len(r.Come), "dir", string(r.Dir), "set", set.Name())
	for deadline := time.Now().Add(askFor); time.Now().Before(deadline); {
		v.mu.Lock()
		poke := v.follow.poke
		v.mu.Unlock()
		select {
		case poke <- struct{}{}:
		default:
		}
		o.applying.Lock()
		asking := o.applier.Asking()
		o.applying.Unlock()
		if !asking {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askAgain):
		}
	}
	return nil // the debts are durable: it comes with the next stream
}

// provenAt is when a standby was last proven equal.
func (v *volume) provenAt(n cluster.NodeID) time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.prover.state == nil || v.prover.state.Nodes[n] == nil {
		return time.Time{}
	}
	return v.prover.state.Nodes[n].Proven
}

// Differences counts what a proof found and nobody repaired.
func (p Proof) Differences() (n int64) {
	for _, st := range p.Nodes {
		n += st.Differs - st.Repaired
	}
	return n
}

// NodesInOrder are the standbys of the proof.
func (p Proof) NodesInOrder() (nodes []cluster.NodeID) {
	for n := range p.Nodes {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	return nodes
}
