package mirror

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/watch"
)

// TestPendingIsBounded: local changes that nobody may journal are remembered up
// to a number, and up to a size; then it is only known that there were some.
func TestPendingIsBounded(t *testing.T) {
	for what, path := range map[string]string{"short": "f", "long": strings.Repeat("directory/", 400)} {
		t.Run(what, func(t *testing.T) {
			v := &volume{}
			bytes, most := 0, 0
			for i := range 2 * maxPending {
				v.remember(watch.Event{Kind: watch.Dirty, Path: path + fmt.Sprint(i)})
				if bytes += len(path); len(v.pending) == 0 {
					bytes = 0
				}
				most = max(most, bytes)
			}
			if !v.lost || len(v.pending) > 0 || len(v.written) > 0 {
				t.Errorf("lost: %v, %d remembered, %d written", v.lost, len(v.pending), len(v.written))
			}
			if most > maxPendingBytes+1<<20 {
				t.Errorf("%d bytes of paths were remembered", most)
			}
		})
	}
}

// TestComplaintsAreBounded: errors that come in turn do not fill the log, and
// none that lasts is kept back for ever.
func TestComplaintsAreBounded(t *testing.T) {
	var c complaint
	now, said := time.Unix(0, 0), map[string]int{}
	for i := range 60_000 { // an hour of reconnecting as fast as is done
		now = now.Add(60 * time.Millisecond)
		if text := fmt.Sprint("port ", i); c.due(now, text) {
			said["ports"]++
		}
	}
	if n := said["ports"]; n < 2 || n > int(time.Hour/complainEvery)+1 {
		t.Errorf("said %d times in an hour", n)
	}
	for range 200 { // the last one lasts
		now = now.Add(time.Second)
		if c.due(now, "full") {
			said["full"]++
		}
	}
	if said["full"] != 1 {
		t.Errorf("what lasts is said %d times", said["full"])
	}
	c.over()
	if !c.due(now, "full") {
		t.Error("it came again and is not said")
	}
}

// TestLongPathIsTold: a path that no system call takes is left out, and that is said once.
func TestLongPathIsTold(t *testing.T) {
	var said bytes.Buffer
	v := &volume{log: slog.New(slog.NewTextHandler(&said, nil))}
	long := strings.Repeat("directory/", tree.MaxPath/10) + "file.txt"
	for range 3 {
		if !v.excluded(long) {
			t.Fatal("it is not left out")
		}
	}
	if v.excluded("short") || strings.Count(said.String(), "too long") != 1 {
		t.Errorf("said: %q", said.String())
	}
}
