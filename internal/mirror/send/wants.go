package send

import (
	"context"
	"fmt"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// maxTrees and maxTreeBytes bound the comparisons and paths that a follower may have asked for.
const (
	maxTrees     = 100_000
	maxTreeBytes = 8 << 20
)

// wanted deals with what the follower asks for outside of a comparison.
func (s *Stream) wanted(ctx context.Context, w wire.Wants) error {
	if err := w.Check(); err != nil {
		return err
	}
	bytes := 0
	for _, t := range s.trees {
		bytes += len(t.path)
	}
	if len(s.trees)+len(w.Trees)+len(w.Names) > maxTrees || bytes > maxTreeBytes {
		return ErrTooFarBehind
	}
	s.mu.Lock()
	s.big.want(w.IDs, w.Have)
	s.mu.Unlock()
	for _, p := range w.Trees {
		s.trees = append(s.trees, treeJob{path: string(p), extras: wire.ExtrasTrash})
	}
	if w.Job == 0 {
		for _, p := range w.Names {
			s.trees = append(s.trees, treeJob{path: string(p)})
		}
		return nil
	}
	if s.lists == 0 || w.Job != s.jobs {
		return fmt.Errorf("send: an answer to a list of comparison %d that was not sent", w.Job)
	}
	s.lists--
	defer s.within(string(w.Dir), len(w.Names))()
	for i, name := range w.Names {
		if err := s.pause(ctx); err != nil {
			return err
		}
		path := tree.Join(string(w.Dir), string(name))
		if len(w.Sums) > 0 && s.hasSum(path, w.Sums[i]) {
			continue
		}
		if err := s.listed(path); err != nil {
			return err
		}
		if err := s.endIfFull(); err != nil {
			return err
		}
	}
	return nil
}
