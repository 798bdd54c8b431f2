package stories

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// byHand is an engine of one person with `ip addr`.
func (n *node) byHand(do string, addrs ...string) {
	n.lab.t.Helper()
	for _, a := range addrs {
		argv := []string{"ip", "addr", do, a, "dev", string(lan)}
		if strings.Contains(a, ":") && do == "add" {
			argv = append(argv, "nodad")
		}
		if out, err := n.Run(n.lab.t.Context(), argv...); err != nil {
			n.lab.t.Fatalf("%v on %s: %v\n%s", argv, n.name, err, out)
		}
	}
}

// The worst that an engine can do: two holders, and the one whose reign was over
// keeps the addresses. The later reign's words count, the other's are kept; and
// addresses on two nodes, one each, are named as what they are.
func TestExternalWrongWinner(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{engine: "external"})
		both := []string{vip4.String(), vip6.String()}
		for _, name := range l.names {
			l.nodes[name].start()
		}
		a, b, c := l.nodes["a"], l.nodes["b"], l.nodes["c"]
		a.byHand("add", both...)
		l.settled()
		put(t, a.home("agreed"), "as all agreed")
		a.sync()
		b.byHand("add", both...)
		l.leads(b)
		l.eventually("a to freeze", askEvery, func() error {
			s, err := a.status()
			if err == nil && !s.Frozen {
				err = fmt.Errorf("%s, %q", s.Verdict, s.Reasons)
			}
			return err
		})
		put(t, a.home("shared"), "of the lower reign")
		put(t, a.home("lower"), "of the lower reign")
		put(t, b.home("shared"), "of the higher reign")
		put(t, b.home("higher"), "of the higher reign")
		l.eventually("the higher reign's words to travel", lookEvery, func() error {
			return errors.Join(have(c.home("shared"), "of the higher reign"), have(c.home("higher"), "of the higher reign"))
		})
		b.byHand("del", both...)
		l.leads(a)
		l.settled()
		l.everywhere("shared", "of the higher reign")
		l.everywhere("higher", "of the higher reign")
		l.equal(a)
		if len(found(t, a.home(hidden, "divergent"), "of the lower reign")) < 2 {
			t.Errorf("what a wrote while b reigned is not kept aside: %+v", a.divergent())
		}
		for _, n := range []*node{b, c} {
			if list := n.divergent(); len(list) > 0 {
				t.Errorf("%s keeps aside %+v", n.name, list)
			}
		}
		a.byHand("del", vip6.String())
		b.byHand("add", vip6.String())
		l.eventually("the split to be named", askEvery, func() error {
			s, err := c.status()
			if err == nil && (s.Verdict != control.Critical || !strings.Contains(strings.Join(s.Reasons, "\n"), "split addresses") || s.Master != "none") {
				err = fmt.Errorf("%s, master %s, %q", s.Verdict, s.Master, s.Reasons)
			}
			return err
		})
	})
}
