package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/clients"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// This file is who is connected to the VIPs: the master tells the standbys, so
// that whoever takes over can tell the clients (arrival.go).

// serviceClients answers with a frame for every change of the list, and one now and then without a change.
const serviceClients = "clients"

const (
	frameClients byte = 1
	// clientsEvery is how often the master looks. A client that was connected for less long may have to wait for its own timeouts.
	clientsEvery = time.Second
	// clientsAnyway is how often the list is told without a change: it proves that it is one of now.
	clientsAnyway = 5 * time.Second
	// clientsSilence ends a conversation in which nothing was told.
	clientsSilence = 3 * clientsAnyway
	// clientsKeep is how long the last list counts: longer than the wait for an absent node, and shorter than anybody waits for an answer.
	clientsKeep = 2 * time.Minute
	// clientsAgain doubles from the first to the second while the master cannot be asked.
	clientsFirst = time.Second
	clientsLast  = time.Minute
)

// clientele is what is known of the clients' connections.
type clientele struct {
	mu   sync.Mutex
	list []clients.Conn
	of   cluster.Reign // whose master told the list
	at   time.Time     // and when

	looking sync.Mutex // one look for all standbys
	own     []clients.Conn
	looked  time.Time
	failed  string

	unended string // why connections stay here, as said last; of departures alone
}

// tell keeps what a master has told.
func (c *clientele) tell(of cluster.Reign, list []clients.Conn, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list, c.of, c.at = list, of, at
}

// take is the list of another master than self, each one once, if it still counts at now.
func (c *clientele) take(self cluster.NodeID, now time.Time) []clients.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.list
	c.list = nil
	if c.of.Owner == self || now.Sub(c.at) > clientsKeep {
		return nil
	}
	return list
}

// known is how many connections take would give at now.
func (c *clientele) known(self cluster.NodeID, now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of.Owner == self || now.Sub(c.at) > clientsKeep {
		return 0
	}
	return len(c.list)
}

// vips are the floating addresses of the configuration.
func (a *Agent) vips() (out []netip.Addr) {
	for _, v := range a.o.Config.VIPs {
		out = append(out, v.Prefix.Addr())
	}
	return out
}

// connected is who is connected here; it looks at most once in clientsEvery.
func (a *Agent) connected() []clients.Conn {
	c := &a.clients
	c.looking.Lock()
	defer c.looking.Unlock()
	if time.Since(c.looked) < clientsEvery*9/10 {
		return c.own
	}
	list, more, err := clients.List(a.vips())
	said := ""
	switch {
	case err != nil:
		said = err.Error()
	case more:
		said = fmt.Sprintf("more than %d connections", clients.Max)
	}
	if said != "" && said != c.failed {
		a.o.Log.Warn("not every client can be told at once when the addresses move", "why", said, "hint", problem.HintOf(err))
	}
	slices.SortFunc(list, func(x, y clients.Conn) int { return cmp.Or(x.VIP.Compare(y.VIP), x.Client.Compare(y.Client)) })
	c.own, c.looked, c.failed = list, time.Now(), said
	return list
}

// serveClients tells another node who is connected here, for as long as this one leads.
func (a *Agent) serveClients(ctx context.Context, c *peer.Conn) error {
	defer c.Close()
	tick := time.NewTicker(clientsEvery)
	defer tick.Stop()
	var told []byte
	var at time.Time
	for {
		r := a.current()
		if r.Role != cluster.Master {
			return nil
		}
		b := clients.Append(nil, r.Reign.Term, a.connected())
		if now := time.Now(); !bytes.Equal(b, told) || now.Sub(at) >= clientsAnyway {
			if err := errors.Join(c.SetWriteDeadline(now.Add(clientsAnyway)), c.Write(frameClients, b), c.Flush()); err != nil {
				return err
			}
			told, at = b, now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// followClients hears from the master who is connected there.
func (a *Agent) followClients(ctx context.Context) error {
	if len(a.o.Config.VIPs) == 0 {
		return nil
	}
	wait, of := clientsFirst, cluster.Reign{}
	for {
		if r := a.current(); r.Master != "" && r.Master != a.o.Node {
			if r.Reign != of {
				wait, of = clientsFirst, r.Reign
			}
			if err := a.hearClients(ctx, r); err != nil && ctx.Err() == nil {
				a.o.Log.Debug("who is connected to the master is not known", "master", r.Master, "err", err)
				wait = min(2*wait, clientsLast)
			}
		} else {
			wait = clientsFirst
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(wait, clientsLast)):
		case <-a.otherMaster(of):
			wait = clientsFirst
		}
	}
}

// otherMaster is a channel that is closed at the next report if another reign than of is in force now.
func (a *Agent) otherMaster(of cluster.Reign) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.report.Reign == of || a.report.Master == a.o.Node || a.report.Master == "" {
		return nil
	}
	return a.changed
}

// hearClients hears until the master is another one, or is silent.
func (a *Agent) hearClients(ctx context.Context, r beat.Report) error {
	dialling, cancel := context.WithTimeout(ctx, recordWithin)
	defer cancel()
	c, err := a.dial(dialling, r.Master, serviceClients)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	heard := time.Now()
	for {
		if now := a.current(); now.Reign != r.Reign || now.Master != c.Peer() {
			return nil
		}
		if err := c.SetReadDeadline(time.Now().Add(clientsEvery)); err != nil {
			return err
		}
		kind, b, err := c.Read()
		switch {
		case problem.KindOf(err) == problem.Timeout && time.Since(heard) < clientsSilence:
			continue
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case kind != frameClients:
			return &problem.Problem{Op: "read clients", Kind: problem.Corrupt, Subject: string(r.Master), Err: errors.New("it is no list"), Hint: "run the same version of revolve on all nodes"}
		}
		if err := a.clientsTold(r.Reign, b); err != nil {
			return err
		}
		heard = time.Now()
	}
}

// clientsTold takes a list in; one of an older reign than was ever heard of counts nothing (P3).
func (a *Agent) clientsTold(of cluster.Reign, b []byte) error {
	term, list, err := clients.Parse(b, a.vips())
	if err != nil {
		return err
	}
	if seen := a.record.Seen(); term != of.Term || term < seen {
		return &problem.Problem{Op: "read clients", Kind: problem.StaleTerm, Subject: fmt.Sprint(term), Err: fmt.Errorf("term %d has been seen", seen)}
	}
	a.clients.tell(of, list, time.Now())
	return nil
}
