package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

const (
	// pruneEvery is how often the trash is looked at: its ages are days, its slots minutes.
	pruneEvery = time.Minute
	// roomLeast is what is made free on a full disk at once: one batch of a follower fits (commitBytes).
	roomLeast = 2 * commitBytes
)

func (v *volume) applyOptions(o *opened) apply.Options {
	return apply.Options{
		Root: o.root, Journal: o.journal, Node: v.e.o.Node, Excluded: v.excluded,
		TrashAge: v.c.TrashAge, TrashEvery: v.c.TrashEvery, TrashQuota: v.c.TrashQuota, Now: time.Now, Log: v.log,
		Stamp: v.e.o.Stamp, SyncFull: v.c.SyncFull, Published: v.changed,
	}
}

// keepTrash lets the trash go by age and quota, beside everything else. Trouble
// with it is no trouble of the volume's.
func (v *volume) keepTrash(ctx context.Context, o *opened) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	said := ""
	for {
		err := o.pruner.Round(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			v.log.Warn("the trash cannot be pruned", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// makeRoom lets trash go when the volume stopped because its disk is full: the
// volume comes before its trash, and the next try finds room. What a mass
// deletion pinned stays all the same; then a person is asked. It returns the
// error, with that said.
func (v *volume) makeRoom(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	root, oerr := tree.Open(v.c.Path)
	if oerr != nil {
		return err
	}
	defer root.Close()
	if !v.same(root) {
		return err
	}
	found, rerr := apply.NewPruner(apply.Options{Root: root}).MakeRoom(roomLeast)
	if found {
		v.log.Warn("the disk is full: trash went before its time", "err", rerr)
	}
	pins, _ := apply.Pins(root) // unreadable is no reason to say less
	if len(pins) == 0 || found {
		return err
	}
	return &problem.Problem{Op: "apply to volume", Kind: problem.Unavailable, Subject: v.c.Path,
		Err:  fmt.Errorf("its disk is full, and %d slots of its trash are pinned since much was deleted at once: %w", len(pins), unix.ENOSPC),
		Hint: fmt.Sprintf("see revolve trash list %s; make space, or let them go: revolve trash unpin %s", v.c.Name, v.c.Name)}
}
