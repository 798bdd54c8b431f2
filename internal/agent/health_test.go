package agent

import (
	"testing"
	"time"
)

// TestDamper: two nodes whose services fail in turn hand the addresses over ever more rarely.
func TestDamper(t *testing.T) {
	start := time.UnixMilli(0)
	var d damper
	if d.due(start.Add(settleFor-1), start) {
		t.Error("due at once after it has become master")
	}
	if !d.due(start.Add(settleFor), start) {
		t.Error("not due after its time")
	}
	d.done(start.Add(settleFor), false)
	if d.due(start.Add(settleFor+moveAgain-1), start) || !d.due(start.Add(settleFor+moveAgain), start) {
		t.Error("a move that failed is not tried again in its time")
	}
	now, moves := start, 0
	d = damper{}
	since := now
	for now.Sub(start) < calmAfter { // it is always ill, and master again at once after every move
		now = now.Add(time.Second)
		if d.due(now, since) {
			d.done(now, true)
			moves++
			since = now
		}
	}
	if moves < 3 || moves > 12 {
		t.Errorf("%d moves in an hour", moves)
	}
	if now = now.Add(calmAfter); !d.due(now, now.Add(-settleFor)) {
		t.Error("after a calm time the wait is not the shortest again")
	}
}
