package alarm

import (
	"slices"
	"testing"
	"time"
)

// A node that never came to see its volumes is as ill as one that does not any more; one whose agent has just started is not.
func TestVolumesThatWereNeverSeen(t *testing.T) {
	s := calmCluster()
	s.Looked, s.Started = time.Time{}, s.AsOf.Add(-unseenAfter)
	if found := names(Find(s)); len(found) > 0 {
		t.Errorf("just started: %v", found)
	}
	s.Started = s.AsOf.Add(-time.Minute)
	found := Find(s)
	if !slices.Equal(names(found), []string{VolumesUnseen}) || len(Own(found, s.Node)) != 1 {
		t.Fatalf("never seen: %+v", found)
	}
	if want := "a has not seen its volumes since its agent started, 1m0s ago: something holds whoever looks at them"; found[0].Text != want {
		t.Errorf("it says %q", found[0].Text)
	}
}
