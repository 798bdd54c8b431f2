package join

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

const (
	// maxGuesses wrong tokens of one address, and maxAllGuesses of all, are
	// answered in guessWindow; beyond, nobody is until it is over. It keeps a log
	// readable and a processor free; it is not what makes guessing hopeless.
	maxGuesses    = 5
	maxAllGuesses = 20
	guessWindow   = time.Minute
	// requestWithin is how long a stranger may take to say what it wants; a newcomer says it at once.
	requestWithin = 3 * time.Second
)

// Authority answers newcomers on a node.
type Authority struct {
	State string // the node's state directory
	Node  cluster.NodeID
	Key   func() [32]byte      // the heartbeat key in use
	Now   func() roster.Roster // what the cluster is
	Known func(cluster.NodeID) bool
	// Epoch is the lowest epoch of the node's certificates that counts.
	Epoch func(cluster.NodeID) uint32
	// Raise makes the whole cluster refuse the node's certificates below epoch.
	Raise func(ctx context.Context, node cluster.NodeID, epoch uint32) error
	// Elsewhere finds the nodes that have the CA, if this one has not.
	Elsewhere func(ctx context.Context) []Elsewhere
	Log       *slog.Logger

	mu      sync.Mutex // one join at a time: it is over in milliseconds
	guesses guesses
}

// Serve holds the conversation with one newcomer; the caller bounds its time.
// The error says why it got nothing.
func (a *Authority) Serve(ctx context.Context, c *tls.Conn) error {
	host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	ca, err := peer.LoadCA(a.State)
	offer := Offer{Node: a.Node, Here: err == nil}
	switch {
	case problem.KindOf(err) == problem.NotFound:
		offer.Ask = a.Elsewhere(ctx)
	case err != nil:
		return err
	default:
		state := c.ConnectionState()
		material, err := state.ExportKeyingMaterial(exporter, nil, 32)
		if err != nil {
			return err
		}
		offer.Proof = ca.Prove(proven(material))
	}
	if err := write(c, offer, maxOffer); err != nil || !offer.Here {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(requestWithin)); err != nil {
		return err
	}
	var q Request
	if err := read(c, &q, maxRequest); err != nil {
		return err
	}
	answer, err := a.answer(ctx, ca, host, &q)
	if err != nil {
		answer = &Answer{Refused: &Refusal{Kind: problem.KindOf(err), Err: cause(err), Hint: problem.HintOf(err)}}
	}
	if err == nil {
		a.Log.Info("a node joined", "node", q.Node, "remote", host, "token", hex.EncodeToString(q.ID[:]))
	}
	return errors.Join(err, write(c, answer, maxAnswer))
}

// cause is what the problem says, without what was attempted.
func cause(err error) string {
	var p *problem.Problem
	if errors.As(err, &p) && p.Err != nil {
		return p.Err.Error()
	}
	return err.Error()
}

// answer exchanges a token for a certificate. Each step is durable before the
// next, and each may be repeated with the same key: the token is bound to the
// key; former certificates of the name are refused everywhere; the certificate
// is made out and kept with the token.
func (a *Authority) answer(ctx context.Context, ca *peer.CA, host string, q *Request) (*Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if !a.guesses.may(host, now) {
		return nil, &problem.Problem{Op: "join", Kind: problem.Unavailable, Err: errors.New("too many wrong tokens lately"), Hint: "wait a minute and try again"}
	}
	csr, public, err := newcomerKey(q.CSR)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(a.State)
	if err != nil {
		return nil, err
	}
	defer unlock()
	issued, err := LoadIssued(a.State)
	if err != nil {
		return nil, err
	}
	r, err := use(a.State, q, public, func() uint32 {
		e, had := issued[q.Node]
		switch {
		case had:
			return max(e+1, a.Epoch(q.Node))
		case !peer.IsOrigin(a.State): // nobody knows here what the CA's former node made out
			return a.Epoch(q.Node) + 1
		}
		return a.Epoch(q.Node)
	}, now)
	if err != nil {
		if errors.Is(err, errWrong) {
			a.guesses.wrong(host, now)
		}
		return nil, err
	}
	if !a.Known(r.Node) {
		return nil, &problem.Problem{Op: "join", Kind: problem.NotFound, Subject: string(r.Node), Err: errors.New("the node is not in the configuration any more"),
			Hint: "add it: revolve config apply FILE"}
	}
	if r.Epoch > a.Epoch(r.Node) {
		if err := a.Raise(ctx, r.Node, r.Epoch); err != nil {
			return nil, err
		}
	}
	if r.Cert == nil {
		if r.Cert, err = ca.Sign(r.Node, csr.PublicKey, r.Epoch, r.Life, now); err != nil {
			return nil, err
		}
		if err := errors.Join(noteIssued(a.State, r.Node, r.Epoch), put(a.State, r.ID+".json", r)); err != nil {
			return nil, err
		}
	}
	now2 := a.Now()
	text, err := json.Marshal(now2)
	if err != nil {
		return nil, &problem.Problem{Op: "join", Kind: problem.Internal, Err: err}
	}
	key := a.Key()
	return &Answer{Cert: r.Cert, Key: hex.EncodeToString(key[:]), Roster: text}, nil
}

// guesses counts wrong tokens.
type guesses struct {
	since time.Time
	all   int
	of    map[string]int
}

func (g *guesses) may(host string, now time.Time) bool {
	if now.Sub(g.since) >= guessWindow || g.of == nil {
		*g = guesses{since: now, of: map[string]int{}}
	}
	return g.all < maxAllGuesses && g.of[host] < maxGuesses
}

func (g *guesses) wrong(host string, now time.Time) {
	g.all++ // maxAllGuesses bounds the map too
	g.of[host]++
}
