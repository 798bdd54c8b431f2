package alarm

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
)

func start() time.Time { return time.Unix(1_800_000_000, 0).UTC() }

// calmCluster is a cluster of three in which nothing is wrong, seen by its master a.
func calmCluster() control.Status {
	at := start()
	node := func(name, role string) control.Node {
		return control.Node{Name: cluster.NodeID(name), State: "alive", Role: role, Eligible: control.Yes, InSync: control.Yes, Hold: control.No, Maintenance: control.No,
			Links: []control.Link{{Name: "lan", Up: control.Yes, Quality: &control.Quality{Heard: 1000, Loss: 0.001}}}}
	}
	standby := func(name string) control.Standby {
		return control.Standby{Node: cluster.NodeID(name), State: "in-sync", LagMS: 3}
	}
	return control.Status{AsOf: at, Looked: at, Cluster: "homelab", Node: "a", Master: "a", Verdict: control.OK, Engine: "builtin", Nodes: []control.Node{node("a", "master"), node("b", "standby"), node("c", "standby")},
		VIPs: []control.VIP{{Address: "10.77.0.200/24", Holder: "a"}}, Volumes: []control.Volume{{Name: "home", State: "leading", Standbys: []control.Standby{standby("b"), standby("c")}}},
		Services: []control.Service{{Name: "dns", State: "healthy", Required: true}}, Isolation: control.Isolation{Isolated: control.No, Patience: 1}, CertificateUntil: at.Add(300 * 24 * time.Hour),
		Failovers: control.Failovers{Last: &history.Record{Term: 4, Master: "a", From: "b", Cause: history.CauseSilence, At: at.Add(-time.Hour)}}}
}

// What each alarm needs to arise, in a cluster that is well otherwise.
func provoked() map[string]func(s *control.Status) {
	return map[string]func(s *control.Status){
		NoMaster:         func(s *control.Status) { s.Master = "none"; s.Nodes[0].Role = "standby" },
		MasterUnknown:    func(s *control.Status) { s.Master = "unknown" },
		TwoMasters:       func(s *control.Status) { s.Nodes[1].Role = "master" },
		Blocked:          func(s *control.Status) { s.Blocked = true },
		Frozen:           func(s *control.Status) { s.Frozen = true },
		Isolated:         func(s *control.Status) { s.Isolation.Isolated = control.Yes },
		DuplicateAddress: func(s *control.Status) { s.Duplicates = []control.Duplicate{{Address: "10.77.0.200"}} },
		MassDeletion:     func(s *control.Status) { s.Volumes[0].Standbys[0].Alarm = "12 of 20 files were deleted" },
		VolumePaused:     func(s *control.Status) { s.Volumes[0].Paused = &control.Pause{Why: "it is empty"} },
		VolumeBroken:     func(s *control.Status) { s.Volumes[0].Problem = "no such directory" },
		DiskIll:          func(s *control.Status) { s.Disks = []string{"the disk of /srv does not answer"} },
		VolumesUnseen:    func(s *control.Status) { s.Looked = s.AsOf.Add(-time.Minute) },
		ServiceIll:       func(s *control.Status) { s.Services[0].State = "ill" },
		NodeDead:         func(s *control.Status) { s.Nodes[1].State = "dead" },
		NoSuccessor:      func(s *control.Status) { s.Nodes[1].Eligible, s.Nodes[2].Eligible = control.No, control.NotKnown },
		Failover:         func(s *control.Status) { s.Failovers.Last.At = s.AsOf.Add(-time.Second) },
		Flapping:         func(s *control.Status) { s.Isolation.Patience = 4 },
		Divergent:        func(s *control.Status) { s.Volumes[0].Standbys[0].Divergent = 3 },
		NamesAbsent:      func(s *control.Status) { s.Volumes[0].Standbys[0].Absent = 3 },
		StandbyBehind:    func(s *control.Status) { s.Volumes[0].Standbys[0].State = "lagging" },
		ProofDifferences: func(s *control.Status) { s.Volumes[0].Proof = &control.ProofStatus{Differences: 1} },
		LinkDown:         func(s *control.Status) { s.Nodes[1].Links[0].Up = control.No },
		LinkLossy:        func(s *control.Status) { s.Nodes[1].Links[0].Quality.Loss = 0.2 },
		WitnessSilent:    func(s *control.Status) { s.Isolation.Witness = &control.Witness{State: "silent"} },
		OnChangeFailed:   func(s *control.Status) { s.Volumes[0].OnChange = "it ended with 1" },
		CopyMissed: func(s *control.Status) {
			s.Copies = []control.Copy{{Schedule: "weekly", VM: "ad1", Trouble: "the copy of ad1 by schedule weekly was missed: this node was not there"}, {Schedule: "nightly", VM: "web"}}
		},
		RehearsalFailed: func(s *control.Status) { s.Rehearsal = &history.Rehearsal{Result: history.Aborted} },
		CertExpires:     func(s *control.Status) { s.CertificateUntil = s.AsOf.Add(24 * time.Hour) },
		ForgottenOrder:  func(s *control.Status) { s.Nodes[1].Hold = control.Yes },
		Undelivered:     func(s *control.Status) { s.Alarms.Channels = []control.AlarmChannel{{Name: "ntfy", Error: "refused"}} },
	}
}

func names(found []Alarm) (list []string) {
	for _, a := range found {
		list = append(list, a.Kind)
	}
	return list
}

// Status in, alarm out: each alarm of the product arises, alone, and not in a cluster that is well.
func TestEachAlarmIsProvoked(t *testing.T) {
	if found := Find(calmCluster()); len(found) > 0 {
		t.Fatalf("nothing is wrong, and there is %v", names(found))
	}
	for _, k := range Kinds() {
		provoke := provoked()[k.Name]
		if k.Name == Test {
			continue // it is ordered, not found
		}
		if provoke == nil {
			t.Errorf("nothing provokes %s", k.Name)
			continue
		}
		s := calmCluster()
		provoke(&s)
		found := Find(s)
		if len(found) != 1 || found[0].Kind != k.Name || found[0].Text == "" || found[0].Severity == "" {
			t.Errorf("%s: got %+v", k.Name, found)
			continue
		}
		if found[0].Severity != k.Severity && k.Name != ServiceIll {
			t.Errorf("%s is %s", k.Name, found[0].Severity)
		}
	}
}

// A node on demand that is off, a planned switch and a lag of a moment alarm nobody.
func TestWhatIsNormalIsNoAlarm(t *testing.T) {
	s := calmCluster()
	s.Nodes[2].State, s.Nodes[2].Eligible, s.Nodes[2].Role, s.Nodes[2].Links[0].Up = "off", control.NotKnown, "unknown", control.No
	s.Volumes[0].Standbys[1].State = "unknown"
	s.Failovers.Last.At, s.Failovers.Last.Cause = s.AsOf, history.CauseSwitch
	if found := Find(s); len(found) > 0 {
		t.Errorf("got %+v", found)
	}
	// The only other one that is on may never lead: that was meant.
	s.Nodes[1].Eligible, s.Nodes[1].WhyNot = control.No, "it is no candidate"
	if found := Find(s); len(found) > 0 {
		t.Errorf("got %+v", found)
	}
}

// A node on demand that is woken and catches up, or is about to be off, alarms as little as one that is off: with its master
// alone that would be each night. If it could take over, it does count.
func TestANodeOnDemandThatIsOnIsNoAlarm(t *testing.T) {
	s := calmCluster()
	s.Nodes[1].State, s.Nodes[1].Eligible, s.Nodes[1].OnDemand = "off", control.NotKnown, true
	s.Nodes[2].Eligible, s.Nodes[2].OnDemand, s.Nodes[2].WhyNot = control.No, true, "it catches up"
	s.Volumes[0].Standbys = nil
	if got := names(Find(s)); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	s.Nodes[1].State, s.Nodes[1].OnDemand, s.Nodes[1].Eligible = "alive", false, control.No
	if got := names(Find(s)); !slices.Equal(got, []string{NoSuccessor}) {
		t.Errorf("a node that is always on cannot take over: %v", got)
	}
	s.Nodes[2].Eligible = control.Yes
	if got := names(Find(s)); len(got) > 0 {
		t.Errorf("one on demand could: %v", got)
	}
}

// What follows from a dead node, or from having no master, is not said beside it.
func TestWhatFollowsIsLeftOut(t *testing.T) {
	s := calmCluster()
	s.Nodes[1].State, s.Nodes[1].Links[0].Up = "dead", control.No
	s.Volumes[0].Standbys[0].State, s.Volumes[0].Standbys[0].Divergent = "unknown", 2
	if got := names(Find(s)); !slices.Equal(got, []string{NodeDead, Divergent}) {
		t.Errorf("got %v", got)
	}
	s = calmCluster()
	s.Master = "none"
	s.Nodes[0].Role = "limbo"
	s.Nodes[1].Eligible, s.Nodes[2].Eligible = control.No, control.No
	s.Volumes[0].Standbys[0].State = "unknown"
	if got := names(Find(s)); !slices.Equal(got, []string{NoMaster}) {
		t.Errorf("got %v", got)
	}
}

// The master speaks; where nobody leads, the first by name of those that are heard; never two that hear each other.
func TestOneSpeaks(t *testing.T) {
	view := func(self, master string, heard ...string) control.Status {
		s := control.Status{Node: cluster.NodeID(self), Master: master}
		for _, n := range []string{"a", "b", "c"} {
			state := "dead"
			if slices.Contains(heard, n) {
				state = "alive"
			}
			s.Nodes = append(s.Nodes, control.Node{Name: cluster.NodeID(n), State: state})
		}
		return s
	}
	for _, c := range []struct {
		master string
		heard  []string
		speaks string
	}{{"b", []string{"a", "b", "c"}, "b"}, {"none", []string{"b", "c"}, "b"}, {"unknown", []string{"a", "c"}, "a"}, {"a", []string{"b", "c"}, "b"}} {
		for _, self := range c.heard {
			if got := Speaks(view(self, c.master, c.heard...)); got != (self == c.speaks) {
				t.Errorf("master %s, heard %v: %s speaks: %v", c.master, c.heard, self, got)
			}
		}
	}
}

// scene is a node that speaks, second by second.
type scene struct {
	st       State
	now      time.Time
	node     cluster.NodeID
	channels []string
}

func (x *scene) pass(d time.Duration, found ...Alarm) {
	for end := x.now.Add(d); x.now.Before(end); {
		x.now = x.now.Add(time.Second)
		Step(&x.st, Input{Now: x.now, Node: x.node, Speaks: true, Found: found, Channels: x.channels})
	}
}

// told is how often a channel that cannot edit would have been told, if it had been there all the time.
func (x *scene) told() (n int) {
	for _, g := range x.st.Book.Groups {
		if g.Loud > 0 {
			n += g.Loud + g.News
		}
	}
	return n
}

func an(kind, subject string) Alarm {
	k, _ := KindOf(kind)
	return Alarm{Kind: kind, Subject: subject, Severity: k.Severity, After: k.After, Text: kind + " " + subject}
}

// A power cut is one message: what it brings within ten seconds is one group, and its end is one more.
func TestAPowerCutIsOneMessage(t *testing.T) {
	x := &scene{now: start()}
	x.pass(2*time.Second, an(NoMaster, ""))
	x.pass(20*time.Second, an(NodeDead, "a"), an(Failover, "term 5"))
	x.pass(30*time.Second, an(NodeDead, "a"), an(Failover, "term 5"), an(NoSuccessor, ""))
	if len(x.st.Book.Groups) != 1 || x.told() != 1 {
		t.Fatalf("%d groups, %d messages: %+v", len(x.st.Book.Groups), x.told(), x.st.Book)
	}
	m := x.st.Book.Groups[0].Message("homelab", "a", x.now)
	if m.State != Firing || len(m.Alarms) != 2 || strings.Contains(m.Text(), NoMaster) {
		t.Errorf("got %+v", m)
	}
	x.pass(2 * time.Minute)
	if g := x.st.Book.Groups[0]; g.Resolved.IsZero() || x.told() != 2 {
		t.Errorf("its end: %d messages, %+v", x.told(), g)
	}
	if m := x.st.Book.Groups[0].Message("homelab", "a", x.now); m.State != Resolved || !strings.Contains(m.Title, "over after") {
		t.Errorf("got %+v", m)
	}
}

// What comes back within its calm, again and again, is the same trouble: no further message.
func TestFlappingIsOneMessage(t *testing.T) {
	x := &scene{now: start()}
	x.pass(30*time.Second, an(NodeDead, "b"))
	for range 20 {
		x.pass(25 * time.Second)
		x.pass(10*time.Second, an(NodeDead, "b"))
	}
	if x.told() != 1 || len(x.st.Book.Groups) != 1 {
		t.Errorf("%d messages in %d groups", x.told(), len(x.st.Book.Groups))
	}
}

// What stands is told again, after hours; a critical one sooner. What becomes worse is told at once.
func TestRepeated(t *testing.T) {
	x := &scene{now: start()}
	x.pass(25*time.Hour, an(NodeDead, "b"))
	if x.told() != 2 {
		t.Errorf("a warning that stands for 25 hours: %d messages", x.told())
	}
	x = &scene{now: start()}
	x.pass(9*time.Hour, an(VolumePaused, "home on a"))
	if x.told() != 3 {
		t.Errorf("a critical alarm that stands for 9 hours: %d messages", x.told())
	}
	x = &scene{now: start()}
	x.pass(time.Minute, an(NodeDead, "b"))
	x.pass(6*time.Second, an(NodeDead, "b"), an(VolumePaused, "home on a"))
	if x.told() != 2 || x.st.Book.Groups[0].Severity() != Critical {
		t.Errorf("it became worse: %d messages", x.told())
	}
}

// Silenced alarms are told to nobody; when the silence ends they are.
func TestSilence(t *testing.T) {
	x := &scene{now: start()}
	x.st.Book.Silence(Silence{Kind: NodeDead, Subject: "b", Until: x.now.Add(time.Hour), Changed: x.now})
	x.pass(59*time.Minute, an(NodeDead, "b"))
	if x.told() != 0 {
		t.Errorf("silenced, and %d messages", x.told())
	}
	x.pass(2*time.Minute, an(NodeDead, "b"))
	if x.told() != 1 {
		t.Errorf("after the silence: %d messages", x.told())
	}
	y := &scene{now: start()}
	y.st.Book.Silence(Silence{Kind: NodeDead, Subject: "b", Until: y.now.Add(time.Hour), Changed: y.now})
	y.pass(time.Minute, an(NodeDead, "b"), an(NodeDead, "c"))
	if y.told() != 1 || len(y.st.Book.Groups[0].Entries) != 1 {
		t.Errorf("another node is not silenced: %+v", y.st.Book)
	}
	for i := range 2 * MaxSilences {
		y.st.Book.Silence(Silence{Kind: All, Subject: fmt.Sprint(i), Until: y.now.Add(time.Hour), Changed: y.now})
	}
	if len(y.st.Book.Silences) != MaxSilences {
		t.Errorf("%d silences", len(y.st.Book.Silences))
	}
}

// A node that takes over goes on with the book: nothing is told twice, and the end is told.
func TestTheNextSpeakerGoesOn(t *testing.T) {
	a := &scene{now: start()}
	a.pass(time.Minute, an(VolumePaused, "home on c"))
	g := a.st.Book.Groups[0]
	if g.Due("mail", false) != Post {
		t.Fatalf("nothing is due: %+v", g)
	}
	a.st.Book.Done("mail", g, "")
	if !a.st.Book.Groups[0].Told() {
		t.Error("nobody was told")
	}
	b := &scene{now: a.now, st: State{Book: Merge(Book{}, a.st.Book)}}
	b.pass(time.Minute, an(VolumePaused, "home on c"))
	if len(b.st.Book.Groups) != 1 || b.st.Book.Groups[0].Due("mail", false) != Nothing {
		t.Errorf("it is told twice: %+v", b.st.Book)
	}
	b.pass(2 * time.Minute)
	if b.st.Book.Groups[0].Due("mail", false) != Post {
		t.Errorf("the end is not told: %+v", b.st.Book)
	}
}

// Who begins to speak long after the book came, and does not know yet what only others see, ends nothing for that.
func TestWhoBeginsToSpeakEndsNothing(t *testing.T) {
	a := &scene{now: start()}
	a.pass(time.Minute, an(VolumePaused, "home on c"))
	b := &scene{now: a.now.Add(time.Hour), st: State{Book: a.st.Book}}
	b.pass(10 * time.Second)
	b.pass(10*time.Second, an(VolumePaused, "home on c"))
	if g := b.st.Book.Groups[0]; !g.Entries[0].Closed.IsZero() || g.Entries[0].Again > 0 || b.told() != 1 {
		t.Errorf("it ended: %+v", g)
	}
}

// Two that spoke at the same time have begun a group each: one of them is told.
func TestTwinsAreToldOnce(t *testing.T) {
	a, b := &scene{now: start(), node: "a"}, &scene{now: start().Add(time.Second), node: "b"}
	a.pass(7*time.Second, an(NodeDead, "c"))
	b.pass(7*time.Second, an(NodeDead, "c"))
	b.st.Book = Merge(a.st.Book, b.st.Book)
	if len(b.st.Book.Groups) != 2 {
		t.Fatalf("got %+v", b.st.Book)
	}
	b.pass(time.Minute, an(NodeDead, "c"))
	if b.told() != 1 {
		t.Errorf("%d messages: %+v", b.told(), b.st.Book)
	}
}

// A dead-man's switch hears of what is critical when people are told of it, not in the moment of a failover, and not while it is silenced.
func TestWell(t *testing.T) {
	x := &scene{now: start()}
	x.pass(2*time.Second, an(NoMaster, ""))
	if !x.st.Book.Well(x.now) {
		t.Error("a failover is no disaster")
	}
	x.pass(20*time.Second, an(NoMaster, ""))
	if x.st.Book.Well(x.now) {
		t.Error("nobody leads, and all is well")
	}
	x.st.Book.Silence(Silence{Kind: NoMaster, Until: x.now.Add(time.Hour), Changed: x.now})
	if !x.st.Book.Well(x.now) {
		t.Error("it is silenced")
	}
	x.pass(2 * time.Minute)
	x.st.Book.Silences = nil
	if !x.st.Book.Well(x.now) {
		t.Error("it is over")
	}
}

// A channel that can edit is told once anew for what is loud, and changes its message for the rest.
func TestDue(t *testing.T) {
	g := Group{ID: "1", Loud: 1, Edit: 1, Receipts: map[string]Receipt{}}
	b := Book{Groups: []Group{g}}
	if b.Groups[0].Due("d", true) != Post {
		t.Error("the first is no post")
	}
	b.Done("d", g, "77")
	b.Groups[0].News, b.Groups[0].Edit = 1, 2
	if b.Groups[0].Due("d", true) != Update || b.Groups[0].Due("other", false) != Post {
		t.Error("news is no update")
	}
	b.Done("d", b.Groups[0], "77")
	b.Done("other", b.Groups[0], "")
	b.Groups[0].Edit = 3
	if b.Groups[0].Due("d", true) != Update || b.Groups[0].Due("other", false) != Nothing {
		t.Error("a small change is told where it cannot be edited")
	}
	b.Groups[0].Loud = 2
	if b.Groups[0].Due("d", true) != Post {
		t.Error("what is loud is no post")
	}
}

// However alarms come and go, the book stays bounded, merging does not depend on the order, and everything told has an end.
func TestBookHolds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := []Alarm{an(NodeDead, "b"), an(NodeDead, "c"), an(VolumePaused, "home on a"), an(Divergent, "home on b"), an(NoMaster, "")}
		var nodes [2]scene
		for i := range nodes {
			nodes[i].now, nodes[i].node = start(), cluster.NodeID("ab"[i:i+1])
		}
		for range rapid.IntRange(1, 25).Draw(rt, "acts") {
			i := rapid.IntRange(0, 1).Draw(rt, "node")
			n := rapid.IntRange(0, 1<<len(all)-1).Draw(rt, "alarms")
			var found []Alarm
			for j := range all {
				if n&(1<<j) != 0 {
					found = append(found, all[j])
				}
			}
			nodes[i].pass(time.Duration(rapid.IntRange(1, 90).Draw(rt, "seconds"))*time.Second, found...)
		}
		x, y := Merge(nodes[0].st.Book, nodes[1].st.Book), Merge(nodes[1].st.Book, nodes[0].st.Book)
		if !reflect.DeepEqual(x, y) {
			rt.Fatalf("the order decides:\n%+v\n%+v", x, y)
		}
		last := scene{st: State{Book: x}, now: nodes[0].now}
		if nodes[1].now.After(last.now) {
			last.now = nodes[1].now
		}
		last.pass(40 * time.Minute)
		for _, g := range last.st.Book.Groups {
			if g.Resolved.IsZero() || len(g.Entries) > maxEntries {
				rt.Fatalf("it has no end: %+v", g)
			}
		}
	})
}

// What another node says is cut down to what may be: names, times, counts and sizes.
func TestForeignBookIsCutDown(t *testing.T) {
	now := start()
	var hostile Book
	for i := range 1000 {
		g := Group{ID: fmt.Sprint(i), Began: now.Add(time.Hour), Changed: now.Add(9999 * time.Hour), Loud: 1, Entries: []Entry{{Alarm: Alarm{Kind: "made-up"}}, {Alarm: Alarm{Kind: NodeDead, Text: strings.Repeat("\x1b[2J", 5000), After: 1 << 62}, Again: 1 << 40}}}
		hostile.Groups = append(hostile.Groups, g)
		hostile.Silences = append(hostile.Silences, Silence{Kind: All, Until: now.Add(99999 * time.Hour), Changed: now})
	}
	hostile.Groups[0].Edit = 1 << 60
	got := hostile.Sane(now)
	if len(got.Groups) != maxGroups-1 || len(got.Silences) != MaxSilences {
		t.Fatalf("%d groups, %d silences", len(got.Groups), len(got.Silences))
	}
	for _, g := range got.Groups {
		if g.Changed.After(now) || len(g.Entries) != 1 || strings.ContainsRune(g.Entries[0].Text, 0x1b) || len(g.Entries[0].Text) > maxText || g.Entries[0].After > longest || g.Entries[0].Again > 100 {
			t.Fatalf("got %+v", g)
		}
	}
	if got.Silences[0].Until.After(now.Add(MaxSilence)) {
		t.Error("a silence for ever")
	}
}
