package service

import (
	"testing"
	"time"
)

// TestHealth: g good, b bad, d dead, l late, x blind; behind each what it makes of it (h i s u).
func TestHealth(t *testing.T) {
	letters := map[State]byte{Starting: 's', Healthy: 'h', Ill: 'i', Unknown: 'u'}
	for _, c := range []struct{ name, findings, states string }{
		{"a start counts good ones only", "bbbbgg", "sssssh"},
		{"one good answer may be luck", "gbgg", "sssh"},
		{"a late start is ill, and may get well", "bblgg", "ssiih"},
		{"late means nothing to the healthy", "ggl", "shh"},
		{"two lost answers are nothing", "ggbbgbbg", "shhhhhhh"},
		{"three are", "ggbbbgg", "shhhiih"},
		{"an end needs no counting", "ggdgbgg", "shiiiih"},
		{"an end at the start", "dgg", "iih"},
		{"blind decides nothing and forgets", "ggxgbbb", "shuuuui"},
	} {
		now := time.UnixMilli(0)
		h := newHealth(2, 3, now)
		got := ""
		for _, f := range c.findings {
			now = now.Add(time.Second)
			before := h
			map[rune]func(time.Time){'g': h.well, 'b': h.unwell, 'd': h.dead, 'l': h.late, 'x': h.blind}[f](now)
			got += string(letters[h.state])
			if (before.state != h.state) != (h.since == now) {
				t.Errorf("%s: %v since %v after %v", c.name, h.state, h.since, before)
			}
		}
		if got != c.states {
			t.Errorf("%s: %s gives %s, want %s", c.name, c.findings, got, c.states)
		}
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	var all time.Duration
	for range 20 {
		if w := b.next(time.Millisecond); w < firstRestart || w > maxRestart {
			t.Fatalf("waits %v", w)
		} else {
			all += w
		}
	}
	if b.wait != maxRestart {
		t.Errorf("after 20 failures the wait is %v (%v in all)", b.wait, all)
	}
	if w := b.next(steadyAfter); w != firstRestart {
		t.Errorf("after a long life the wait is %v", w)
	}
}
