package agent

import (
	"context"
	"time"

	"revolve/internal/syswait"
)

// It is seen to once in relaxEvery that the scheduler's watch thread rests, and that no other thread does as it;
// again after relaxFirst, since most threads of an agent begin with it.
const (
	relaxFirst = 5 * time.Second
	relaxEvery = time.Minute
)

// relax lets an agent that is woken a hundred times a second pay for its work and not for the runtime's watch over it.
func (a *Agent) relax(ctx context.Context) error {
	again := relaxFirst
	for said := false; ; again = relaxEvery {
		if err := syswait.Relax(); err != nil && !said {
			said = true
			a.o.Log.Debug("the watch thread wakes as often as it likes", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}
