package stories

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/testbed"
)

// split moves nodes to the other segment of both links.
func (l *lab) split(nodes ...*node) {
	l.t.Helper()
	for _, n := range nodes {
		for _, link := range []cluster.LinkID{lan, fast} {
			n.cable(link, n.Split)
		}
	}
}

// sideMaster waits until exactly one of the nodes holds the VIPs, and leads their volume.
func (l *lab) sideMaster(nodes ...*node) (m *node) {
	l.t.Helper()
	l.eventually("a master on each side", askEvery, func() error {
		m = nil
		for _, n := range nodes {
			if !n.holds(vip4.Addr()) {
				continue
			}
			if m != nil {
				return fmt.Errorf("%s and %s hold the VIPs", m.name, n.name)
			}
			m = n
		}
		if m == nil {
			return errors.New("nobody holds the VIPs")
		}
		s, err := m.status()
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n != m && !slices.ContainsFunc(s.Volumes[0].Standbys, func(sb control.Standby) bool { return string(sb.Node) == n.name && sb.State == "in-sync" }) {
				return fmt.Errorf("%s does not call %s in-sync", m.name, n.name)
			}
		}
		return nil
	})
	return m
}

// Two and two: both sides have a master and take writes. At heal one master
// remains, both sides' writes exist, and the losers' are listed, brought back
// and dropped by a person on the master.
func TestP5PartitionInHalves(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{names: []string{"a", "b", "c", "d"}})
		m := l.form()
		before(t, m.home())
		m.sync()
		l.equal(m)
		rest := l.others(m)
		near, far := []*node{m, rest[0]}, rest[1:]
		l.split(far...)
		x, y := l.sideMaster(near...), l.sideMaster(far...)
		for side, n := range map[string]*node{"near": x, "far": y} {
			write(t, n.home("changed"), "changed on the "+side+" side")
			put(t, n.home("new-"+side), "new on the "+side+" side")
			must(t, os.Rename(n.home("renamed"), n.home("renamed-"+side)))
			must(t, os.Remove(n.home("deleted")))
			n.sync()
		}
		must(t, os.RemoveAll(x.home("gone")))
		x.sync()
		l.healAll()
		w := l.oneAfterHeal("two and two")
		l.equal(w)
		won, lost := "near", "far"
		losers := far
		if slices.Contains(far, w) {
			won, lost, losers = lost, won, near
		}
		t.Logf("%s of the %s side won", w.name, won)
		for content, path := range map[string]string{"changed on the " + won + " side": "changed", "new on the " + won + " side": "new-" + won, "renamed as all agreed": "renamed-" + won} {
			must(t, have(w.home(path), content))
		}
		for _, n := range losers {
			for _, content := range []string{"changed on the " + lost + " side", "new on the " + lost + " side"} {
				if len(found(t, n.home(hidden, "divergent"), content)) == 0 {
					t.Errorf("%q is not kept on %s", content, n.name)
				}
			}
			w.says(true, n.name+" keeps", "divergent")
		}
		out := w.must("divergent", "list")
		t.Log(out)
		set := ""
		for _, d := range losers[0].divergent() {
			if d.Path == "changed" {
				set = d.Set
				if d.Term == 0 || d.Node == "" || d.Time.IsZero() {
					t.Errorf("kept without node, term or time: %+v", d)
				}
			}
		}
		if set == "" || !strings.Contains(out, set) {
			t.Fatalf("the set %q of %s is not listed on %s", set, losers[0].name, w.name)
		}
		w.must("divergent", "restore", set, "changed", "new-"+lost)
		l.everywhere("changed", "changed on the "+lost+" side")
		l.everywhere("new-"+lost, "new on the "+lost+" side")
		if out, err := w.do("trash", "list", "--here"); err != nil || !strings.Contains(out, `"changed"`) {
			t.Errorf("what the restored file replaced is not in the master's trash: %v\n%s", err, out)
		}
		for _, n := range losers {
			for len(n.divergent()) > 0 {
				w.must("divergent", "drop", n.divergent()[0].Set, "--yes")
			}
		}
		w.says(false, "divergent")
		w.sync()
		l.equal(w)
		l.noDuplicates()
	})
}

// noDuplicates checks that duplicate address detection has taken no address away
// (IFA_F_DADFAILED, RFC 4862 5.4.5): while a network is split both sides hold the
// VIPs, and they meet when it heals.
func (l *lab) noDuplicates() {
	l.t.Helper()
	for _, n := range l.nodes {
		out, err := n.Run(l.t.Context(), "ip", "-6", "-o", "addr", "show")
		must(l.t, err)
		if bytes.Contains(out, []byte("dadfailed")) || bytes.Contains(out, []byte("tentative")) {
			l.t.Errorf("addresses of %s:\n%s", n.name, out)
		}
	}
}

// scribe writes files with content of their own on whoever holds the VIPs, as
// programs do that follow the address, and remembers what it wrote. Within the
// rules of the trash (one version of a path in ten minutes, and only of what a
// standby had): in one round a node writes a name only once, and what is deleted
// is older than the round.
type scribe struct {
	l     *lab
	rnd   *rand.Rand
	round int
	n     int
	wrote map[string]string       // content -> on whom
	turns map[string]map[int]bool // node -> shared names that it wrote in this round
}

// next begins a round.
func (s *scribe) next() {
	s.round++
	s.turns = map[string]map[int]bool{}
}

// write makes one change on every holder of the VIPs.
func (s *scribe) write() {
	for _, name := range s.l.holders() {
		n := s.l.nodes[name]
		s.n++
		old := fmt.Sprintf("own-%d", s.rnd.IntN(s.n))
		switch r := s.rnd.IntN(10); {
		case r < 5:
			s.shared(n, s.rnd.IntN(12))
		case r < 8:
			s.word(n, fmt.Sprintf("own-%d", s.n))
		case r < 9:
			_ = os.Rename(n.home("scribe", old), n.home("scribe", fmt.Sprintf("own-%d", s.n))) // it need not be there
		default:
			s.remove(n.home("scribe", old))
		}
	}
}

// shared writes a name that the other side writes too.
func (s *scribe) shared(n *node, i int) {
	if s.turns[n.name] == nil {
		s.turns[n.name] = map[int]bool{}
	}
	if !s.turns[n.name][i] {
		s.turns[n.name][i] = true
		s.word(n, fmt.Sprintf("shared-%d-%d", s.round, i))
	}
}

func (s *scribe) word(n *node, name string) {
	content := fmt.Sprintf("word %d of round %d on %s", s.n, s.round, n.name)
	path := n.home("scribe", name)
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+".new", []byte(content), 0o644))
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil && n.holds(vip4.Addr()) {
		s.wrote[content] = n.name
	}
}

func (s *scribe) remove(path string) {
	if b, err := os.ReadFile(path); err == nil && !strings.Contains(string(b), fmt.Sprintf("of round %d on", s.round)) {
		_ = os.Remove(path)
	}
}

// nowhere are the words that are in no tree, trash or divergent set of any node.
func (s *scribe) nowhere() (lost []string) {
	left := map[string]bool{}
	for w := range s.wrote {
		left[w] = true
	}
	for _, n := range s.l.nodes {
		err := filepath.WalkDir(n.home(), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				b, rerr := os.ReadFile(p)
				delete(left, string(b))
				err = rerr
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		must(s.l.t, err)
	}
	for w := range left {
		lost = append(lost, fmt.Sprintf("%q, written on %s", w, s.wrote[w]))
	}
	slices.Sort(lost)
	return lost
}

// Random partitions, two and two or three and one, again and again, with writes
// on every side. Nodes converge, and no word that was written while its node held
// the VIPs disappears: it is in a tree, a trash or a divergent set.
func TestP5RandomPartitions(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		s := seed(t)
		l := newLab(t, stage, plan{names: []string{"a", "b", "c", "d"}})
		m := l.form()
		before(t, m.home())
		m.sync()
		words := &scribe{l: l, rnd: rand.New(rand.NewPCG(s, 7)), wrote: map[string]string{}}
		for round := range 4 {
			rnd := rand.New(rand.NewPCG(s, uint64(round)))
			names := slices.Clone(l.names)
			rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			var far []*node
			for _, name := range names[:1+rnd.IntN(2)] {
				far = append(far, l.nodes[name])
			}
			dwell := settle/4 + time.Duration(rnd.IntN(int(settle))) // some end before the far side has a master
			t.Logf("round %d: %v on the other side for %v", round, names[:len(far)], dwell.Round(time.Millisecond))
			words.next()
			l.split(far...)
			l.during(dwell, "the network is split", func() error { words.write(); return nil })
			l.healAll()
			w := l.oneAfterHeal(fmt.Sprintf("round %d", round))
			w.sync()
			l.equal(w)
			if lost := words.nowhere(); len(lost) > 0 {
				t.Fatalf("round %d: %d of %d words are nowhere: %s", round, len(lost), len(words.wrote), strings.Join(lost[:min(len(lost), 5)], "; "))
			}
		}
		t.Logf("%d words written, all are there", len(words.wrote))
		l.noDuplicates()
	})
}
