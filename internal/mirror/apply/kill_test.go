package apply

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/wire"
)

const (
	envKill = "REVOLVE_APPLY_KILL" // DIR:N: play in DIR and die before step N
	// killBatches is how many batches of killPlay there are.
	killBatches = 7
)

// killBatch is one batch of a stream that meets every path of the applier.
func killBatch(n int) []wire.Op {
	group := fileOp("g1", "group 5")
	group.Kind, group.How, group.Names = wire.OpGroup, wire.GroupData, []string{"g2"}
	return [][]wire.Op{
		{dirOp("d"), fileOp("d/a", "a0"), fileOp("b", "b0")},
		{fileOp("d/c", "c1"), fileOp("b", "b1")},
		{fileOp("new", "n2")},
		{renameOp("d/c", "e"), fileOp("d/a", "a3")},
		{removeOp("new"), fileOp("f", "f4")},
		{group},
		{renameOp("d", "h"), fileOp("h/a", "a6"), fileOp("last", "l6")},
	}[n]
}

// killWant is the tree behind all batches.
func killWant() map[string]string {
	return map[string]string{"h/a": "a6", "b": "b1", "e": "c1", "f": "f4", "g1": "group 5", "g2": "group 5", "last": "l6"}
}

// killPlay plays the stream from where the journal stands; said is told of every acknowledged position.
func killPlay(r *rig, said func(seq uint64)) error {
	seq, have := uint64(0), r.o.Journal.Position().Seq
	for n := range killBatches {
		for _, op := range killBatch(n) {
			if seq++; seq <= have {
				continue
			}
			op.Seq = seq
			if err := r.Stage(op); err != nil {
				return err
			}
		}
		if seq <= have {
			continue
		}
		flew, err := r.Fly(1)
		if err == nil && (!flew || n%2 == 1) {
			err = r.Commit() // which settles what flies
		}
		if err != nil {
			return err
		}
		said(r.o.Journal.Position().Seq)
	}
	return r.Settle()
}

// TestKilledPlayer is no test of its own: it is the process that is killed.
func TestKilledPlayer(t *testing.T) {
	dir, at, is := strings.Cut(os.Getenv(envKill), ":")
	if !is {
		return
	}
	left, err := strconv.Atoi(at)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: filepath.Join(dir, "vol"), state: filepath.Join(dir, "state")}
	r.open()
	r.o.SyncFull = os.Getenv(envKill+"_FULL") != ""
	r.o.Step = func(string) {
		if left--; left == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
	}
	if r.o.Journal.Position().Term == 0 {
		if err := r.o.Journal.Append(journal.Record{Kind: journal.Begun, Reign: cluster.Reign{Term: 1, Owner: "a"}}); err != nil {
			t.Fatal(err)
		}
		r.reload()
	}
	if err := killPlay(r, func(seq uint64) { fmt.Println("acknowledged", seq) }); err != nil {
		t.Fatal(err)
	}
	if os.Getenv(envKill+"_ASIDE") != "" {
		tail, err := r.o.Journal.Tail(cluster.Position{Term: 1, Seq: 4}, 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.SetAside(cluster.Position{Term: 1, Seq: 4}, tail, "a", WhyUnreceived); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("played to the end")
}

// killed runs the player in dir until it dies before step n; over means that it has no such step.
func killed(t *testing.T, dir string, n int, more ...string) (acked uint64, over bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestKilledPlayer$", "-test.v")
	cmd.Env = append(append(os.Environ(), fmt.Sprintf("%s=%s:%d", envKill, dir, n)), more...)
	out, err := cmd.CombinedOutput()
	over = strings.Contains(string(out), "played to the end")
	if err == nil != over {
		t.Fatalf("step %d: %v\n%s", n, err, out)
	}
	if cmd.ProcessState.Exited() && !over {
		t.Fatalf("step %d: it was not killed\n%s", n, out)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if s, is := strings.CutPrefix(line, "acknowledged "); is {
			acked, _ = strconv.ParseUint(s, 10, 64)
		}
	}
	return acked, over
}

func killPlace(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, sub := range []string{"vol", "state"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A node that is killed before any step of applying starts again with
// everything that it acknowledged; what it showed besides is owed; and the
// rest of the stream brings it to where it would have come.
func TestKilledBeforeEveryStep(t *testing.T) {
	t.Run("group", func(t *testing.T) { killEveryStep(t, killLook) })
	// With sync: full what was published and not journaled is whole, and sent again.
	t.Run("full", func(t *testing.T) { killEveryStep(t, nil, envKill+"_FULL=1") })
}

func killEveryStep(t *testing.T, look func(t *testing.T, r *rig, n int), more ...string) {
	steps := 0
	for n := 1; ; n++ {
		dir := killPlace(t)
		acked, over := killed(t, dir, n, more...)
		r := &rig{t: t, dir: filepath.Join(dir, "vol"), state: filepath.Join(dir, "state")}
		r.open()
		at := r.o.Journal.Position().Seq
		if at < acked {
			t.Errorf("step %d: acknowledged was %d, the journal stands at %d", n, acked, at)
		}
		if r.o.Journal.Position().Term > 0 {
			if look != nil {
				look(t, r, n)
			}
			if err := killPlay(r, func(uint64) {}); err != nil {
				t.Fatalf("step %d: %v", n, err)
			}
			killSettled(t, r, n)
		}
		r.halt()
		if over {
			break
		}
		steps++
	}
	if steps < 30 {
		t.Errorf("only %d steps", steps)
	}
}

// killLook wants what is above the journal's position to be owed, and every file whole.
func killLook(t *testing.T, r *rig, n int) {
	t.Helper()
	seq, at, owed := uint64(0), r.o.Journal.Position().Seq, r.o.Journal.Owed()
	for batch := range killBatches {
		for _, op := range killBatch(batch) {
			seq++
			if op.Kind != wire.OpFile || seq <= at || batch > 2 { // names move later
				continue
			}
			b, err := os.ReadFile(r.abs(op.Path))
			if err != nil {
				continue
			}
			_, is := owed.Get(op.Path)
			if string(b) == string(op.Data) && !is && batch != 1 {
				t.Errorf("step %d: %s of change %d is there, the journal stands at %d, and it is not owed", n, op.Path, seq, at)
			}
			if len(b) != 2 {
				t.Errorf("step %d: %s is torn: %q", n, op.Path, b)
			}
		}
	}
}

func killSettled(t *testing.T, r *rig, n int) {
	t.Helper()
	for path, want := range killWant() {
		if b, err := os.ReadFile(r.abs(path)); err != nil || string(b) != want {
			t.Errorf("step %d: at the end %s is %q (%v), want %q", n, path, b, err, want)
		}
	}
	for _, path := range []string{"d", "new"} {
		r.gone(path)
	}
	g1, err1 := r.o.Root.Lstat("g1")
	g2, err2 := r.o.Root.Lstat("g2")
	if err1 != nil || err2 != nil || g1.Inode != g2.Inode {
		t.Errorf("step %d: g1 and g2 are not one file", n)
	}
}

// A plan that sets changes aside and is killed before any of its steps ends the same when it is resumed.
func TestKilledWhileSettingAside(t *testing.T) {
	whole := killPlace(t)
	_, _ = killed(t, whole, 0, envKill+"_ASIDE=1")
	want := killedAside(t, whole)
	if len(want) == 0 {
		t.Fatal("nothing was set aside")
	}
	first := 1
	for ; ; first++ { // the steps of the stream itself are another test's
		if _, over := killed(t, killPlace(t), first); over {
			break
		}
	}
	for n := first; ; n++ {
		dir := killPlace(t)
		_, over := killed(t, dir, n, envKill+"_ASIDE=1")
		if got := killedAside(t, dir); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("step %d:\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if over {
			return
		}
	}
}

// killedAside resumes the plan and lists what is kept, what is owed, and where the journal stands.
func killedAside(t *testing.T, dir string) (lines []string) {
	t.Helper()
	r := &rig{t: t, dir: filepath.Join(dir, "vol"), state: filepath.Join(dir, "state")}
	r.open()
	defer r.halt()
	if err := r.ResumePlan(); err != nil {
		t.Fatal(err)
	}
	kept, err := ListDivergent(r.o.Root)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, k := range kept {
		line := fmt.Sprint(k.What, " ", k.Path, " ", k.Size)
		if !seen[line] {
			seen[line] = true
			lines = append(lines, line)
		}
	}
	owed := r.o.Journal.Owed()
	for _, d := range owed.List() {
		lines = append(lines, fmt.Sprint("owed ", d.Path, d.Tree))
	}
	return append(lines, r.o.Journal.Position().String())
}
