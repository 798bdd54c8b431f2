package mirror

import (
	"time"

	"revolve/internal/cluster"
)

// Told is what this node has of a volume, and what its master said last that there is.
type Told struct {
	Volume cluster.VolumeID
	Master cluster.NodeID // who said it; "" if nobody has yet
	Head   cluster.Position
	At     time.Time     // when it was said
	Lag    time.Duration // how far this node was behind then
	Here   cluster.Position
}

// Told describes every volume in the order of the configuration. Asked before a
// new role is set, it says what would be lost if the master never came back.
func (e *Engine) Told() []Told {
	out := make([]Told, 0, len(e.volumes))
	for _, v := range e.volumes {
		v.mu.Lock()
		o := v.open
		t := Told{Volume: v.c.Name, Master: v.follow.master, Head: v.follow.head, At: v.follow.heard, Lag: v.follow.lag}
		v.mu.Unlock()
		if o != nil {
			t.Here = o.journal.Position()
		}
		out = append(out, t)
	}
	return out
}
