package apply

import (
	"context"
	"slices"
	"sync"
	"time"

	"revolve/internal/mirror/tree"
)

const (
	// defaultShare is the part of the filesystem that the trash may take (P6): 5 %.
	defaultShare = 5
	// pruneEntries and prunePause bound the work of pruning: after so many entries it rests, so that it never takes
	// more than a small part of one processor and of the disk's time, whatever the trash holds.
	pruneEntries = 500
	prunePause   = 20 * time.Millisecond
	// pruneSettle is how long after its end a slot is left alone: the minute of a mass deletion may have begun in it.
	pruneSettle = 2 * massWindow
)

// Quota is how much the trash of a volume may hold: bytes, or a share of the
// filesystem in percent; none is 5 %.
type Quota struct {
	Share int
	Bytes int64
}

func (q Quota) of(size int64) int64 {
	switch {
	case q.Bytes > 0:
		return q.Bytes
	case q.Share > 0:
		return size / 100 * int64(q.Share)
	}
	return size / 100 * defaultShare
}

// Pruner lets the trash go: what is too old, and what is beyond the quota, the
// oldest first. It works beside the Applier, on slots that are complete. One
// goroutine uses a Pruner, and any may ask for its Held.
type Pruner struct {
	root  *tree.Root
	keep  time.Duration
	every time.Duration
	quota Quota
	now   func() time.Time
	used  map[string]int64 // complete slots, counted once
	work  int              // entries since the last pause

	mu      sync.Mutex
	held    int64
	dropped int64
}

// NewPruner prepares pruning the trash of o's volume.
func NewPruner(o Options) *Pruner {
	return &Pruner{root: o.Root, keep: o.TrashAge, every: o.trashEvery(), quota: o.TrashQuota, now: o.Now, used: map[string]int64{}}
}

// Held is what complete slots held when they were counted last, pinned ones
// included, and the number of versions that went before their age.
func (p *Pruner) Held() (bytes, dropped int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held, p.dropped
}

// slots lists the slots, newest first, and which are pinned.
func (p *Pruner) slots() (names []string, pinned map[string]bool, err error) {
	list, err := p.root.List(trashDir)
	if err != nil {
		return nil, nil, ignoreGone(err)
	}
	pinned = map[string]bool{}
	for _, e := range list {
		if _, err := time.Parse(slotLayout, e.Name); err == nil && e.Meta.Kind == tree.Dir {
			names = append(names, e.Name)
		}
	}
	pins, err := Pins(p.root)
	for _, pin := range pins {
		pinned[pin.Slot] = true
	}
	slices.Reverse(names)
	return names, pinned, err
}

// Round prunes once. The newest slots fill the quota first, file by file; of
// what does not fit nothing stays. Pinned slots do not count and are not touched.
func (p *Pruner) Round(ctx context.Context) error {
	names, pinned, err := p.slots()
	if err != nil {
		return err
	}
	_, size, err := p.root.Free()
	if err != nil {
		return err
	}
	now, left, held := p.now(), p.quota.of(size), int64(0)
	for _, name := range names {
		began, _ := time.Parse(slotLayout, name) // slots returned only such names
		dir := trashDir + "/" + name
		switch {
		case now.Sub(began) < p.every+pruneSettle:
			continue // the applier may be writing there
		case !pinned[name] && now.Sub(began) >= p.keep:
			if _, err := p.keepWithin(ctx, dir, 0, false); err != nil {
				return err
			}
			delete(p.used, name)
			continue
		}
		used, counted := p.used[name]
		if !counted || !pinned[name] && used > left {
			within := left
			if pinned[name] {
				within = -1
			}
			if used, err = p.keepWithin(ctx, dir, within, true); err != nil {
				return err
			}
			p.used[name] = used
		}
		if !pinned[name] {
			left -= used
		}
		held += used
	}
	p.mu.Lock()
	p.held = held
	p.mu.Unlock()
	return nil
}

// keepWithin removes what is below dir and does not fit into the space (-1: all
// fits), and dir itself if nothing is left in it. It returns the bytes that stay.
func (p *Pruner) keepWithin(ctx context.Context, dir string, space int64, early bool) (used int64, err error) {
	list, err := p.root.List(dir)
	if err != nil {
		return 0, ignoreGone(err)
	}
	for _, e := range list {
		if err := p.pace(ctx); err != nil {
			return used, err
		}
		rel := dir + "/" + e.Name
		if e.Meta.Kind == tree.Dir && len(rel) >= tree.MaxPath { // no path reaches below: nobody can restore it, nobody can count it
			if space < 0 {
				return used, nil
			}
			return 0, p.root.RemoveAll(dir)
		}
		if e.Meta.Kind == tree.Dir {
			within := space
			if space >= 0 {
				within = space - used
			}
			n, err := p.keepWithin(ctx, rel, within, early)
			if used += n; err != nil {
				return used, err
			}
			continue
		}
		own := p.own(rel, e.Meta)
		if space < 0 || early && used+own <= space {
			used += own
			continue
		}
		if err := ignoreGone(p.root.Remove(rel)); err != nil {
			return used, err
		}
		if early {
			p.mu.Lock()
			p.dropped++
			p.mu.Unlock()
		}
	}
	if space < 0 || early && used > 0 {
		return used, nil
	}
	err = p.root.Remove(dir) // goes if nothing is left in it
	return used, ignoreNotEmpty(ignoreGone(err))
}

// own is what an entry costs: what it shares with others costs nothing.
func (p *Pruner) own(rel string, m tree.Meta) int64 {
	if m.Kind != tree.File || m.Size <= trashMaxFile {
		return m.Size
	}
	if own, err := p.root.OwnBytes(rel, m.Size); err == nil {
		return own
	}
	return m.Size
}

func (p *Pruner) pace(ctx context.Context) error {
	if p.work++; p.work < pruneEntries {
		return ctx.Err()
	}
	p.work = 0
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(prunePause):
		return nil
	}
}

// MakeRoom lets unpinned slots go, the oldest first and the present one too,
// until so many bytes are free: the volume itself comes before its trash. It
// reports whether it found anything to let go.
func (p *Pruner) MakeRoom(free int64) (found bool, err error) {
	names, pinned, err := p.slots()
	if err != nil {
		return false, err
	}
	for _, name := range slices.Backward(names) {
		have, _, err := p.root.Free()
		if err != nil || have >= free {
			return found, err
		}
		if pinned[name] {
			continue
		}
		if err := p.root.RemoveAll(trashDir + "/" + name); err != nil {
			return found, err
		}
		found = true
		p.mu.Lock()
		p.dropped++
		p.mu.Unlock()
	}
	return found, nil
}

// trashEvery is the time of a slot.
func (o Options) stamp() time.Time {
	if o.Stamp != nil {
		return o.Stamp()
	}
	return o.Now()
}

func (o Options) trashEvery() time.Duration {
	if o.TrashEvery > 0 {
		return o.TrashEvery
	}
	return DefaultEvery
}
