package apply

import (
	"sync"

	"revolve/internal/mirror/tree"
)

// Counter counts the divergent changes of a volume, and reads only the sets that
// changed since it counted last. Any goroutine may use it.
type Counter struct {
	mu   sync.Mutex
	sets map[string]counted
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
