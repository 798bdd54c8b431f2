package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/history"
	"revolve/internal/mirror"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/kept"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// This file is the records of failovers: the node that takes over writes one, the
// others fetch it, so that whoever is left can tell.

// serviceHistory answers every connection with two frames: the records and the rehearsals, newest first.
const serviceHistory = "history"

const (
	frameHistory    byte = 1
	frameRehearsals byte = 2
	// shownRecords bounds what one node tells another: 100 records of 64 volumes fit a frame many times over.
	shownRecords = 100
	// turnsAhead bounds the turns that wait for the disk.
	turnsAhead = 16
	// lookEvery is how often it is seen whether something is to be fetched or filled in.
	lookEvery = 2 * time.Second
	// fetchAgain doubles from the first to the second: a record is complete when the old master has returned, which may be soon or never.
	fetchFirst = 2 * time.Second
	fetchLast  = 10 * time.Minute
	// fillDepth bounds for how many of the latest reigns the old master's return is awaited.
	fillDepth = 10
	// recordWithin bounds one conversation about records.
	recordWithin = 5 * time.Second
)

// turned is a reign that this node began, and what it had of the volumes.
type turned struct {
	turn beat.Turn
	told []mirror.Told
}

func (a *Agent) openHistory() (err error) {
	a.history, err = history.Open(filepath.Join(a.o.State, "history"))
	return err
}

// turn takes note of a reign that this node has begun. It never waits.
func (a *Agent) turn(t beat.Turn, told []mirror.Told) {
	select {
	case a.turns <- turned{t, told}:
	default:
		a.o.Log.Warn("a failover is not recorded: the disk of the state directory does not keep up", "reign", t.Reign)
	}
}

// records writes what this node did, fetches what others did, and fills in what becomes known later.
func (a *Agent) records(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var f fetcher
	var late []first
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case t := <-a.turns:
			r := recordOf(t)
			if by := a.announced.of(r.From, time.Now()); r.Cause == history.CauseSwitch {
				r.Ordered = by
			}
			a.o.Log.Info("took over", "reign", t.turn.Reign, "from", r.From, "cause", r.Cause, "rto_ms", value(r.RTO))
			a.counted(r)
			err = a.history.Put(r)
		case x := <-a.firsts:
			late, err = a.fillFirsts(append(late, x))
		case now := <-tick.C:
			r := a.current()
			switch {
			case len(late) > 0:
				late, err = a.fillFirsts(late)
			case r.Role == cluster.Master:
				err = a.fillIn(ctx, r)
			case r.Master != "" && f.due(r.Reign, now):
				err = a.fetchRecords(ctx, r.Master)
			}
		}
		if err != nil && ctx.Err() == nil && problem.KindOf(err) != problem.Unavailable {
			a.o.Log.Warn("the history of failovers", "err", err, "hint", problem.HintOf(err))
		}
	}
}

func value(p *float64) any {
	if p == nil {
		return "unknown"
	}
	return *p
}

// fetcher says when the master's records are to be fetched again.
type fetcher struct {
	of   cluster.Reign
	next time.Time
	wait time.Duration
}

func (f *fetcher) due(r cluster.Reign, now time.Time) bool {
	if r != f.of {
		*f = fetcher{of: r, wait: fetchFirst, next: now.Add(fetchFirst)}
	}
	if now.Before(f.next) {
		return false
	}
	f.wait = min(2*f.wait, fetchLast)
	f.next = now.Add(f.wait)
	return true
}

// recordOf puts a turn and the volumes into a record.
func recordOf(t turned) history.Record {
	u := t.turn
	r := history.Record{Term: u.Reign.Term, Master: u.Reign.Owner, From: u.From.Owner, FromTerm: u.From.Term, Cause: u.Cause, At: u.Began, Volumes: []history.Volume{},
		Times: history.Times{Heard: some(u.Heard), Released: some(u.Released), Suspect: some(u.Suspect), Claim: some(u.Claim), Address: some(u.Address), Announced: some(u.Announce)}}
	r.Measure()
	last := u.Heard // the last sign of the old master
	if !u.Released.IsZero() {
		last = u.Released
	}
	for _, v := range t.told {
		x := history.Volume{Name: v.Volume, Applied: v.Here}
		if v.Master != "" && v.Master == u.From.Owner && v.Head.Term > 0 {
			x.Advertised = &v.Head
			x.Missing, x.RPO = missing(v, u.Cause, last)
		}
		r.Volumes = append(r.Volumes, x)
	}
	return r
}

// missing is how many changes of those that the old master had told of are not
// here, and since when something may be missing, in milliseconds before its last sign.
func missing(v mirror.Told, cause string, last time.Time) (*uint64, *float64) {
	if v.Here.Term != v.Head.Term {
		return nil, nil // the positions are of two reigns: a number would be a guess
	}
	n, rpo := uint64(0), 0.0
	if v.Here.Seq < v.Head.Seq {
		n = v.Head.Seq - v.Here.Seq
		rpo = ms(v.Lag)
	}
	if last.IsZero() {
		return &n, nil
	}
	if cause != history.CauseSwitch || n > 0 { // a planned switch is flushed before the grant
		rpo += ms(max(0, last.Sub(v.At)))
	}
	return &n, &rpo
}

func some(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// fetchRecords takes over what the master has written down.
func (a *Agent) fetchRecords(ctx context.Context, from cluster.NodeID) error {
	t, err := a.askRecords(ctx, from)
	if err != nil {
		return err
	}
	return a.keepTold(t)
}

// toldHistory is what another node knows.
type toldHistory struct {
	records    []history.Record
	rehearsals []history.Rehearsal
}

func (a *Agent) keepTold(t toldHistory) error {
	return errors.Join(a.history.Put(t.records...), a.rehearsed.Put(t.rehearsals...))
}

func (a *Agent) askRecords(ctx context.Context, from cluster.NodeID) (t toldHistory, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordWithin)
	defer cancel()
	conn, err := a.dial(ctx, from, serviceHistory)
	if err != nil {
		return t, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	kind, b, err := conn.Read()
	if err != nil {
		return t, err
	}
	if t.records, err = readList[history.Record](kind, frameHistory, b); err == nil {
		if kind, b, err = conn.Read(); err == io.EOF {
			return t, nil // a node of an older version tells of no rehearsals
		}
		if err != nil {
			return t, err
		}
		t.rehearsals, err = readList[history.Rehearsal](kind, frameRehearsals, b)
	}
	if err != nil {
		return toldHistory{}, &problem.Problem{Op: "read the history of", Kind: problem.Corrupt, Subject: string(from), Err: err, Hint: "run the same version of revolve on all nodes"}
	}
	return t, nil
}

// readList checks a list that another node has sent.
func readList[T interface{ Check() error }](kind, want byte, b []byte) (list []T, err error) {
	if kind != want {
		return nil, errors.New("it is no history")
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	if len(list) > shownRecords {
		return nil, errors.New("it has too many records")
	}
	for _, r := range list {
		err = errors.Join(err, r.Check())
	}
	return list, err
}

// serveHistory tells another node what is known here.
func (a *Agent) serveHistory(c *peer.Conn) error {
	defer c.Close()
	records, rehearsals := a.history.List(), a.rehearsed.List()
	b, err := json.Marshal(records[:min(len(records), shownRecords)])
	if err == nil {
		err = c.Write(frameHistory, b)
	}
	if err == nil {
		b, err = json.Marshal(rehearsals[:min(len(rehearsals), shownRecords)])
	}
	if err != nil {
		return err
	}
	return errors.Join(c.Write(frameRehearsals, b), c.Flush())
}

// fillIn asks an old master that has returned what it had to keep aside. Whoever
// is master now asks: who took over then may be gone.
func (a *Agent) fillIn(ctx context.Context, r beat.Report) error {
	list := a.history.List()
	for _, x := range list[:min(len(list), fillDepth)] {
		if !x.Open() || x.From == a.o.Node || !a.caughtUp(x.From, r) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, recordWithin)
		defer cancel()
		x.Volumes = slices.Clone(x.Volumes)
		for i := range x.Volumes {
			v := &x.Volumes[i]
			err := a.withNode(ctx, x.From, func(c *peer.Conn) error {
				kept, err := kept.AskDivergent(c, v.Name)
				n := unreceived(kept, x)
				v.KeptAside = &n
				return err
			})
			if err != nil {
				return err
			}
		}
		x.Revision++
		return a.history.Put(x) // the next one at the next look
	}
	return nil
}

// unreceived counts what the old master kept of the reign that ended with x.
func unreceived(list []apply.Kept, x history.Record) (n int) {
	for _, k := range list {
		if k.Node == x.From && k.Term == x.FromTerm && k.Why == apply.WhyUnreceived {
			n++
		}
	}
	return n
}

// caughtUp reports whether a node follows, with everything: it has settled its past then.
func (a *Agent) caughtUp(n cluster.NodeID, r beat.Report) bool {
	if !slices.ContainsFunc(r.Peers, func(p beat.PeerReport) bool {
		return p.Node == n && p.State == beat.PeerAlive && p.Role == cluster.Standby && p.Reign == r.Reign
	}) {
		return false
	}
	for _, v := range a.volumeReports() {
		if !slices.ContainsFunc(v.Standbys, func(s mirror.Standby) bool { return s.Node == n && s.State == "in-sync" }) {
			return false
		}
	}
	return true
}

// counted keeps the counters of this node's turns.
func (a *Agent) counted(r history.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failovers == nil {
		a.failovers = map[string]int64{}
	}
	a.failovers[r.Cause]++
}

// failoverStatus is what status says about failovers.
func (a *Agent) failoverStatus() control.Failovers {
	f := control.Failovers{ByCause: map[string]int64{}}
	a.mu.Lock()
	for cause, n := range a.failovers {
		f.ByCause[cause] = n
		f.Here += n
	}
	a.mu.Unlock()
	if list := a.history.List(); len(list) > 0 {
		f.Last = &list[0]
		f.Known = len(list)
	}
	return f
}

// History is what this node and the others know of failovers.
func (b backend) History(ctx context.Context) (control.History, error) {
	a := b.a
	ctx, cancel := context.WithTimeout(ctx, recordWithin)
	defer cancel()
	nodes := alive(a.current())
	told, errs := make([]toldHistory, len(nodes)), make([]error, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			told[i], errs[i] = a.askRecords(ctx, n)
			return nil
		})
	}
	_ = g.Wait() // what went wrong is in errs
	out := control.History{Silent: []control.Silent{}}
	for i, err := range errs {
		if err != nil {
			out.Silent = append(out.Silent, control.Silent{Node: nodes[i], Why: err.Error()})
		}
	}
	var all toldHistory
	for _, t := range told {
		all.records, all.rehearsals = append(all.records, t.records...), append(all.rehearsals, t.rehearsals...)
	}
	err := a.keepTold(all)
	out.Records, out.Rehearsals = a.history.List(), a.rehearsed.List()
	return out, err
}
