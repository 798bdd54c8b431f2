package apply

import (
	"errors"

	"revolve/internal/mirror/tree"
)

// strangeFile is there from before the journal takes over the source's history until what differs from it is kept, durably: a
// node that is killed in between stands in that history, and nothing else tells that its files never came from there.
const strangeFile = tree.Hidden + "/strange"

// Strange says that this tree has no history in common with the source's: until
// the whole is compared, also by another process, what is not the source's is kept before the
// source's takes its place. No trash is enough for it: it may be the only copy.
// It is to be said before the journal takes over the source's history.
func (a *Applier) Strange() error {
	if a.strange {
		return nil
	}
	if err := a.o.Root.WriteFile(strangeFile, nil); err != nil {
		return err
	}
	a.strange = true
	return nil
}

// loadStrange takes over what the process before this one said. A mark that no comparison is owed for is of a history that was never taken over.
func (a *Applier) loadStrange() error {
	_, err := a.o.Root.Glance(strangeFile)
	if err != nil {
		return ignoreGone(err)
	}
	if root, owed := a.owed.Get(""); owed && root.Tree || len(a.o.Journal.History()) == 0 {
		a.strange = true
		return nil
	}
	return a.dropStrange()
}

// familiar says that the whole was compared: all that differed is kept.
func (a *Applier) familiar() error {
	if !a.strange {
		return nil
	}
	if err := errors.Join(a.o.Root.SyncAll(), a.dropStrange()); err != nil {
		return err
	}
	a.strange = false
	return nil
}

// dropStrange is durable: a mark that came back could be taken for another comparison's.
func (a *Applier) dropStrange() error {
	if err := a.o.Root.Remove(strangeFile); err != nil && !tree.IsGone(err) {
		return err
	}
	return a.o.Root.SyncDir(tree.Hidden)
}
