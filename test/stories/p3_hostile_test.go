package stories

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/election"
	"revolve/internal/mirror/reconcile"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
	"revolve/internal/peer"
)

// progHostile is this test binary as a master that lies: it has a node's real
// identity, wins a real election with a real beat process, and then sends in
// the name of a reign that is over.
const progHostile = "stories-hostile"

// What the hostile master tells its story on stdout, one word a line.
const (
	saidRefused  = "refused"  // the standby ended the connection with the old reign
	saidTaken    = "taken"    // the standby acknowledged the old reign's change
	saidHonest   = "honest"   // the standby acknowledged the same from the reign that is
	saidPullNo   = "pull-no"  // the standby refused to hand changes over to the old reign
	saidPullTook = "pull-yes" // it did not
	saidWon      = "won term" // and the number of its own reign's
)

// Files that the hostile master sends.
const (
	staleFile  = "of-an-old-reign"
	honestFile = "of-the-reign-that-is"
)

// hostileFor bounds the program's life, in case nobody ends it.
const hostileFor = time.Minute

type hostile struct {
	cfg  *config.Config
	self cluster.NodeID
	id   *peer.Identity
	old  cluster.Reign
	log  *slog.Logger
	tell chan string
	now  chan cluster.Reign // the reign that it won
	won  cluster.Reign
	lies int // connections so far
}

// hostileMain runs it: CONFIG NODE STATE OLD-REIGN(JSON).
func hostileMain(args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), hostileFor)
	defer cancel()
	h := &hostile{self: cluster.NodeID(args[1]), log: slog.New(slog.NewTextHandler(os.Stderr, nil)), tell: make(chan string, 100), now: make(chan cluster.Reign, 1)}
	err := func() (err error) {
		if h.cfg, err = config.Load(args[0]); err != nil {
			return err
		}
		if h.id, err = peer.LoadIdentity(args[2]); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(args[3]), &h.old); err != nil {
			return err
		}
		return h.run(ctx)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		return 1
	}
	return 0
}

func (h *hostile) run(ctx context.Context) error {
	timers, _ := election.Profile(h.cfg.Failover.Profile)
	c := beat.Config{Cluster: h.cfg.Cluster, Self: h.self, Key: h.id.HeartbeatKey, Port: h.cfg.Port, Timers: timers, Boot: beat.Boot{Virgin: true}}
	for _, n := range h.cfg.Nodes {
		bn := beat.Node{ID: n.Name, Candidate: n.Candidate, Priority: n.Priority}
		for _, l := range n.Links {
			bn.Links = append(bn.Links, beat.Link{ID: l.Name, Addr: l.Addr})
		}
		c.Nodes = append(c.Nodes, bn)
	}
	b, err := beat.Start(ctx, []string{os.Getenv(envBin), "beat"}, c, h.log)
	if err != nil {
		return err
	}
	known := func(n cluster.NodeID) bool { _, ok := h.cfg.Node(n); return ok }
	listener, err := peer.Listen(ctx, h.id, known, peer.ListenAddrs(h.cfg, h.self), h.log)
	if err != nil {
		return err
	}
	go b.Run(ctx) // the program ends with main, and everything of it with the program
	go listener.Serve(ctx, h.serve)
	tick := time.NewTicker(50 * time.Millisecond)
	for {
		b.Tell(beat.Word{Class: cluster.InSync, Fresh: cluster.Position{Term: 1000, Seq: 1}, Reserved: 1000})
		select {
		case <-ctx.Done():
			return nil
		case word := <-h.tell:
			fmt.Println(word)
		case r := <-b.Reports():
			if r.Role == cluster.Master {
				select {
				case h.now <- r.Reign:
				default:
				}
			}
		case <-tick.C:
		}
	}
}

// serve lies on the first connection and is honest on the later ones.
func (h *hostile) serve(ctx context.Context, c *peer.Conn) {
	defer c.Close()
	if c.Service() != wire.ServiceFollow {
		return
	}
	if h.won.Term == 0 {
		h.won = <-h.now
		h.tell <- fmt.Sprint(saidWon, " ", h.won.Term)
	}
	h.lies++
	switch {
	case h.lies == 1:
		h.say(h.send(c, h.old, staleFile), saidTaken, saidRefused)
		h.say(h.pull(ctx, c.Peer()), saidPullTook, saidPullNo)
	default:
		h.say(h.send(c, h.won, honestFile), saidHonest, saidRefused)
		_, _ = io.Copy(io.Discard, neverEnding{ctx}) // keep the connection
	}
}

type neverEnding struct{ ctx context.Context }

func (n neverEnding) Read([]byte) (int, error) {
	<-n.ctx.Done()
	return 0, io.EOF
}

func (h *hostile) say(err error, yes, no string) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		yes = no
	}
	h.tell <- yes
}

// send streams one file in the name of a reign, and returns nil once the
// standby has acknowledged it.
func (h *hostile) send(c *peer.Conn, reign cluster.Reign, name string) error {
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	_, payload, err := c.Read()
	if err != nil {
		return err
	}
	var hello wire.Hello
	if err := json.Unmarshal(payload, &hello); err != nil {
		return err
	}
	from := hello.History.End()
	// What the standby has is a beginning of what the liar claims to have.
	history := append(hello.History[:len(hello.History):len(hello.History)], reconcile.Span{Reign: reign, Last: 1})
	if err := sendJSON(c, wire.FrameWelcome, wire.Welcome{Reign: reign, History: history, Plan: reconcile.Plan{From: from, Known: true}}); err != nil {
		return err
	}
	if kind, _, err := c.Read(); err != nil || kind != wire.FrameReady {
		return fmt.Errorf("no ready but frame %d: %w", kind, err)
	}
	content := []byte("sent in reign " + reign.String())
	begun := wire.Op{Kind: wire.OpBegun, ID: uint64(reign.Term), Old: string(reign.Owner)}
	file := wire.Op{Kind: wire.OpFile, Seq: 1, Path: name, Meta: tree.Meta{Kind: tree.File, Mode: 0o644, Size: int64(len(content)), MTime: time.Now().UnixNano()}}
	batch := wire.Batch{Term: reign.Term, Pos: cluster.Position{Term: reign.Term, Seq: 1}}
	err = errors.Join(c.Write(wire.FrameOp, begun.Append(nil)), c.Write(wire.FrameOp, file.Append(nil), content),
		c.Write(wire.FrameBatch, batch.Append(nil)), c.Flush())
	for err == nil {
		var kind byte
		if kind, payload, err = c.Read(); err == nil && kind == wire.FrameAck {
			var ack wire.Ack
			if ack, err = wire.DecodeAck(payload); err == nil && ack.Pos == batch.Pos {
				return nil
			}
		}
	}
	return err
}

// pull asks a standby for its changes in the name of the old reign.
func (h *hostile) pull(ctx context.Context, from cluster.NodeID) error {
	c, err := peer.Dial(ctx, h.id, from, peer.Paths(h.cfg, h.self, from), wire.ServicePull)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if err := sendJSON(c, wire.FrameHello, wire.Hello{Volume: "home", Reign: h.old}); err != nil {
		return err
	}
	kind, payload, err := c.Read()
	if err == nil && kind != wire.FrameWelcome {
		err = fmt.Errorf("refused: %s", payload)
	}
	return err
}

func sendJSON(c *peer.Conn, kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return errors.Join(c.Write(kind, b), c.Flush())
}
