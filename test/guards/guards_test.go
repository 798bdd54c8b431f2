// Package guards shows that the stories can fail: it takes the guard of a
// promise out of the program, builds that, and wants the promise's story to
// fail with it. The source is left alone (go build -overlay).
//
//	make guards
package guards

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// guard is one line of the program that keeps a promise, and what it is without it.
type guard struct {
	promise, story string
	in             string // the package of the story, if it is none of ./test/stories: it is built without the guard, too
	file           string
	is, without    string
	tries          int // a story of chance may need several; 0 is one
}

func table() []guard {
	return []guard{
		{promise: "P1: of two masters that hear each other one gives way", story: "TestP1OneMaster", file: "internal/failover/election/master.go",
			is: "if worst >= 0 {\n\t\tf.DeleteVIPs", without: "if worst >= 0 && s.stopped {\n\t\tf.DeleteVIPs"},
		{promise: "P1: the kernel is silent for a frozen master", story: "TestFrozenMasterIsSilent", in: "./internal/failover/beat", file: "internal/failover/beat/silence.go",
			is: "l.quiet.all.Until(l.quiet.clock + time.Duration(next+l.cfg.Timers.Fence))", without: "l.quiet.all.Until(l.quiet.clock + time.Duration(next+l.cfg.Timers.Fence) + time.Hour)"},
		{promise: "P2: the kernel removes the addresses of a frozen node", story: "TestP2VIPsLeaveADeadNode", file: "internal/failover/vip/netlink.go",
			is: "native.AppendUint32(info, LifetimeSeconds)", without: "native.AppendUint32(info, 0xffffffff)"},
		{promise: "Clients: nothing leaves in the name of an address that is another's", story: "TestKernels", in: "./internal/failover/clients", file: "internal/failover/clients/end.go",
			is: "if err := mute(vip); err != nil {", without: "if err := error(nil); err != nil {"},
		{promise: "Clients: a daemon learns that the address has gone", story: "TestClientsAreTold", file: "internal/agent/departure.go",
			is: "n, err := clients.End(addr, gone)", without: "n, err := 0, error(nil)\n\t\t\t_ = clients.End"},
		{promise: "P3: the newest term survives a restart", story: "TestP3HostileMaster", file: "internal/agent/record.go",
			is: "r.durable, r.before = r.now, ", without: "r.now.Seen = 0\n\tr.durable, r.before = r.now, "},
		{promise: "P4: a new master takes from the survivors first", story: "TestP4SurvivorsLeadOnDifferentVolumes", file: "internal/mirror/lead.go",
			is: "v.gather(ctx, o, role)\n", without: "_ = v.gather\n"},
		{promise: "P5: what nobody received is kept", story: "TestP5UnreceivedChanges", file: "internal/mirror/apply/divergent.go",
			is: "m, err := s.root.Lstat(rel)\n\tif tree.IsGone(err) {\n\t\t// A plan", without: "if rel != \"\" {\n\t\treturn nil\n\t}\n\tm, err := s.root.Lstat(rel)\n\tif tree.IsGone(err) {\n\t\t// A plan"},
		{promise: "P5: what the losing side of a partition wrote is kept", story: "TestP5PartitionInHalves", file: "internal/mirror/follow.go",
			is: "SetAside(plan.From, tail, owner, apply.WhyUnreceived)", without: "SetAside(plan.From, tail[:0], owner, apply.WhyUnreceived)"},
		{promise: "P5: what others write on a standby is kept", story: "TestP5ForeignOfEveryKind", file: "internal/mirror/apply/aside.go",
			is: "if whole {\n\t\treturn a.keepBelow(", without: "if rel != \"\" {\n\t\treturn nil\n\t}\n\tif whole {\n\t\treturn a.keepBelow("},
		{promise: "P5: what others wrote is kept before the master's takes its place", story: "TestForeignComesFirst", in: "./internal/mirror", file: "internal/mirror/apply/foreign.go",
			is: "case others:\n\t\treturn true", without: "case others:\n\t\treturn false"},
		{promise: "Position: standbys at one position have one state, after a comparison too", story: "TestAComparisonIsOwedUntilItsRecordsHaveCome", in: "./internal/mirror/send", file: "internal/mirror/send/compare.go",
			is: "if job.path == \"\" && s.o.Drain != nil {", without: "if job.path == \"\" && s.o.Drain == nil {"},
		{promise: "P5: two files of one size and time are not one", story: "TestTwinsAreToldApart", in: "./internal/mirror/apply", file: "internal/mirror/apply/origin.go",
			is: "return from == theirs.Origin", without: "return true"},
		{promise: "P5: two files that changed places while a standby was off are not one", story: "TestTwinsOfAbsence", in: "./internal/mirror", file: "internal/mirror/apply/twins.go",
			is: "return c.sees(rel, mine, same) && same", without: "return same"},
		{promise: "P5: a node that is killed while it joins knows its own files", story: "TestAStrangerIsKilledWhileItCompares", in: "./internal/mirror", file: "internal/mirror/apply/strange.go",
			is: "if err := a.o.Root.WriteFile(strangeFile, nil); err != nil {", without: "if err := error(nil); err != nil {"},
		{promise: "P5: what only a joining node has is kept, whatever the master's journal reaches", story: "TestAStrangerIsKilledWhileItCompares", in: "./internal/mirror", file: "internal/mirror/apply/compare.go",
			is: "(a.strange || a.doubted(rel))", without: "a.doubted(rel)"},
		{promise: "P4: a new master takes a survivor's last large file", story: "TestAPullTakesItsLastLargeFile", in: "./internal/mirror", file: "internal/mirror/second.go",
			is: "if s.o.applier.Coming() == 0 {\n\t\treturn errEnd\n\t}\n\ts.ending", without: "if s.o.applier.Coming() >= 0 {\n\t\treturn errEnd\n\t}\n\ts.ending"},
		{promise: "P5: a large file that everybody was still to get is kept where it is", story: "TestWhatOnlyTheLosingSideHasIsKept", in: "./internal/mirror", file: "internal/mirror/apply/publish.go",
			is: "return records, a.keepUnreceived(op.Path)", without: "return records, nil"},
		{promise: "P5: that nobody had a file is handed on under the name that it has by then", story: "TestModelFoundDirs", in: "./internal/mirror", file: "internal/mirror/send/batch.go",
			is: "\t\tif r.Below {\n\t\t\tif err", without: "\t\tif r.Below && r.Old != \"\" {\n\t\t\tif err", tries: 3},
		{promise: "P5: that nobody had a file is told before anything can take its place", story: "TestWhatNobodyHadIsToldFirst", in: "./internal/mirror/send", file: "internal/mirror/send/stream.go",
			is: "if err := s.foretell(ctx); err != nil {", without: "if err := error(nil); err != nil {"},
		{promise: "P5: a new master, too, keeps what the one before it never had", story: "TestWhatAMasterNeverHadIsKept", in: "./internal/mirror/apply", file: "internal/mirror/apply/publish.go",
			is: "have.Kind == tree.Other || a.conflict(rel) != nil {", without: "have.Kind == tree.Other || a.stays() {"},
		{promise: "P5: a directory that others moved is kept with what is in it", story: "TestForeignMovedDirectoryGivesWay", in: "./internal/mirror", file: "internal/mirror/events.go",
			is: "defer v.mu.Unlock()\n\treturn v.broughtTo(path)", without: "defer v.mu.Unlock()\n\treturn v.written[path]"},
		{promise: "P3: what another master did under the same term is not taken", story: "TestChangesOfARivalAreNotTaken", in: "./internal/mirror", file: "internal/mirror/pull.go",
			is: "end.Term >= role.Reign.Term", without: "end.Term > role.Reign.Term"},
		{promise: "Position: a directory that was set aside as removed comes back with what is in it", story: "TestARemovedDirectoryComesBackWithWhatIsInIt", in: "./internal/mirror/apply", file: "internal/mirror/apply/apply.go",
			is: "if made && op.Seq == 0 && err == nil {", without: "if made && op.Seq != 0 && err == nil {"},
		{promise: "Position: what a dead master gave is looked at again after a kill", story: "TestWhatWasGivenIsAskedAgain", in: "./internal/mirror/apply", file: "internal/mirror/apply/answers.go",
			is: "slices.Concat(a.o.Announced, a.o.Answered)", without: "a.o.Announced"},
		{promise: "Position: who catches up and leads tells the others what it got", story: "TestWhoCatchesUpTellsWhatItGot", in: "./internal/mirror/apply", file: "internal/mirror/apply/answers.go",
			is: "if op.Seq != 0 && !a.behind ||", without: "if op.Seq != 0 ||"},
		{promise: "Position: the time of the volume's own directory is told when a stream begins", story: "TestTheRootsTimeIsToldFirst", in: "./internal/mirror/send", file: "internal/mirror/send/foretell.go",
			is: "look == nil && s.o.Until == nil {", without: "look == nil && s.o.Until != nil {"},
		{promise: "P4: what a survivor owes itself is no gift", story: "TestWhatASurvivorOwesIsOwed", in: "./internal/mirror/send", file: "internal/mirror/send/batch.go",
			is: "_, owed := s.o.Owed.Get(path)\n\treturn owed", without: "_, owed := s.o.Owed.Get(path)\n\treturn owed && path == \"\""},
		{promise: "P5: a large file that a new master was still to get is kept where it is", story: "TestWhatANewMasterNeverHadIsKept", in: "./internal/mirror", file: "internal/mirror/lead.go",
			is: "!d.Tree && (err == nil || tree.IsGone(err))", without: "!d.Tree && err == nil"},
		{promise: "P5: what others write while the last notifications are read is kept", story: "TestForeignOfTheMomentOfADrain", in: "./internal/mirror", file: "internal/mirror/session.go",
			is: "apply.Guard{Known: known,", without: "apply.Guard{Known: known - known,"},
		{promise: "P5: a standby that is killed knows its own: it announces names before they are seen", story: "TestWhatWasBeingPublishedIsItsOwn", in: "./internal/mirror", file: "internal/mirror/apply/flight.go",
			is: "return a.o.Journal.Append(ahead...)", without: "return a.o.Journal.Append(ahead[:0]...)"},
		{promise: "P5: a standby that is killed knows others' by how they look", story: "TestWhatWasBeingPublishedIsItsOwn", in: "./internal/mirror", file: "internal/mirror/scan.go",
			is: "return known && f.Looks == apply.Looks(m) &&", without: "return known && f.Looks != ^apply.Looks(m) &&"},
		{promise: "P6: what a node doubts that leads before its search is over is compared", story: "TestDoubtsOfALeader", in: "./internal/mirror", file: "internal/mirror/scan.go",
			is: "if v.mode == collect {\n\t\tv.doubts = dirs", without: "if v.mode <= record {\n\t\tv.doubts = dirs"},
		{promise: "P8: a large file that did not reach the disk is not published", story: "TestWhatDidNotReachTheDiskIsNotPublished", in: "./internal/mirror/apply", file: "internal/mirror/apply/transfer.go",
			is: "err = syswait.Sync(t.f)", without: "_ = syswait.Sync(t.f)"},
		{promise: "Position: what a dead master told last is looked at again", story: "TestWhatWasBeingPublishedIsAskedFor", in: "./internal/mirror", file: "internal/mirror/apply/answers.go",
			is: "slices.Concat(told, a.given.counting())", without: "slices.Concat(told[:0], a.given.counting())"},
		{promise: "Position: a beginning reign tells what is there, not how it came", story: "TestABeginningReignTellsWhatIsThere", in: "./internal/mirror", file: "internal/mirror/lead.go",
			is: "pending = inPresent(o, pending)\n", without: "_ = inPresent\n"},
		{promise: "P6: a mass deletion pins its trash and raises an alarm", story: "TestP6AlarmIsPinned", file: "internal/mirror/apply/trash.go",
			is: "if left >= len(t.removals) {", without: "if left >= 0 {"},
		{promise: "P6: deletions that nobody saw wait for a person", story: "TestP6DeletedWhileDown", file: "internal/mirror/lead.go",
			is: "journal.Record{Kind: journal.Tree, Pos: next, Below: true}", without: "journal.Record{Kind: journal.Tree, Pos: next, Below: false}"},
		{promise: "P6: what is overwritten goes to the trash", story: "TestP6Trash", file: "internal/mirror/apply/trash.go",
			is: "if m.Kind != tree.File || m.Size == 0", without: "if rel != \"\" || m.Kind != tree.File || m.Size == 0"},
		{promise: "P6: an emptied root deletes nothing elsewhere", story: "TestP6LostRoot", file: "internal/mirror/pause.go",
			is: "case want != \"\":\n", without: "case want != \"\" && have != \"\":\n"},
		{promise: "Bounds: no path leads through a link that was swapped in", story: "TestSymlinksSwappedIn", file: "internal/mirror/tree/tree.go",
			is: "unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV", without: "unix.RESOLVE_NO_XDEV", tries: 2},
		{promise: "P7: a node that fell silent without a goodbye is not off", story: "TestSilentOnDemand", in: "./internal/vm", file: "internal/vm/ask.go",
			is: "(e.o.WereOn == nil || !slices.Contains(e.o.WereOn(), n))", without: "true"},
		{promise: "P7: a goodbye that was taken back and comes late says nothing", story: "TestWhoIsOnIsRemembered", in: "./internal/agent", file: "internal/agent/record.go",
			is: "if word.before(r.words[n]) {", without: "if word.before(r.words[n]) && n == \"\" {"},
		{promise: "P8: content is durable before it replaces another", story: "TestP8PowerCuts", file: "internal/mirror/apply/apply.go",
			is:      "if err := a.syncContents(); err != nil {\n\t\treturn err\n\t}",
			without: "for i := range a.staged {\n\t\tif f := a.staged[i].f; f != nil {\n\t\t\tf.Close()\n\t\t\ta.staged[i].f = nil\n\t\t}\n\t}", tries: 3},
	}
}

// What is to be taken out is there, also while nobody takes it out.
func TestGuardsStand(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range table() {
		g.overlay(t, root, t.TempDir())
	}
}

func TestGuards(t *testing.T) {
	if os.Getenv("REVOLVE_GUARDS") == "" {
		t.Skip("SKIPPED PART: the stories with each guard taken out:", "set REVOLVE_GUARDS=1, or: make guards")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stories := filepath.Join(dir, "stories.test")
	run(t, root, "go", "test", "-c", "-o", stories, "./test/stories")
	for _, g := range table() {
		t.Run(strings.SplitN(g.promise, ":", 2)[0]+" "+g.story, func(t *testing.T) {
			bin, story, where := filepath.Join(dir, "revolve"), stories, "test/stories"
			overlay := g.overlay(t, root, dir)
			if run(t, root, "go", "build", "-overlay", overlay, "-o", bin, "./cmd/revolve"); g.in != "" {
				story, where = filepath.Join(dir, "story.test"), g.in
				run(t, root, "go", "test", "-overlay", overlay, "-c", "-o", story, g.in)
			}
			for range max(1, g.tries) {
				cmd := exec.Command(story, "-test.run", "^"+g.story+"$", "-test.v")
				cmd.Dir = filepath.Join(root, where)
				cmd.Env = append(os.Environ(), "REVOLVE_BIN="+bin)
				out, err := cmd.CombinedOutput()
				if err != nil && strings.Contains(string(out), "--- FAIL: "+g.story) {
					t.Logf("%s: without it %s fails: %s", g.promise, g.story, why(string(out)))
					return
				}
			}
			t.Errorf("%s: without it %s still passes", g.promise, g.story)
		})
	}
}

// overlay is the file that has the go command build without the guard.
func (g *guard) overlay(t *testing.T, root, dir string) (file string) {
	t.Helper()
	path := filepath.Join(root, g.file)
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), g.is); n != 1 {
		t.Fatalf("the guard of %q stands %d times in %s: bring this table up to date", g.promise, n, g.file)
	}
	changed := filepath.Join(dir, "changed.go")
	text := strings.Replace(string(src), g.is, g.without, 1)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "overlay.json")
	if err := errors.Join(os.WriteFile(changed, []byte(text), 0o644), os.WriteFile(file, overlay, 0o644)); err != nil {
		t.Fatal(err)
	}
	return file
}

func run(t *testing.T, dir string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// why is the first complaint of a story's output.
func why(out string) string {
	for line := range strings.SplitSeq(out, "\n") {
		if line = strings.TrimSpace(line); strings.Contains(line, "_test.go:") && !strings.Contains(line, "=== RUN") &&
			!strings.Contains(line, "seed:") && !strings.Contains(line, "on the stage:") && !strings.Contains(line, ": round ") {
			return line
		}
	}
	return "?"
}
