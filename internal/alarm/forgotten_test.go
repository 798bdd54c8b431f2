package alarm

import (
	"testing"
	"time"
)

// What is forgotten here does not come back from another node's book.
func TestForgottenStaysForgotten(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	group := func(id string, ago time.Duration) Group {
		return Group{ID: id, Began: now.Add(-ago - time.Hour), Resolved: now.Add(-ago)}
	}
	got := Book{Groups: []Group{group("old", keepGroups+time.Minute), group("new", keepGroups-time.Minute)}}.Sane(now)
	if len(got.Groups) != 1 || got.Groups[0].ID != "new" {
		t.Errorf("taken over: %+v", got.Groups)
	}
}
