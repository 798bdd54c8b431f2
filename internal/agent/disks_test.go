package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPulse: one refusal is not enough, a stall is, and what was ill must answer several times.
func TestPulse(t *testing.T) {
	var p pulse
	now := time.UnixMilli(0)
	broken := errors.New("read-only")
	p.end(nil)
	if p.end(broken); p.ill || p.next() != pulseInDoubt {
		t.Errorf("after one refusal: %+v", p)
	}
	if p.end(broken); !p.ill || p.why != "read-only" {
		t.Errorf("after two refusals: %+v", p)
	}
	for range pulseRise - 1 {
		p.end(nil)
	}
	p.end(errNoPulse)
	if !p.ill {
		t.Error("well again too early")
	}
	if p.end(nil); p.ill || p.next() != pulseEvery {
		t.Errorf("after %d good answers: %+v", pulseRise, p)
	}
	p.began = now
	if p.look(now.Add(pulseStalled-1)) || p.ill {
		t.Error("a busy disk is ill at once")
	}
	if !p.look(now.Add(pulseStalled)) || !p.ill {
		t.Error("a stalled disk is not ill")
	}
	if p.end(nil); !p.ill {
		t.Error("a single answer ends a stall")
	}
}

// TestBeatOnce: a byte is written where it should be, and nowhere else.
func TestBeatOnce(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	if err := beatOnce(dir, "pulse"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "pulse")); err != nil || string(b) != "." {
		t.Errorf("%q %v", b, err)
	}
	if err := os.Symlink(other, filepath.Join(dir, ".revolve")); err != nil {
		t.Fatal(err)
	}
	if err := beatOnce(dir, ".revolve/pulse"); !errors.Is(err, errNoPulse) {
		t.Errorf("through a link: %v", err)
	}
	if list, _ := os.ReadDir(other); len(list) > 0 {
		t.Error("a link was followed")
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := beatOnce(dir, "fifo"); !errors.Is(err, errNoPulse) {
		t.Errorf("a FIFO: %v", err)
	}
	if err := beatOnce(filepath.Join(dir, "none"), "pulse"); !errors.Is(err, errNoPulse) {
		t.Errorf("no directory: %v", err)
	}
}
