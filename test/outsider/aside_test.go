package outsider

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ordered waits until every one of them says that the order of the node is so.
func (l *lab) ordered(among []*node, of *node, hold, maintenance bool) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("all say of %s: hold %v, maintenance %v", of.name, hold, maintenance), func() error {
		for _, n := range among {
			s, err := n.status()
			if err != nil {
				return err
			}
			for _, o := range s.Nodes {
				if o.Name == of.name && (o.Hold != any(hold) || o.Maintenance != any(maintenance) || maintenance && o.Eligible != any(false)) {
					return fmt.Errorf("%s says %+v", n.name, o)
				}
			}
		}
		return nil
	})
}

// stepsAside: a master in maintenance hands over and does not lead, not even as the
// last one, until it is told to take part again; both orders outlive the agent.
func stepsAside(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	others := l.others(m)
	must(t, os.WriteFile(filepath.Join(m.vol["home"], "before-maintenance"), []byte("x"), 0o644))
	l.revolve(m, "maintenance", "on").want(t, 0)
	next, err := holder(others)
	if err != nil {
		t.Fatalf("after maintenance on: %v", err)
	}
	if _, err := os.Stat(filepath.Join(next.vol["home"], "before-maintenance")); err != nil {
		t.Errorf("not handed over: %v", err)
	}
	l.ordered(l.nodes, m, false, true)
	m.stop()
	m.start()
	l.ordered(l.nodes, m, false, true)
	if a := l.revolve(next, "switch", m.name); a.status == 0 {
		t.Errorf("a switch to a node in maintenance: %s", a.out)
	}
	for _, o := range others {
		o.stop()
	}
	l.eventually("nobody leads", func() error {
		s, err := m.status()
		if err == nil && (s.Master != "none" || m.eyes.count() > 0) {
			err = fmt.Errorf("master %q", s.Master)
		}
		return err
	})
	l.revolve(m, "maintenance", "off").want(t, 0)
	l.eventually("it leads again", func() error {
		_, err := holder([]*node{m})
		return err
	})
	for _, o := range others {
		o.start()
	}
	l.settled(l.nodes)

	l.revolve(others[0], "hold", "on").want(t, 0)
	for _, n := range l.nodes {
		l.ordered(l.nodes, n, true, false)
	}
	others[1].stop()
	others[1].start()
	l.ordered(l.nodes, others[1], true, false)
	l.eventually("hold off reaches everybody", func() error {
		if a := l.revolve(m, "hold", "off", "--json").want(t, 0); !strings.Contains(a.out, `"missed":["`+spare+`"]`) {
			return errors.New(a.out) // one that has just started may not be heard yet: the answer says so, and it is said again
		}
		return nil
	})
	for _, n := range l.nodes {
		l.ordered(l.nodes, n, false, false)
	}
}
