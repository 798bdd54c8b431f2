package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/join"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// serviceCA asks whether the CA is on a node, and for a new certificate for the
// key that the asker has just proved to have: one JSON frame each way.
const serviceCA = "ca"

type caFrame struct {
	Renew bool   `json:"renew,omitempty"`
	Here  bool   `json:"here,omitempty"` // answer: the CA is here
	Cert  []byte `json:"cert,omitempty"` // answer: DER
	Err   string `json:"err,omitempty"`
}

const (
	// renewLeast and renewMost bound the time between two tries to renew a certificate.
	renewLeast = time.Second
	renewMost  = 10 * time.Minute
	// renewalLine is how often a renewal that goes on failing is worth a line; status says it all the time.
	renewalLine = 6 * time.Hour
	// caPatience bounds a question to one node.
	caPatience = 3 * time.Second
	// raiseWithin bounds the change that a replacement needs.
	raiseWithin = 8 * time.Second
)

// authority answers machines that want to join.
func (a *Agent) authority() *join.Authority {
	return &join.Authority{
		State: a.o.State, Node: a.o.Node, Now: a.o.Roster.Current, Known: a.known, Epoch: a.o.Roster.Epoch, Log: a.o.Log,
		Key: func() [32]byte { send, _, _ := a.heartbeatKeys(); return send },
		Raise: func(ctx context.Context, node cluster.NodeID, epoch uint32) error {
			ctx, cancel := context.WithTimeout(ctx, raiseWithin)
			defer cancel()
			_, err := a.change(ctx, control.Change{Raise: node, Epoch: epoch})
			return err
		},
		Elsewhere: a.elsewhere,
	}
}

// askCA asks every other node, and returns the answers of those that have the CA.
func (a *Agent) askCA(ctx context.Context, q caFrame) (map[cluster.NodeID]caFrame, error) {
	ctx, cancel := context.WithTimeout(ctx, caPatience)
	defer cancel()
	var g errgroup.Group
	var mu sync.Mutex
	here, silent := map[cluster.NodeID]caFrame{}, []error{}
	for _, n := range a.cfg().Nodes {
		if n.Name == a.o.Node {
			continue
		}
		g.Go(func() error {
			var f caFrame
			err := a.question(ctx, n.Name, serviceCA, q, &f)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, err)
			} else if f.Here {
				here[n.Name] = f
			}
			return nil
		})
	}
	_ = g.Wait()
	if len(here) == 0 {
		p := &problem.Problem{Op: "find the CA", Kind: problem.Unavailable, Err: errors.New("no node that answers has it"),
			Hint: "start the node that did init; if it is lost for good, put a backup of its identity/ca.key into another node's state directory"}
		if len(silent) > 0 {
			p.Err = fmt.Errorf("no node that answers has it: %w", silent[0])
		}
		return nil, p
	}
	return here, nil
}

func (a *Agent) serveCA(conn *peer.Conn) error {
	defer conn.Close()
	var q caFrame
	if err := readQuestion(conn, caPatience, &q); err != nil {
		return err
	}
	f := caFrame{Here: peer.HasCA(a.o.State)}
	if q.Renew && f.Here {
		ca, err := peer.LoadCA(a.o.State)
		if err == nil {
			cert := conn.Certificate()
			f.Cert, err = ca.Sign(conn.Peer(), cert.PublicKey, peer.Epoch(cert), peer.Life(cert), time.Now())
		}
		if err != nil {
			f.Err = err.Error()
		} else {
			a.o.Log.Info("certificate renewed", "node", conn.Peer())
		}
	}
	return answer(conn, f)
}

// elsewhere names the nodes that have the CA, for a newcomer.
func (a *Agent) elsewhere(ctx context.Context) (out []join.Elsewhere) {
	here, _ := a.askCA(ctx, caFrame{})
	for n := range here {
		node, ok := a.cfg().Node(n)
		if !ok {
			continue
		}
		e := join.Elsewhere{Node: n}
		for _, l := range node.Links {
			e.Addrs = append(e.Addrs, netip.AddrPortFrom(l.Addr, a.o.Config.Port).String())
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(x, y join.Elsewhere) int { return compareNames(x.Node, y.Node) })
	return out
}

// renewals has this node's certificate renewed when two thirds of its life are
// over, and tries again until it is: the last third is the time that the CA's
// node may be off.
func (a *Agent) renewals(ctx context.Context) error {
	var told time.Time
	for {
		leaf := a.id.Leaf()
		wait := time.Until(peer.RenewAt(leaf))
		if wait <= 0 {
			wait = min(max(peer.Life(leaf)/60, renewLeast), renewMost)
			err := a.renew(ctx)
			if err == nil {
				a.renewal.Store(nil)
				a.o.Log.Info("this node's certificate is renewed", "until", a.id.NotAfter().UTC().Format(time.RFC3339))
				continue
			}
			text := err.Error()
			if last := a.renewal.Swap(&text); ctx.Err() == nil && (last == nil || time.Since(told) > renewalLine) {
				told = time.Now()
				a.o.Log.Warn("this node's certificate could not be renewed", "expires", leaf.NotAfter.UTC().Format(time.RFC3339), "err", err, "hint", problem.HintOf(err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (a *Agent) renew(ctx context.Context) error {
	leaf := a.id.Leaf()
	if peer.HasCA(a.o.State) {
		ca, err := peer.LoadCA(a.o.State)
		if err != nil {
			return err
		}
		der, err := ca.Sign(a.o.Node, leaf.PublicKey, peer.Epoch(leaf), peer.Life(leaf), time.Now())
		if err != nil {
			return err
		}
		return a.id.Renew(der)
	}
	here, err := a.askCA(ctx, caFrame{Renew: true})
	if err != nil {
		return err
	}
	for n, f := range here {
		if f.Err != "" {
			err = errors.Join(err, &problem.Problem{Op: "renew at", Kind: problem.Unavailable, Subject: string(n), Err: errors.New(f.Err)})
			continue
		}
		if err = a.id.Renew(f.Cert); err == nil {
			return nil
		}
	}
	return err
}
