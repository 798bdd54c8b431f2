package mirror

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

// model is what must exist at the end, kept in memory. Every write of a program
// is a version with a number that is in all of its bytes. A version is over when a program that had it
// before its eyes wrote over it or deleted it; every other one must be there when all is
// quiet: nobody but a program may end it.
type model struct {
	versions map[uint64]*version
	next     uint64
	synced   int // barriers that were kept
}

type version struct {
	size  int
	by    cluster.NodeID
	path  string
	over  bool
	acked bool // a barrier said that every in-sync standby has it
}

func newModel() model { return model{versions: map[uint64]*version{}, next: 1} }

// fresh is the content of a new version.
func (m *model) fresh(n *modelNode, path string, words int) []byte {
	id := m.next
	m.next++
	m.versions[id] = &version{size: 8 * words, by: n.id, path: path}
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, id), words)
}

// forget takes back what was not written.
func (m *model) forget() {
	m.next--
	delete(m.versions, m.next)
}

// versionOf is the version that content is, 0 if it is none as a whole.
func (m *model) versionOf(b []byte) uint64 {
	if len(b) < 8 || len(b)%8 != 0 {
		return 0
	}
	id := binary.BigEndian.Uint64(b)
	v := m.versions[id]
	if v == nil || v.size != len(b) || !bytes.Equal(b, bytes.Repeat(b[:8], len(b)/8)) {
		return 0
	}
	return id
}

// below are the versions at and below a path, as a program there sees them.
func (m *model) below(path string, hidden bool) map[uint64]bool {
	found := map[uint64]bool{}
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if d.IsDir() && d.Name() == tree.Hidden && !hidden {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			if b, err := os.ReadFile(p); err == nil {
				if id := m.versionOf(b); id != 0 {
					found[id] = true
				}
			}
		}
		return nil
	})
	return found
}

func (m *model) end(ids map[uint64]bool) {
	for id := range ids {
		m.versions[id].over = true
	}
}

// lost says which versions are nowhere, and which acknowledged ones are in the trash only.
func (w *modelWorld) lost() string {
	kept, anywhere := map[uint64]bool{}, map[uint64]bool{}
	trees := w.model.below(w.nodes[0].dir, false)
	for _, n := range w.nodes {
		for _, dir := range []string{n.dir, filepath.Join(n.dir, tree.Hidden, "divergent")} {
			for id := range w.model.below(dir, false) {
				kept[id] = true
			}
		}
		for id := range w.model.below(filepath.Join(n.dir), true) {
			anywhere[id] = true
		}
	}
	var lines []string
	for id, v := range w.model.versions {
		switch {
		case v.over:
		case !anywhere[id]:
			lines = append(lines, fmt.Sprintf("version %d (%s, written on %s, acknowledged: %v) is nowhere\n", id, v.path, v.by, v.acked))
		case kept[id] && !trees[id]:
			w.divergent++
		case v.acked && !kept[id]:
			lines = append(lines, fmt.Sprintf("version %d (%s, written on %s) was acknowledged and is in the trash only\n", id, v.path, v.by))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// modelSum is what was played.
type modelSum struct {
	Storms, Steps, Versions, Over, Acked, Barriers, Reigns, Divergent int
	Failed                                                            []string
	began                                                             time.Time
}

func (s *modelSum) add(w *modelWorld) {
	s.Storms++
	s.Steps += w.steps
	s.Versions += len(w.model.versions)
	s.Barriers += w.model.synced
	s.Reigns += w.reigns
	s.Divergent += w.divergent
	for _, v := range w.model.versions {
		if v.over {
			s.Over++
		}
		if v.acked {
			s.Acked++
		}
	}
}

func (s modelSum) String() string {
	return fmt.Sprintf("%d storms of %d steps: %d versions written, %d ended by programs, %d acknowledged by %d barriers; %d reigns; %d versions found only among the divergent",
		s.Storms, s.Steps, s.Versions, s.Over, s.Acked, s.Barriers, s.Reigns, s.Divergent)
}

// failed notes a storm that ended wrong, and which promise it broke.
func (s *modelSum) failed(seed uint64, diff string) {
	what := "the trees differ"
	switch {
	case strings.Contains(diff, "acknowledged: true) is nowhere"):
		what = "an acknowledged version is nowhere"
	case strings.Contains(diff, "is nowhere"):
		what = "a version is nowhere"
	case strings.Contains(diff, "in the trash only"):
		what = "an acknowledged version is in the trash only"
	}
	s.Failed = append(s.Failed, fmt.Sprintf("| %d | %s |", seed, what))
}

// report is what `make model` commits.
func (s *modelSum) report(first uint64) string {
	var b strings.Builder
	title, late := "Notifications are read at once", ""
	if os.Getenv(envModelLate) != "" {
		title, late = "Notifications come late, too", " "+envModelLate+"=1"
	}
	fmt.Fprintf(&b, "## %s\n\nPlayed on %s, in %v. %s.\n\n", title, time.Now().Format(time.DateOnly), time.Since(s.began).Round(time.Second), s.String())
	if len(s.Failed) == 0 {
		fmt.Fprintf(&b, "No storm failed (seeds from %d).\n\n", first)
		return b.String()
	}
	fmt.Fprintf(&b, "**%d storms failed** and are open; `REVOLVE_MODEL_SPLITS=1 REVOLVE_MODEL_DIRS=1%s REVOLVE_SEED=n go test -run '^TestModel$' ./internal/mirror` plays one again (who runs first within a moment is not the seed's) and shrinks it.\n\n| seed | what |\n|---|---|\n%s\n",
		len(s.Failed), late, strings.Join(s.Failed[:min(len(s.Failed), modelListed)], "\n"))
	return b.String()
}
