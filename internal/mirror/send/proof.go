package send

import (
	"slices"
	"time"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

const (
	// proofWindow is how long two changes of names may lie apart and still count as entangled.
	proofWindow = 2 * time.Second
	// proofMoves and proofPaths bound what is remembered; beyond proofPaths the whole volume is proven.
	proofMoves = 256
	proofPaths = 1024
	// proofEvery is the least time between two proofs under a storm that does not end.
	proofEvery = 100 * time.Millisecond
)

// proof remembers directories whose renames and removals overlapped within a
// short time: one moved into, out of or over the other. The kernel merges such
// notifications and tells their names late, so what came of them is compared as
// soon as there is a moment. Ordinary renames and removals never get here.
type proof struct {
	moves []move
	due   map[string]bool
	new   []string // of these, what the follower does not owe yet
	last  time.Time
}

type move struct {
	path    string
	renamed bool
	at      time.Time
}

// note takes in a change of names; dir says that it is known to be a directory's.
func (p *proof) note(now time.Time, path, old string, dir bool) {
	for len(p.moves) > 0 && (now.Sub(p.moves[0].at) > proofWindow || len(p.moves) >= proofMoves) {
		p.moves = p.moves[1:]
	}
	renamed := old != ""
	for _, name := range []string{path, old} {
		if name == "" {
			continue
		}
		for _, m := range p.moves {
			if (m.renamed || renamed) && entangled(m.path, name, dir) {
				p.add(m.path)
				p.add(name)
			}
		}
	}
	p.moves = append(p.moves, move{path, renamed, now})
	if renamed {
		p.moves = append(p.moves, move{old, true, now})
	}
}

func entangled(a, b string, dir bool) bool {
	if a == b {
		return dir
	}
	return tree.Below(a, b) || tree.Below(b, a)
}

func (p *proof) add(path string) {
	if p.due == nil {
		p.due = map[string]bool{}
	}
	if p.due[""] {
		return
	}
	if len(p.due) >= proofPaths {
		clear(p.due)
		p.new = nil
		path = ""
	}
	if !p.due[path] {
		p.due[path] = true
		p.new = append(p.new, path)
	}
}

// renamed follows what is due to its new name; the follower does the same with what it owes.
func (p *proof) renamed(old, new string) {
	for path := range p.due {
		if path != "" && tree.Below(path, old) {
			delete(p.due, path)
			p.due[tree.Moved(path, old, new)] = true
		}
	}
	for i, path := range p.new {
		if path != "" && tree.Below(path, old) {
			p.new[i] = tree.Moved(path, old, new)
		}
	}
}

// owe has the follower owe what has become due: the connection may break before there is a moment for it.
func (s *Stream) owe() error {
	paths := s.proof.new
	s.proof.new = nil
	for _, path := range paths {
		if !s.proof.due[path] {
			continue // it went with the one that it was told with
		}
		if err := s.op(wire.Op{Kind: wire.OpTree, Path: path, Flag: true}); err != nil {
			return err
		}
	}
	return nil
}

// take returns the comparisons that are due, none of them below another.
func (p *proof) take(now time.Time) (jobs []treeJob) {
	if len(p.due) == 0 || now.Sub(p.last) < proofEvery {
		return nil
	}
	p.last = now
	var paths []string
	for path := range p.due {
		covered := false
		for up := tree.Parent(path); !covered && path != ""; up = tree.Parent(up) {
			covered = p.due[up]
			if up == "" {
				break
			}
		}
		if !covered {
			paths = append(paths, path)
		}
	}
	p.due = nil
	slices.Sort(paths)
	for _, path := range paths {
		jobs = append(jobs, treeJob{path: path, extras: wire.ExtrasTrash})
	}
	return jobs
}
