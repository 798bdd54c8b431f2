package mirror

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// memoryDir is a directory on a tmpfs if there is one: the storms are not about
// durability, and their many syncs need not wear a disk.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "revolve-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// stormFirst is the first seed, and how many there are.
func stormFirst(t *testing.T) (first uint64, n int) {
	first, n = rand.Uint64N(1<<40), stormSeeds
	if v, err := strconv.Atoi(os.Getenv("REVOLVE_SEEDS")); err == nil {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("REVOLVE_SEED"), 10, 64); err == nil {
		first, n = v, 1
	}
	t.Logf("seeds %d to %d", first, first+uint64(n)-1)
	return first, n
}
