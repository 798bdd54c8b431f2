package agent

import (
	"context"
	"time"
)

// liveness tells systemd that this node is ready when its beat process has
// reported for the first time, and from then on that it lives. The sign is given
// only if since the last one a word was said to the beat process and a report of it
// was taken in: an agent whose main loops hang, or whose beat process does, gives none,
// and systemd ends both and starts them again.
func (a *Agent) liveness(ctx context.Context) error {
	words, reports := a.words.Load(), a.reports.Load()
	for a.reports.Load() == reports {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wordEvery):
		}
	}
	a.o.Notify.Ready()
	if a.o.Notify.Every() == 0 {
		return nil
	}
	tick := time.NewTicker(a.o.Notify.Every())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if w, r := a.words.Load(), a.reports.Load(); w != words && r != reports {
			words, reports = w, r
			a.o.Notify.Alive()
		}
	}
}
