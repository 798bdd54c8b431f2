package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/testbed"
)

// How often things are looked at: commands are processes, so not too often.
const (
	barrierEvery = 500 * time.Millisecond
	statusEvery  = 100 * time.Millisecond
	lookEvery    = 10 * time.Millisecond
)

// theatre is everything that plays: the nodes with their programs, the client,
// and those who keep the record.
type theatre struct {
	stage    *testbed.Stage
	bed      *testbed.Bed
	plan     plan
	program  string // this same binary
	tasks    *errgroup.Group
	ctx      context.Context // of the tasks; ends with the story
	rnd      *rand.Rand
	machines map[string]*machine
	client   *testbed.Node
	onlooker *testbed.Node

	holders *holders
	cards   *cards
	answers *answers
	ledger  *ledger
	calm    atomic.Bool // no fault at this moment: barriers make sense

	mu       sync.Mutex
	barriers []barrier
	serial   uint32
}

// machine is one node and what runs on it.
type machine struct {
	name   string
	node   *testbed.Node
	agent  *testbed.Proc
	writer *testbed.Proc
	boots  int
	up     bool // its agent runs, and it is neither held nor cut off
}

// openTheatre makes the nodes and the client; nothing runs yet.
func openTheatre(ctx context.Context, tasks *errgroup.Group, stage *testbed.Stage, nodes int, seed uint64) (*theatre, error) {
	bed, err := testbed.NewBed(stage)
	if err != nil {
		return nil, err
	}
	t := &theatre{
		stage: stage, bed: bed, tasks: tasks, ctx: ctx, program: "/proc/self/exe",
		plan:     newPlan(nodes, stage.Dir, bed.Self()),
		rnd:      rand.New(rand.NewPCG(seed, 1)),
		machines: map[string]*machine{},
		answers:  &answers{}, ledger: newLedger(),
	}
	t.holders, t.cards = newHolders(t.plan.vip4.Addr()), newCards()
	if err := t.build(); err != nil {
		return nil, errors.Join(err, bed.Close())
	}
	return t, nil
}

func (t *theatre) build() error {
	for _, l := range []cluster.LinkID{linkLAN, linkFast} {
		if err := t.bed.AddLink(l); err != nil {
			return err
		}
	}
	for i, name := range t.plan.names {
		n, err := t.bed.AddNode(t.plan.spec(i, name))
		if err != nil {
			return err
		}
		t.machines[name] = &machine{name: name, node: n}
	}
	var err error
	if t.client, err = t.bed.AddNode(t.plan.clientSpec()); err != nil {
		return err
	}
	if t.onlooker, err = t.bed.AddNode(t.plan.onlookerSpec()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(t.plan.dir, "logs"), 0o755); err != nil {
		return &problem.Problem{Op: "make directory", Subject: "logs", Kind: problem.Internal, Err: err}
	}
	return nil
}

// found makes the cluster: its configuration, its identities, the empty volumes.
func (t *theatre) found(ctx context.Context) error {
	if err := os.WriteFile(t.plan.configFile(), []byte(t.plan.config()), 0o644); err != nil {
		return &problem.Problem{Op: "write configuration", Kind: problem.Internal, Err: err}
	}
	first := t.plan.names[0]
	if _, _, err := t.revolve(ctx, "init", "--config", t.plan.configFile(), "--node", first, "--state", t.plan.state(first)); err != nil {
		return err
	}
	for _, name := range t.plan.names {
		if name != first {
			_, _, err := t.revolve(ctx, "identity", "issue", name, "--out", t.plan.state(name), "--state", t.plan.state(first))
			if err != nil {
				return err
			}
		}
		for _, vol := range []string{volHome, volZones} {
			if err := os.MkdirAll(t.plan.volume(name, vol), 0o755); err != nil {
				return &problem.Problem{Op: "make volume", Subject: vol, Kind: problem.Internal, Err: err}
			}
		}
	}
	// What was set up by hand is on the disks before anything fails.
	unix.Sync()
	return nil
}

// boot starts what runs on a node whose power is on.
func (t *theatre) boot(m *machine) error {
	w, err := m.node.WatchAddresses()
	if err != nil {
		return err
	}
	t.tasks.Go(func() error {
		defer w.Close()
		return w.Run(t.ctx, func(c testbed.AddressChange) { t.holders.note(m.name, c) })
	})
	m.boots++
	if err := t.startAgent(m); err != nil {
		return err
	}
	_, err = m.node.Start(testbed.Command{
		Argv: []string{t.program, "demo-dns", "--zone", filepath.Join(t.plan.self, volZones, zoneFile), "--node", m.name},
		Log:  t.plan.logFile(m.name, "dns"),
	})
	if err != nil {
		return err
	}
	m.writer, err = t.follow(m.node, func(r *bufio.Reader) error { return t.readLedger(m.name, r) },
		"demo-write", "--dir", filepath.Join(t.plan.self, volHome), "--node", m.name,
		"--run", strconv.Itoa(m.boots*1000), "--while", t.plan.vip4.Addr().String(), "--seed", strconv.FormatUint(t.rnd.Uint64(), 10))
	return err
}

func (t *theatre) startAgent(m *machine) (err error) {
	m.agent, err = m.node.Start(testbed.Command{
		Argv: []string{t.program, "agent", "--config", t.plan.configFile(), "--node", m.name, "--state", filepath.Join(t.plan.self, "state")},
		Log:  t.plan.logFile(m.name, "agent"),
	})
	m.up = err == nil
	return err
}

// follow starts a part of the demo on a node and reads what it prints until it ends.
func (t *theatre) follow(n *testbed.Node, read func(*bufio.Reader) error, args ...string) (*testbed.Proc, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, &problem.Problem{Op: "make a pipe", Kind: problem.Unavailable, Err: err}
	}
	defer w.Close()
	log, err := os.OpenFile(t.plan.logFile(string(n.ID), args[0]), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		r.Close()
		return nil, &problem.Problem{Op: "open log", Kind: problem.Internal, Err: err}
	}
	defer log.Close()
	p, err := n.Start(testbed.Command{Argv: append([]string{t.program}, args...), Stdout: w, Stderr: log})
	if err != nil {
		r.Close()
		return nil, err
	}
	t.tasks.Go(func() error {
		defer r.Close()
		stop := context.AfterFunc(t.ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		err := read(bufio.NewReader(r))
		if t.ctx.Err() != nil {
			return nil
		}
		return err
	})
	return p, nil
}

func (t *theatre) readLedger(node string, r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil // the writer has ended, perhaps in the middle of a line
		}
		c, err := parseChange(node, line)
		if err == nil {
			err = t.ledger.add(c)
		}
		if err != nil {
			return &problem.Problem{Op: "read the ledger of " + node, Kind: problem.Corrupt, Err: err}
		}
	}
}

func (t *theatre) startClient() error {
	_, err := t.follow(t.client, func(r *bufio.Reader) error { return t.answers.read(r) },
		"demo-ask", "--server", t.plan.vip4.Addr().String(), "--server", t.plan.vip6.Addr().String())
	return err
}

// publish writes the zone on the node with a new serial.
func (t *theatre) publish(node string) error {
	t.serial++
	dir := t.plan.volume(node, volZones)
	tmp := filepath.Join(dir, zoneFile+".tmp")
	err := os.WriteFile(tmp, []byte(zoneText(t.serial)), 0o644)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, zoneFile))
	}
	if err != nil {
		return &problem.Problem{Op: "write the zone", Subject: node, Kind: problem.Unavailable, Err: err}
	}
	return nil
}

// master waits until exactly one node has the address and returns it.
func (t *theatre) master(ctx context.Context, within time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		who, bell := t.holders.current()
		if len(who) == 1 {
			return who[0], nil
		}
		select {
		case <-ctx.Done():
			return "", &problem.Problem{Op: "wait for one master", Kind: problem.Timeout,
				Err: fmt.Errorf("after %v the address is on %v", within, who)}
		case <-bell:
		}
	}
}

// until polls a condition; the error says what it waited for.
func until(ctx context.Context, within, every time.Duration, what string, cond func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for !cond() {
		select {
		case <-ctx.Done():
			return &problem.Problem{Op: "wait for", Subject: what, Kind: problem.Timeout, Err: fmt.Errorf("not within %v", within)}
		case <-time.After(every):
		}
	}
	return nil
}

// settled waits until the master calls every node that is up in-sync.
func (t *theatre) settled(ctx context.Context, within time.Duration) (*status, error) {
	var last *status
	var why error
	err := until(ctx, within, statusEvery, "all nodes in-sync", func() bool {
		who, _ := t.holders.current()
		if len(who) != 1 {
			why = fmt.Errorf("the address is on %v", who)
			return false
		}
		if last, why = t.status(ctx, who[0]); why != nil {
			return false
		}
		for name, m := range t.machines {
			if m.up && name != who[0] && !last.inSync(name) {
				why = fmt.Errorf("%s does not call %s in-sync", who[0], name)
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, errors.Join(err, why)
	}
	return last, nil
}

// rest makes every writer pause, and waits until it says so.
func (t *theatre) rest(ctx context.Context) error {
	before := map[string]int{}
	for name, m := range t.machines {
		if m.node.On() {
			before[name] = t.ledger.pauses(name)
			if err := m.writer.Signal(unix.SIGUSR1); err != nil {
				return err
			}
		}
	}
	return until(ctx, commandFor, lookEvery, "the writers to rest", func() bool {
		for name, n := range before {
			if t.ledger.pauses(name) == n {
				return false
			}
		}
		return true
	})
}

func (t *theatre) goOn() error {
	var errs []error
	for _, m := range t.machines {
		if m.node.On() {
			errs = append(errs, m.writer.Signal(syscall.SIGUSR2))
		}
	}
	return errors.Join(errs...)
}
