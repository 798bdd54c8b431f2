package stories

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/mirror/wire"
	"revolve/internal/peer"
	"revolve/internal/testbed"
)

// progRogue is this test binary as a node that has a real identity and talks
// nonsense with it, in every service that a node offers.
const progRogue = "stories-rogue"

const (
	rogueTalks  = 150               // connections with nonsense
	rogueSilent = 8                 // followers that fall silent
	rogueFor    = 40 * time.Second  // bounds its life
	rogueDone   = "said everything" // on stdout, when only the silent ones are left
	// rogueMemory and rogueLog bound what the master may need because of it.
	rogueMemory = 256 << 20
	rogueLog    = 2000 // lines
)

// rogueMain runs it: CONFIG NODE STATE MASTER REIGN(JSON) SEED.
func rogueMain(args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), rogueFor)
	defer cancel()
	cfg, err := config.Load(args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	id, err := peer.LoadIdentity(args[2])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	seed, _ := strconv.ParseUint(args[5], 10, 64)
	r := rogue{ctx: ctx, rnd: rand.New(rand.NewPCG(seed, 3))}
	r.dial = func(service string) (*peer.Conn, error) {
		return peer.Dial(ctx, id, cluster.NodeID(args[3]), peer.Paths(cfg, cluster.NodeID(args[1]), cluster.NodeID(args[3])), service)
	}
	if err := json.Unmarshal([]byte(args[4]), &r.hello.Reign); err != nil {
		fmt.Println(err)
		return 1
	}
	r.hello.Volume = "home"
	for range rogueTalks {
		if err := r.talk(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	for range rogueSilent { // followers that never answer
		if err := r.fall(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	for _, c := range r.silent[:rogueSilent-1] { // one is enough for a node
		for err := error(nil); err == nil; {
			_, _, err = c.Read()
		}
	}
	fmt.Println(rogueDone)
	<-ctx.Done()
	return 0
}

type rogue struct {
	ctx    context.Context
	rnd    *rand.Rand
	dial   func(service string) (*peer.Conn, error)
	hello  wire.Hello
	silent []*peer.Conn // kept
}

// talk opens a service and says something wrong.
func (r *rogue) talk() error {
	services := []string{wire.ServiceFollow, wire.ServicePull, wire.ServiceBulk, "order", "no-such-service"}
	c, err := r.dial(services[r.rnd.IntN(len(services))])
	if err != nil {
		return err // an honest beginning is never refused
	}
	defer c.Close()
	if r.rnd.IntN(2) == 0 {
		h := r.hello
		if r.rnd.IntN(3) == 0 {
			h.Volume, h.Reign.Term = "no-such-volume", cluster.Term(r.rnd.Uint64())
		}
		_ = sendJSON(c, wire.FrameHello, h)
		if r.rnd.IntN(2) == 0 {
			_ = sendJSON(c, wire.FrameReady, r.ready())
		}
	}
	for range 1 + r.rnd.IntN(20) {
		payload := make([]byte, r.rnd.IntN(200))
		for i := range payload {
			payload[i] = byte(r.rnd.Uint32())
		}
		kind := byte(1 + r.rnd.IntN(25))
		switch r.rnd.IntN(4) {
		case 0:
			kind, payload = wire.FrameAck, wire.Ack{Pos: cluster.Position{Term: 1 << 60, Seq: 1}, Batches: r.rnd.Uint64()}.Append(nil)
		case 1:
			kind, payload = wire.FrameWants, []byte(`{"trees":["Li4vLi4vZXRjL3Bhc3N3ZA==","L2V0Yy9zaGFkb3c="],"names":["Li4vLi4="]}`)
		}
		if c.Write(kind, payload) != nil || c.Flush() != nil {
			return nil // it hung up: right
		}
	}
	return nil
}

func (r *rogue) ready() wire.Ready {
	return wire.Ready{Owed: []wire.Debt{{Path: []byte("../../etc/passwd")}, {Path: []byte(".revolve/volume"), Tree: true}}}
}

// fall follows as a standby does and then falls silent.
func (r *rogue) fall() error {
	c, err := r.dial(wire.ServiceFollow)
	if err != nil {
		return err
	}
	r.silent = append(r.silent, c)
	return errors.Join(sendJSON(c, wire.FrameHello, r.hello), sendJSON(c, wire.FrameReady, wire.Ready{}))
}

// A node with a real certificate that sends garbage in every service, asks for
// paths outside of the volume, acknowledges what was never sent and falls silent as a
// follower costs the others nothing: no role, no file, no memory, no log.
func TestRoguePeer(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{node: func(name string) string {
			return map[string]string{"a": ", priority: 100", "b": ", priority: 50", "c": ", candidate: false"}[name]
		}})
		m := l.form()
		fill(t, m.home("many"), 200)
		m.sync()
		s, err := m.status()
		must(t, err)
		reign, err := json.Marshal(cluster.Reign{Term: s.Term, Owner: cluster.NodeID(m.name)})
		must(t, err)
		c, b := l.nodes["c"], l.nodes["b"]
		c.stop()
		exe, err := os.Executable()
		must(t, err)
		log := filepath.Join(stage.Dir, "logs", "rogue.log")
		_, err = c.Start(testbed.Command{Argv: []string{exe, progRogue, l.config(), c.name, c.state(), m.name, string(reign), fmt.Sprint(seed(t))}, Log: log})
		must(t, err)
		wrote := 0
		l.eventually("the rogue to have said everything", lookEvery, func() error {
			put(t, m.home("meanwhile", strconv.Itoa(wrote)), fmt.Sprint("written meanwhile ", wrote))
			wrote++
			text, err := os.ReadFile(log)
			if err == nil && !strings.Contains(string(text), rogueDone) {
				err = fmt.Errorf("it says %q", text)
			}
			return err
		})
		for i := range 200 { // the silent ones are there now
			put(t, m.home("silent", strconv.Itoa(i)), strings.Repeat("x", 100_000))
		}
		m.sync()
		must(t, have(b.home("silent", "199"), strings.Repeat("x", 100_000)))
		for i := range wrote {
			must(t, have(b.home("meanwhile", strconv.Itoa(i)), fmt.Sprint("written meanwhile ", i)))
		}
		if who := l.holders(); len(who) != 1 || who[0] != m.name {
			t.Errorf("the VIPs are on %v", who)
		}
		if rss := residentBytes(t, m.agent.PID()); rss > rogueMemory {
			t.Errorf("the master needs %d MiB", rss>>20)
		} else {
			t.Logf("the master needs %d MiB after %d talks; %d files were written meanwhile", rss>>20, rogueTalks, wrote)
		}
		text, err := os.ReadFile(m.log())
		must(t, err)
		if n := strings.Count(string(text), "\n"); n > rogueLog {
			t.Errorf("the master logged %d lines", n)
		}
	})
}

// residentBytes is what a process holds in memory.
func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	n, err := residentOf(pid)
	must(t, err)
	return n
}

// residentOf reads VmRSS (proc(5)).
func residentOf(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}
