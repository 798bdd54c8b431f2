package stories

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/testbed"
)

// pacemakerFor is what a cluster manager may take on a busy machine; Corosync's
// token alone is 3.65 s for three nodes.
const pacemakerFor = 90 * time.Second

// pacer is Corosync and Pacemaker on every node, with the published example as
// their configuration.
type pacer struct {
	*lab
	dir string // of a node's files for them
}

func newPacer(t *testing.T, stage *testbed.Stage) *pacer {
	t.Helper()
	for _, program := range []string{"corosync", "pacemakerd", "cibadmin"} {
		needsEngine(t, program)
	}
	p := &pacer{lab: newLab(t, stage, plan{engine: "external"})}
	p.dir = filepath.Join(p.bed.Self(), "pacemaker")
	key := make([]byte, 1024) // any bytes will do: nobody else is on these links
	for i := range key {
		key[i] = byte(i * 7)
	}
	paths := strings.NewReplacer("/usr/bin/revolve", os.Getenv(envBin), "/var/lib/revolve", filepath.Join(p.bed.Self(), "state"))
	for _, n := range p.nodes {
		dir := filepath.Join(n.Root(), "pacemaker")
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "authkey"), key, 0o400))
		for _, name := range []string{"corosync.conf", "cib.xml", "revolve"} {
			b, err := os.ReadFile("../../examples/pacemaker/" + name)
			must(t, err)
			text := string(b)
			if name == "cib.xml" {
				text = paths.Replace(text)
			}
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
		}
	}
	return p
}

// pace starts Corosync and Pacemaker on the node.
func (p *pacer) pace(n *node) {
	p.t.Helper()
	script, err := filepath.Abs("testdata/pacemaker-machine.sh")
	must(p.t, err)
	_, err = n.Start(testbed.Command{Argv: []string{"sh", script, p.dir}, Log: filepath.Join(p.stage.Dir, "logs", fmt.Sprintf("%s.pacemaker.%d.log", n.name, n.logs))})
	must(p.t, err)
}

// run runs a command of Pacemaker's on the node.
func (p *pacer) run(n *node, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), commandFor)
	defer cancel()
	out, err := n.Run(ctx, argv...)
	if err != nil {
		err = fmt.Errorf("%s on %s: %w: %s", argv[0], n.name, err, out)
	}
	return string(out), err
}

func (p *pacer) slowly(what string, cond func() error) {
	p.t.Helper()
	p.within(pacemakerFor, what, 5*askEvery, cond)
}

// Real Pacemaker promotes by our scores and places the addresses: its node goes
// into maintenance, the next one loses power.
func TestPacemakerFollowed(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		p := newPacer(t, stage)
		for _, name := range p.names {
			p.nodes[name].start()
			p.pace(p.nodes[name])
		}
		a := p.nodes["a"]
		p.slowly("Pacemaker to know all nodes", func() error {
			out, err := p.run(a, "crm_node", "-p")
			if err == nil && len(strings.Fields(out)) != len(p.names) {
				err = fmt.Errorf("%q", out)
			}
			return err
		})
		p.slowly("the example to be taken", func() error {
			_, err := p.run(a, "cibadmin", "--replace", "--scope", "configuration", "--xml-file", filepath.Join(p.dir, "cib.xml"))
			return err
		})
		var m *node
		p.slowly("one holder", func() error {
			who := p.holders()
			if len(who) != 1 {
				out, err := p.run(a, "crm_mon", "-1", "-A", "-r")
				return errors.Join(fmt.Errorf("the VIPs are on %v: %s", who, out), err)
			}
			m = p.nodes[who[0]]
			return nil
		})
		p.settled()
		put(t, m.home("agreed"), "before the maintenance")
		m.sync()
		// In maintenance the score is -INFINITY: Pacemaker brings the addresses away.
		p.slowly("a standby that calls itself in-sync", func() error {
			_, complaint, status := p.revolve("maintenance", "on", "--state", m.state())
			if status != 0 {
				return errors.New(complaint)
			}
			return nil
		})
		next := p.holder(m)
		p.settled()
		p.mustRevolve("maintenance", "off", "--state", m.state())
		put(t, next.home("later"), "after the maintenance")
		next.sync()
		next.off()
		last := p.holder(next)
		p.settled()
		must(t, have(last.home("agreed"), "before the maintenance"))
		must(t, have(last.home("later"), "after the maintenance"))
	})
}

// holder waits until exactly one node, and not old, has the addresses.
func (p *pacer) holder(old *node) (n *node) {
	p.t.Helper()
	p.slowly("a holder after "+old.name, func() error {
		who := p.holders()
		if len(who) != 1 || who[0] == old.name {
			return fmt.Errorf("the VIPs are on %v", who)
		}
		n = p.nodes[who[0]]
		return nil
	})
	return n
}
