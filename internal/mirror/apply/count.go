package apply

import (
	"sync"

	"revolve/internal/mirror/tree"
)

// Counter counts the divergent changes of a volume and looks for the pins of its
// trash, and reads only what changed since it looked last. Any goroutine may use it.
type Counter struct {
	mu   sync.Mutex
	sets map[string]counted

	trash int64 // ctime of the trash's directory when pins were read
	pins  []Pin
}

type counted struct {
	size, ctime int64 // of the index when it was read
	n           int
}

// Divergent is how many changes are kept aside in the volume.
func (c *Counter) Divergent(root *tree.Root) (total int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sets, err := root.List(divergentDir)
	if err != nil {
		return 0, ignoreGone(err)
	}
	now := map[string]counted{}
	for _, e := range sets {
		dir := divergentDir + "/" + e.Name
		m, err := root.Lstat(dir + "/" + indexName)
		if err != nil {
			continue // a set of which only the directory is there has no entry yet
		}
		x := c.sets[e.Name]
		if x.size != m.Size || x.ctime != m.CTime {
			kept, err := readIndex(root, dir)
			if err != nil {
				return total, err
			}
			x = counted{m.Size, m.CTime, len(kept)}
		}
		now[e.Name] = x
		total += x.n
	}
	c.sets = now
	return total, nil
}

// Pins lists the pinned slots of the volume's trash, oldest first. Unreadable,
// they are what they were.
func (c *Counter) Pins(root *tree.Root) []Pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := root.Lstat(trashDir)
	switch {
	case tree.IsGone(err):
		c.trash, c.pins = 0, nil
	case err == nil && m.CTime != c.trash: // a pin that comes or goes changes its directory
		if pins, err := Pins(root); err == nil {
			c.trash, c.pins = m.CTime, pins
		}
	}
	return c.pins
}
