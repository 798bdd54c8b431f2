package roster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/problem"
)

const other = "cluster: homelab\nnodes:\n  a: { links: { lan: 10.77.0.21 } }\n"

// triedFrom is a generation that is tried, after o.
func triedFrom(o Roster, seconds uint32) Roster {
	r := o.Clone()
	r.Follow(&o)
	r.Config, r.By = other, "a"
	r.Trial = &Trial{Seconds: seconds, Former: o.Config, Expect: []cluster.NodeID{"a"}}
	return r
}

// TestNobodyHasToAgreeOnTheEndOfATrial: whoever makes the end of it makes the same
// bytes, and who went back goes forward when the others stayed, without anything being kept as lost.
func TestNobodyHasToAgreeOnTheEndOfATrial(t *testing.T) {
	first := Roster{Generation: 1, Config: text, Epochs: map[cluster.NodeID]uint32{"d": 3}}
	tried := triedFrom(first, 60)
	backs, keeps := [2]Roster{}, [2]Roster{}
	for i := range 2 {
		backs[i], keeps[i] = tried.Back(), tried.Keep()
	}
	if backs[0].Mark() != backs[1].Mark() || keeps[0].Mark() != keeps[1].Mark() {
		t.Error("two nodes make different generations of the same trial")
	}
	back, keep := backs[0], keeps[0]
	if !back.Newer(&tried) || !keep.Newer(&back) || back.Trial != nil || keep.Trial != nil || keep.Tried != "" {
		t.Errorf("back %+v, keep %+v", back, keep)
	}
	if back.Config != text || keep.Config != other || back.Epochs["d"] != 3 || back.Tried != other {
		t.Errorf("back %+v, keep %+v", back, keep)
	}
	dir := t.TempDir()
	s := open(t, dir)
	for _, r := range []Roster{first, tried, back, keep} {
		take(t, s, r, true)
	}
	take(t, s, tried, false)
	take(t, s, back, false)
	straight := open(t, t.TempDir())
	for _, r := range []Roster{first, tried, keep} {
		take(t, straight, r, true)
	}
	for _, x := range []*Store{s, straight} {
		if kept, err := x.Kept(); err != nil || len(kept) > 0 {
			t.Errorf("a trial counts as the change of another half: %v, %v", kept, err)
		}
	}
	next := keep.Clone()
	if next.Follow(&keep); next.Trial != nil || next.Tried != "" {
		t.Error("a trial goes on in the next generation")
	}
	next = back.Clone()
	if next.Follow(&back); next.Trial != nil || next.Tried != other {
		t.Error("a change of keys forgets where the nodes may be that stayed")
	}
}

// TestATrialEndsWhileTheAgentIsDead: the deadline is on the disk.
func TestATrialEndsWhileTheAgentIsDead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	take(t, s, triedFrom(Roster{Config: text}, 60), true)
	again := open(t, dir)
	if left, on := again.Trial(); !on || left <= 0 || left > time.Minute {
		t.Errorf("after a restart: %v left, %v", left, on)
	}
	if back, err := again.Settle("a"); back || err != nil {
		t.Errorf("turned back before its time: %v", err)
	}
	edit(t, dir, func(u *until) { u.Up -= 2 * time.Minute })
	late := open(t, dir)
	if back, err := late.Settle("a"); !back || err != nil {
		t.Fatalf("not turned back: %v", err)
	}
	if r := open(t, dir).Current(); r.Config != text || r.Generation != 2 || r.Trial != nil {
		t.Errorf("in force after the deadline: %+v", r)
	}
	if back, err := late.Settle("a"); back || err != nil {
		t.Errorf("turned back twice: %v", err)
	}
}

// TestWhoJoinedDuringATrialWaits: in the former configuration it is no member.
func TestWhoJoinedDuringATrialWaits(t *testing.T) {
	for _, self := range []cluster.NodeID{"a", "newcomer"} {
		dir := t.TempDir()
		take(t, open(t, dir), triedFrom(Roster{Config: text}, 60), true)
		edit(t, dir, func(u *until) { u.Up -= 2 * time.Minute })
		s := open(t, dir)
		for what, end := range map[string]func(cluster.NodeID) (bool, error){"settle": s.Settle, "turn back": s.TurnBack} {
			if back, err := end(self); err != nil || back && self != "a" {
				t.Errorf("%s of %s: %v, %v", what, self, back, err)
			}
		}
		if _, on := s.Trial(); on != (self == "newcomer") {
			t.Errorf("%s: tried %v", self, on)
		}
	}
}

// TestATrialAfterABoot: the time since the boot says nothing then, and a wall
// clock that stands in the past prolongs a trial by itself at most.
func TestATrialAfterABoot(t *testing.T) {
	dir := t.TempDir()
	take(t, open(t, dir), triedFrom(Roster{Config: text}, 60), true)
	edit(t, dir, func(u *until) { u.Boot, u.Wall = "another", time.Now().Add(9000*time.Hour) })
	s := open(t, dir)
	before, on := s.Trial()
	if !on || before > time.Minute || before < 50*time.Second {
		t.Errorf("with a clock in the past: %v left, %v", before, on)
	}
	if back, err := s.Settle("a"); back || err != nil {
		t.Errorf("turned back before its time: %v", err)
	}
	for _, again := range []*Store{s, open(t, dir), open(t, dir)} { // the same agent, and one that is started again
		time.Sleep(time.Millisecond)
		left, on := again.Trial()
		if !on || left >= before {
			t.Errorf("nothing counts down: %v left after %v, %v", left, before, on)
		}
		before = left
	}
	edit(t, dir, func(u *until) { u.Boot, u.Wall = "a third", time.Now().Add(-time.Second) })
	if left, on := open(t, dir).Trial(); !on || left > 0 {
		t.Errorf("after the deadline: %v left, %v", left, on)
	}
}

// TestATrialWithoutABootID: then it is this process's time that counts.
func TestATrialWithoutABootID(t *testing.T) {
	u := &until{Wall: time.Now().Add(9000 * time.Hour)}
	u.resume(&Trial{Seconds: 60})
	u.Boot = "" // as if the kernel had not said
	before := u.left()
	time.Sleep(time.Millisecond)
	if left := u.left(); left >= before || left > time.Minute || left < 50*time.Second {
		t.Errorf("%v left after %v", left, before)
	}
}

// edit changes when the stored trial ends.
func edit(t *testing.T, dir string, change func(*until)) {
	t.Helper()
	path := filepath.Join(dir, fileName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s stored
	if err := json.Unmarshal(b, &s); err != nil || s.Until == nil {
		t.Fatalf("no end of the trial: %v", err)
	}
	change(s.Until)
	if b, err = json.Marshal(s); err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestATrialThatCannotBeTrue: what a member sends is checked, the way back included.
func TestATrialThatCannotBeTrue(t *testing.T) {
	for what, spoil := range map[string]func(*Trial){
		"no way back":     func(x *Trial) { x.Former = "nodes: 7" },
		"no time":         func(x *Trial) { x.Seconds = 0 },
		"for ever":        func(x *Trial) { x.Seconds = 1 << 30 },
		"a crowd":         func(x *Trial) { x.Expect = slices.Repeat([]cluster.NodeID{"a"}, config.MaxNodes+1) },
		"a name that is ": func(x *Trial) { x.Expect = []cluster.NodeID{"../x"} },
	} {
		r := triedFrom(Roster{Config: text}, 60)
		spoil(r.Trial)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Decode(b); problem.KindOf(err) != problem.Corrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestTheLargestConfigurationsCanBeTried: both are in one frame between nodes.
func TestTheLargestConfigurationsCanBeTried(t *testing.T) {
	big := func(c string) string {
		return c + strings.Repeat("# 34567\n", (config.MaxBytes-len(c))/len("# 34567\n"))
	}
	r := triedFrom(Roster{Config: big(text)}, 60)
	r.Config = big(other)
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Decode(b); err != nil {
		t.Error(err)
	}
}

// TestRevocationsAreHeeded: also those in a roster that this node does not take.
func TestRevocationsAreHeeded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	take(t, s, Roster{Generation: 1, Config: text, Epochs: map[cluster.NodeID]uint32{"d": 1}}, true)
	if err := s.Heed(map[cluster.NodeID]uint32{"d": 2, "e": 1}); err != nil {
		t.Fatal(err)
	}
	if again := open(t, dir); again.Epoch("d") != 2 || again.Epoch("e") != 1 || again.Current().Generation != 1 {
		t.Errorf("d %d, e %d", again.Epoch("d"), again.Epoch("e"))
	}
	many := map[cluster.NodeID]uint32{}
	for i := range maxEpochs + 1 {
		many[cluster.NodeID(fmt.Sprintf("n%d", i))] = 1
	}
	if err := s.Heed(many); problem.KindOf(err) != problem.Corrupt {
		t.Errorf("more revocations than there can be: %v", err)
	}
}
