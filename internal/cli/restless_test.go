package cli

import (
	"testing"
	"time"

	"revolve/internal/control"
)

// What never stands still is told by name, and not as if it were on its way.
func TestRestlessFilesAreNamed(t *testing.T) {
	since := time.Date(2026, 5, 1, 12, 0, 0, 0, time.Local)
	for files, want := range map[int]string{
		1: `"vm/disk.img" is written without pause, and behind since 12:00:00`,
		3: `"vm/disk.img" is written without pause, and behind since 12:00:00 (with 2 more)`,
	} {
		s := control.Standby{State: "in-sync", Owed: 1, Restless: &control.Restless{Files: files, Path: `"vm/disk.img"`, Since: since}}
		if got := standbyProgress(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
