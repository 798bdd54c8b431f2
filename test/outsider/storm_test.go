package outsider

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// storms changes a small tree at random, with names that collide, and wants the
// nodes equal after the barrier, time and again; REVOLVE_OUTSIDER_STORM=200 for more rounds.
func storms(t *testing.T, l *lab) {
	rounds := 8
	if n, err := strconv.Atoi(os.Getenv("REVOLVE_OUTSIDER_STORM")); err == nil {
		rounds = n
	}
	m := l.settled(l.nodes)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	top := filepath.Join(m.vol["home"], "storm")
	for _, dir := range []string{"", "knots/a", "knots/b", "knots/c"} {
		must(t, os.MkdirAll(filepath.Join(top, dir), 0o755))
	}
	for round := range rounds {
		for end := time.Now().Add(250 * time.Millisecond); time.Now().Before(end); {
			gust(rnd, top)
			knot(rnd, filepath.Join(top, "knots"))
		}
		l.sync(m)
		for _, v := range []string{"home", "zones"} {
			if err := equal(v, l.nodes, false); err != nil { // directories' own times: see that chapter
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	must(t, os.RemoveAll(top))
}

// gust makes one change. Most fail, because the names collide.
func gust(rnd *rand.Rand, top string) {
	path := func() string {
		p := top
		for range 1 + rnd.IntN(3) {
			p = filepath.Join(p, string(rune('a'+rnd.IntN(5))))
		}
		return p
	}
	a, b := path(), path()
	switch n := rnd.IntN(20); {
	case n < 5:
		_ = os.WriteFile(a, []byte(fmt.Sprint(rnd.Uint64())), 0o600+os.FileMode(rnd.IntN(64)))
	case n < 8:
		_ = os.MkdirAll(a, 0o755)
	case n < 13:
		_ = os.Rename(a, b)
	case n < 14:
		_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	case n < 15:
		_ = os.Chmod(a, 0o700+os.FileMode(rnd.IntN(64)))
	case n < 16:
		_ = os.Symlink(fmt.Sprint(rnd.Uint32()), a)
	case n < 17:
		_ = os.Truncate(a, int64(rnd.IntN(5000)))
	case n < 19:
		_ = os.Remove(a)
	default:
		_ = os.RemoveAll(a)
	}
}
