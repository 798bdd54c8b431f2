package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/beat"
	"revolve/internal/roster"
)

// listeners write down what a node tells others of its end.
type listeners struct {
	mu    sync.Mutex
	words []string
	when  []goingWord
	deaf  map[cluster.NodeID]int // so often they do not answer
}

// listening has nodes be heard, and hear.
func listening(a *Agent, nodes ...cluster.NodeID) *listeners {
	l := &listeners{deaf: map[cluster.NodeID]int{}}
	a.report.Peers = nil
	for _, n := range nodes {
		a.report.Peers = append(a.report.Peers, beat.PeerReport{Node: n, State: beat.PeerAlive})
	}
	a.says = func(_ context.Context, n cluster.NodeID, o orderFrame) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.words = append(l.words, string(n)+map[bool]string{true: " stays", false: " goes"}[o.On])
		l.when = append(l.when, o.word())
		if l.deaf[n]--; l.deaf[n] >= 0 {
			return errors.New("no answer")
		}
		return nil
	}
	return l
}

// heard are the words since it was asked last, in no order.
func (l *listeners) heard() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	words := l.words
	l.words = nil
	slices.Sort(words)
	return words
}

// A node that was told that another one goes is told until it says that it knows that it stays: whatever is lost, also the goodbye's answer,
// and also if the agent was started anew in between. Who was told nothing is told nothing.
func TestStaysIsTold(t *testing.T) {
	a := standby(t)
	l := listening(a, "a", "b")
	want := func(what string, want ...string) {
		t.Helper()
		if got := l.heard(); !slices.Equal(got, want) {
			t.Errorf("%s: it said %q, want %q", what, got, want)
		}
	}
	a.stays()
	want("it never went")
	l.deaf["b"] = 3
	a.goes(t.Context())
	want("it goes", "a goes", "b goes")
	a.reopen()
	a.stays()
	want("it stays", "a stays", "b stays")
	a.tellStays(t.Context())
	want("b did not answer", "b stays")
	a.report.Peers = a.report.Peers[:1]
	a.tellStays(t.Context())
	want("b is not heard")
	listed := append(a.report.Peers, beat.PeerReport{Node: "b", State: beat.PeerSuspect})
	a.report.Peers = listed
	a.tellStays(t.Context())
	want("it is heard again", "b stays")
	a.tellStays(t.Context())
	want("everybody knows")
	if first, last := l.when[0], l.when[len(l.when)-1]; !first.before(last) || last.before(first) || l.when[2] != last {
		t.Errorf("what it said has no order, or one that it repeated is a new one: %v", l.when)
	}

	l.deaf["b"] = 2
	a.goes(t.Context())
	a.reopen()
	a.stays()
	l.heard()
	a.goes(t.Context())
	l.heard()
	a.tellStays(t.Context())
	want("it goes after all")
	a.reopen()
	a.stays()
	l.heard()

	l.deaf["b"] = 1000
	a.goes(t.Context())
	a.reopen()
	a.stays()
	a.farewell.stays.At -= restFor
	l.heard()
	a.tellStays(t.Context())
	want("b has seen by now that it stayed")

	if err := a.closeHere(); err != nil {
		t.Fatal(err)
	}
	next := standby(t)
	next.o.State = a.o.State
	l = listening(next, "a", "b")
	next.restAgain()
	want("its agent was started anew while it goes")
	next.reopen()
	next.stays()
	want("and it stays", "a stays", "b stays")
}

// It goes on telling by itself.
func TestStaysIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := standby(t)
		l := listening(a, "b")
		l.deaf["b"] = 4
		a.goes(t.Context())
		a.reopen()
		a.stays()
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.staysTold(ctx) }()
		time.Sleep(time.Minute)
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if want := []string{"b goes", "b stays", "b stays", "b stays", "b stays"}; !slices.Equal(l.words, want) {
			t.Errorf("it said %q, want %q", l.words, want)
		}
	})
}

// A node on demand says goodbye when its system is shut down and no machine runs; an agent that only ends says nothing.
func TestGoesWithSystem(t *testing.T) {
	for name, c := range map[string]struct {
		system, runs string
		always       bool
		want         bool
	}{
		"shut down":               {"stopping", "", false, true},
		"the agent is restarted":  {"running", "", false, false},
		"a machine runs":          {"stopping", "it runs", false, false},
		"it is always to be on":   {"stopping", "", true, false},
		"no systemd, or it hangs": {"", "", false, false},
	} {
		a := standby(t)
		a.record = openTest(t, a.o.State)
		if a.runs = func(context.Context) string { return c.runs }; c.always {
			a.o.Roster = holding(t, roster.Roster{Generation: 1, Config: before})
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\necho "+c.system+"\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		ended, end := context.WithCancel(t.Context())
		end()
		said := listening(a, "b")
		if err := a.goesWithSystem(ended); err != nil || slices.Equal(said.words, []string{"b goes"}) != c.want || !c.want && len(said.words) > 0 {
			t.Errorf("%s: it said %v, %v", name, said.words, err)
		}
	}
}

// A node that goes off knows afterwards whom it left on: only a goodbye that it heard itself says that a node is off, also one that
// was said while all of them went. What the others do when it is gone, it does not know.
func TestGoingForgetsNobody(t *testing.T) {
	a := standby(t)
	text := strings.NewReplacer("b: { ", "b: { power: { mode: on-demand }, ", "a: { ", "a: { power: { mode: on-demand }, ").Replace(a.o.Roster.Current().Config)
	a.o.Roster = holding(t, roster.Roster{Generation: 1, Config: text})
	a.record = openTest(t, a.o.State)
	a.record.setAlive([]cluster.NodeID{"a", "b"}, everybody)
	a.goes(t.Context())
	a.reopen()
	a.stays() // it was refused
	if got := a.wereOn(); !slices.Equal(got, []cluster.NodeID{"a", "b"}) {
		t.Errorf("after a power-off that was refused %v may be on, want a and b", got)
	}
	a.goes(t.Context())
	if err := a.record.parts("a", false, newWord()); err != nil {
		t.Fatal(err)
	}
	a.record.setAlive([]cluster.NodeID{"a", "b"}, everybody) // both are heard until they are gone
	if err := a.record.flush(); err != nil {
		t.Fatal(err)
	}
	next := standby(t)
	next.o.Roster, next.record = a.o.Roster, openTest(t, a.o.State)
	if got := next.wereOn(); !slices.Equal(got, []cluster.NodeID{"b"}) {
		t.Errorf("after its return %v may be on, want b, which went on without a word", got)
	}
	next.record.setAlive(nil, everybody) // nor does silence say anything
	if got := next.wereOn(); !slices.Equal(got, []cluster.NodeID{"b"}) {
		t.Errorf("while nobody is heard %v may be on, want b", got)
	}
}

// Who is owed the word that this node stays is owed it over another goodbye that it did not hear.
func TestOwedOverAnotherGoodbye(t *testing.T) {
	a := standby(t)
	l := listening(a, "a", "b")
	l.deaf["b"] = 2 // but its answers alone are lost: it may have heard the goodbye
	both := a.report.Peers
	a.goes(t.Context())
	a.reopen()
	a.stays()
	a.report.Peers = both[:1]
	a.goes(t.Context())
	a.reopen()
	a.stays()
	l.heard()
	a.report.Peers = both
	a.tellStays(t.Context())
	if got := l.heard(); !slices.Equal(got, []string{"b stays"}) {
		t.Errorf("b is heard again: it said %q", got)
	}
}

// Of two orders the first is refused, and the second begins before the first has said that this node stays: that it goes is what holds.
func TestTurnsBackBeforeTheNextOrder(t *testing.T) {
	a := standby(t)
	l := listening(a, "a")
	order := func() {
		t.Helper()
		if err := a.closeHere(); err != nil {
			t.Fatal(err)
		}
		a.goes(t.Context())
	}
	order()
	a.reopen()
	order()
	a.stays()
	a.tellStays(t.Context())
	if got := l.heard(); !slices.Equal(got, []string{"a goes", "a goes"}) {
		t.Errorf("it said %q", got)
	}
}

// An agent that begins does not know what the one before it said of this node's end, and to whom it took that back before it was killed,
// or its system was begun anew sooner than anybody missed it: it says that this node is on.
func TestAnAgentThatBeginsSaysThatItStays(t *testing.T) {
	for what, always := range map[string]bool{"on demand": false, "always on": true} {
		a := standby(t)
		listening(a, "a", "b")
		if err := a.closeHere(); err != nil {
			t.Fatal(err)
		}
		a.goes(t.Context())
		a.reopen() // and killed

		next := standby(t)
		next.o.State = a.o.State
		var want []string
		if want = []string{"a stays", "b stays"}; always {
			next.o.Roster, want = holding(t, roster.Roster{Generation: 1, Config: before}), nil
		}
		l := listening(next, "a", "b")
		next.restAgain()
		next.tellStays(t.Context())
		if got := l.heard(); !slices.Equal(got, want) {
			t.Errorf("%s: it said %q, want %q", what, got, want)
		}
	}
}
