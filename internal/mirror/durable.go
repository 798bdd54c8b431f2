package mirror

import (
	"context"
	"time"
)

const (
	// journalSync is how often a master's journal is made durable. What it loses at a crash is found by the scan after an unclean stop.
	journalSync = 100 * time.Millisecond
	// rootLook is how often it is seen whether the root is still there; every cloneLooks looks the clones that nobody needs go.
	rootLook   = time.Second
	cloneLooks = 10
)

// keepDurable syncs the journal of a master, and looks whether the root is still there. Where nothing happens it only looks.
func (v *volume) keepDurable(ctx context.Context, o *opened) error {
	look := time.NewTicker(rootLook)
	defer look.Stop()
	for n := 1; ; {
		changed := o.journal.Changed()
		if err := o.journal.Sync(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if !rest(ctx, journalSync) {
				return nil
			}
		case <-look.C:
			if !o.root.StillThere() {
				return v.rootLost()
			}
			if n++; n%cloneLooks == 0 {
				o.versions.Sweep()
			}
		}
	}
}

// rest waits for d; false says that ctx ended meanwhile.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
