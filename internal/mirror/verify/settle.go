package verify

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

// settle looks at names of one directory again, behind a barrier, and notes
// what really differs. It returns the names that kept changing.
func (w *Walk) settle(ctx context.Context, s *State, dir string, names []string) ([]string, error) {
	for try := 0; len(names) > 0 && try < tries; try++ {
		if try > 0 {
			if err := pause(ctx); err != nil {
				return nil, err
			}
		}
		got, still, err := w.look(ctx, s, dir, names)
		if err != nil {
			return nil, err
		}
		var left []string
		for _, name := range names {
			if !still[name] || got.moving(name) {
				left = append(left, name)
				continue
			}
			if err := w.judge(ctx, s, dir, name, &got); err != nil {
				return nil, err
			}
		}
		names = left
	}
	return names, nil
}

func pause(ctx context.Context) error {
	t := time.NewTimer(tryPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// look asks everybody for the names once more. still are those whose inode on
// the master was the same, and at rest, from before the barrier until after the answers.
func (w *Walk) look(ctx context.Context, s *State, dir string, names []string) (answers, map[string]bool, error) {
	first := map[string]state{}
	began := time.Now()
	for _, name := range names {
		first[name] = w.stateAt(tree.Join(dir, name))
	}
	w.barrier(ctx, s)
	a := Ask{Dir: []byte(dir)}
	for _, name := range names {
		a.Only = append(a.Only, []byte(name))
	}
	got, err := w.ask(ctx, s, a)
	if err != nil {
		return got, nil, err
	}
	still := map[string]bool{}
	for _, name := range names {
		now := w.stateAt(tree.Join(dir, name))
		still[name] = now == first[name] && began.UnixNano()-now.ctime > int64(racy)
	}
	return got, still, nil
}

// stateAt is the state of the inode at rel; zero if there is none. Of a
// directory only that it is there: its times change with every name.
func (w *Walk) stateAt(rel string) state {
	m, err := w.Reader.Root.Glance(rel)
	switch {
	case err != nil:
		return state{}
	case m.Kind == tree.Dir:
		return state{inode: m.Inode}
	}
	return stateOf(m)
}

// barrier waits until the standbys have what was written before. Who does not get there is away.
func (w *Walk) barrier(ctx context.Context, s *State) {
	nodes := w.present(s)
	errs := make([]error, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			errs[i] = w.Barrier(ctx, n)
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	for i, n := range nodes {
		if errs[i] != nil && ctx.Err() == nil {
			s.Nodes[n].Away = errs[i].Error()
		}
	}
}

// moving reports whether somebody's copy changed while it was read.
func (g *answers) moving(name string) bool {
	if e := g.mine[name]; e != nil && e.Moving {
		return true
	}
	for _, list := range g.of {
		if e := list[name]; e != nil && e.Moving {
			return true
		}
	}
	return false
}

// judge notes what differs of one name, and has it repaired.
func (w *Walk) judge(ctx context.Context, s *State, dir, name string, got *answers) error {
	mine, rel := orNothing(got.mine[name]), tree.Join(dir, name)
	theirs := map[cluster.NodeID]*Entry{}
	for n, list := range got.of {
		theirs[n] = orNothing(list[name])
	}
	right := Judge(mine, theirs)
	if right == Undecided {
		if err := w.Reader.Index.forget(rel); err != nil {
			return err
		}
		if w.TrustMaster {
			right = OfMaster
		}
	}
	if right != OfMaster && right != Undecided && right != NoCopyLeft && w.Fix && w.Fetch != nil {
		return w.mend(ctx, s, dir, name, cluster.NodeID(right), theirs)
	}
	for _, n := range w.present(s) {
		what := differ(mine, theirs[n], got.end[n])
		if what == "" && mine.Damaged() && theirs[n].Damaged() {
			what = Content // the same damage twice
		}
		if what == "" {
			continue
		}
		f := Finding{Path: []byte(rel), Node: n, What: what, Right: right, At: time.Now()}
		switch right {
		case OfMaster:
			f.Bad = n
		case Undecided:
		default:
			f.Bad = w.Self
		}
		if w.Fix {
			f.Repaired, f.Why = w.repair(ctx, s, dir, name, n, &f)
		}
		w.note(s, f)
	}
	return nil
}

func orNothing(e *Entry) *Entry {
	if e == nil {
		return &Entry{}
	}
	return e
}

func (w *Walk) note(s *State, f Finding) {
	st := s.Nodes[f.Node]
	st.Differs++
	if f.Repaired {
		st.Repaired++
	}
	if len(s.Findings) < maxFindings {
		s.Findings = append(s.Findings, f)
	}
}

// mend replaces the master's damaged copy by a standby's; the others have it, or get it as they get every change.
func (w *Walk) mend(ctx context.Context, s *State, dir, name string, from cluster.NodeID, theirs map[cluster.NodeID]*Entry) error {
	rel := tree.Join(dir, name)
	f := Finding{Path: []byte(rel), Node: from, What: Content, Bad: w.Self, Right: string(from), At: time.Now(), Repaired: true}
	if err := w.Fetch(ctx, rel, w.Standbys[from], theirs[from]); err != nil {
		f.Repaired, f.Why = false, err.Error()
	}
	w.note(s, f)
	return ctx.Err()
}

// repair has one standby get the master's copy again, and looks whether it is the same then.
func (w *Walk) repair(ctx context.Context, s *State, dir, name string, n cluster.NodeID, f *Finding) (bool, string) {
	switch {
	case f.Right != OfMaster:
		return false, "which copy is right is not known"
	case f.What == Extra:
		return false, "what the master does not have is never deleted elsewhere by inference"
	}
	r := Repair{Dir: []byte(dir)}
	if f.What == Missing || f.What == Metadata {
		r.Come = [][]byte{[]byte(name)}
	} else {
		r.Keep = [][]byte{[]byte(name)}
	}
	if err := w.Standbys[n].Repair(r); err != nil {
		return false, err.Error()
	}
	why := "it still differs"
	for try := 0; try < tries; try++ {
		got, still, err := w.look(ctx, s, dir, []string{name})
		if err != nil {
			return false, err.Error()
		}
		if s.Nodes[n].Away != "" {
			return false, s.Nodes[n].Away
		}
		if still[name] && differ(orNothing(got.mine[name]), orNothing(got.of[n][name]), got.end[n]) == "" {
			return true, ""
		}
		if err := pause(ctx); err != nil {
			return false, err.Error()
		}
	}
	return false, why
}
