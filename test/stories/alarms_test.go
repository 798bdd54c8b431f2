package stories

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/alarm"
	"revolve/internal/control"
	"revolve/internal/testbed"
)

// progInbox is this test binary as a place that alarms go to: it prints a line for each message.
const progInbox = "stories-inbox"

// inboxAddress is where it listens, on each node for itself: who tells is who has it in the box.
const inboxAddress = "127.0.0.1:8088"

func inboxMain() int {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			fmt.Printf("%s %s\n", r.URL.Path, strings.TrimSpace(string(body)))
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(inboxAddress, handler)) // it ends with its node
	return 1
}

// inbox is what a node's agent has told its place so far: messages, and how many heartbeats.
func (n *node) inbox() (messages []alarm.Message, beats int) {
	n.lab.t.Helper()
	b, err := os.ReadFile(n.inboxFile())
	must(n.lab.t, err)
	for _, line := range strings.Split(string(b), "\n") {
		path, body, _ := strings.Cut(line, " ")
		switch path {
		case "/hook":
			var m alarm.Message
			must(n.lab.t, json.Unmarshal([]byte(body), &m))
			messages = append(messages, m)
		case "/beat", "/beat/fail":
			beats++
		}
	}
	return messages, beats
}

func (n *node) inboxFile() string { return filepath.Join(n.lab.stage.Dir, "inbox-"+n.name) }

func (n *node) openInbox() {
	n.lab.t.Helper()
	exe, err := os.Executable()
	must(n.lab.t, err)
	_, err = n.Start(testbed.Command{Argv: []string{exe, progInbox}, Log: n.inboxFile()})
	must(n.lab.t, err)
}

// stands is the open alarm of that kind and subject, as the node knows it.
func (n *node) stands(kind, subject string) (control.AlarmEntry, error) {
	s, err := n.status()
	if err != nil {
		return control.AlarmEntry{}, err
	}
	for _, o := range s.Alarms.Open {
		if o.Kind == kind && o.Subject == subject {
			return o, nil
		}
	}
	return control.AlarmEntry{}, fmt.Errorf("%s on %s does not stand: %+v", kind, subject, s.Alarms)
}

// TestAlarmsLeaveTheHouse: one power cut is one message, of one node; what only a standby knows is told by the master; a
// silence typed anywhere holds; and who leads next goes on with what was told.
func TestAlarmsLeaveTheHouse(t *testing.T) {
	t.Parallel() // it waits for messages, and measures nothing
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{extra: "alarms:\n  - { webhook: { url: \"http://" + inboxAddress + "/hook\" } }\n  - { heartbeat: { url: \"http://" + inboxAddress + "/beat\", every: 10s } }\n" +
			"services:\n  lamp: { exec: \"sleep 3600\", check: \"exec:test ! -e SELF/dark\", interval: 200ms }\n"})
		for _, n := range l.nodes {
			n.openInbox()
		}
		m := l.form()
		next, other := l.others(m)[0], l.others(m)[1]
		l.eventually("a heartbeat of the master", lookEvery, func() error {
			if _, beats := m.inbox(); beats == 0 {
				return fmt.Errorf("none")
			}
			return nil
		})
		if _, beats := next.inbox(); beats > 0 {
			t.Errorf("a standby beats, too")
		}
		out := l.mustRevolve("alarm", "test", "--json", "--state", other.state())
		if got, _ := other.inbox(); len(got) != 1 || got[0].State != alarm.Tested || !strings.Contains(out, `"arrived"`) {
			t.Errorf("a test alarm: %+v\n%s", got, out)
		}
		for _, n := range []*node{m, next} {
			if got, _ := n.inbox(); len(got) > 0 {
				t.Errorf("nothing is wrong, and %s tells %+v", n.name, got)
			}
		}

		m.off()
		next = l.newMaster(m)
		other = l.others(m)[0]
		if other == next {
			other = l.others(m)[1]
		}
		l.within(2*patience, "a message about the power cut", lookEvery, func() error {
			if got, _ := next.inbox(); len(got) == 0 || got[len(got)-1].State != alarm.Firing {
				return fmt.Errorf("%s was told %+v", next.name, got)
			}
			return nil
		})
		told := messagesOf(next)
		if len(told) != 1 || !strings.Contains(told[0].Text(), alarm.NodeDead+": node "+m.name) || !strings.Contains(told[0].Text(), alarm.Failover) {
			t.Errorf("one power cut is one message: %+v", told)
		}
		if got := messagesOf(other); len(got) > 0 {
			t.Errorf("two nodes tell the same: %+v", got)
		}

		must(t, os.WriteFile(filepath.Join(other.Root(), "dark"), nil, 0o644))
		l.within(2*patience, "what only the standby knows", askEvery, func() error {
			_, err := next.stands(alarm.ServiceIll, "lamp on "+other.name)
			return err
		})
		l.mustRevolve("alarm", "silence", alarm.ServiceIll, "--for", "1h", "--state", other.state())
		l.eventually("the silence on the master", askEvery, func() error {
			if a, err := next.stands(alarm.ServiceIll, "lamp on "+other.name); err != nil || a.Silenced.IsZero() {
				return fmt.Errorf("%+v %v", a, err)
			}
			return nil
		})

		next.stop()
		l.within(2*patience, "the next one goes on", askEvery, func() error {
			s, err := other.status()
			if err == nil && !s.Alarms.Speaks {
				err = fmt.Errorf("it does not speak")
			}
			return err
		})
		if a, err := other.stands(alarm.NodeDead, m.name); err != nil || !a.Told {
			t.Errorf("what was told is forgotten: %+v %v", a, err)
		}
		if a, err := other.stands(alarm.ServiceIll, "lamp on "+other.name); err != nil || a.Silenced.IsZero() {
			t.Errorf("the silence is forgotten: %+v %v", a, err)
		}
		if got := messagesOf(other); len(got) > 0 {
			t.Errorf("it is told twice: %+v", got)
		}
	})
}

// messagesOf are the messages of a node, tests apart.
func messagesOf(n *node) (list []alarm.Message) {
	all, _ := n.inbox()
	for _, m := range all {
		if m.State != alarm.Tested {
			list = append(list, m)
		}
	}
	return list
}
