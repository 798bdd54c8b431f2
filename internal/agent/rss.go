package agent

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What a first copy or a storm needed goes back to the system when it is over: the
// runtime keeps what its last collections found in use, and an agent at rest collects every
// few minutes only.
const (
	giveBackEvery = 5 * time.Second
	// giveBackLeast is what is worth a collection, some milliseconds of a processor.
	giveBackLeast = 4 << 20
)

// giveBack returns memory while the agent does little.
func (a *Agent) giveBack(ctx context.Context) error {
	tick := time.NewTicker(giveBackEvery)
	defer tick.Stop()
	h := newHoard()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if h.due(h.read()) {
			debug.FreeOSMemory()
			h.gave(h.read())
		}
	}
}

// held is what the runtime says of its memory.
type held struct {
	spare  uint64 // bytes of the heap that hold nothing, and are not the system's yet
	cycles uint64 // collections so far
}

// hoard decides when memory is given back.
type hoard struct {
	samples []metrics.Sample
	last    uint64 // collections until the last look
	left    uint64 // what could not be given back the last time
}

func newHoard() *hoard {
	h := &hoard{samples: []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}}
	h.last = h.read().cycles
	return h
}

func (h *hoard) read() held {
	metrics.Read(h.samples)
	return held{h.samples[0].Value.Uint64() + h.samples[1].Value.Uint64(), h.samples[2].Value.Uint64()}
}

// due says that little happened since the last look, and that much is held in vain.
func (h *hoard) due(now held) bool {
	calm := now.cycles-h.last <= 1
	h.last = now.cycles
	return calm && now.spare >= h.left+giveBackLeast
}

// gave takes note of what is left: pieces between what is in use.
func (h *hoard) gave(now held) { h.last, h.left = now.cycles, now.spare }
