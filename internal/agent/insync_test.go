package agent

import (
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/mirror"
)

// A node that thaws calls itself in-sync until its agent has looked: the master says what it knows.
func TestInSyncOfWhoThaws(t *testing.T) {
	with := func(state string) []mirror.Report {
		return []mirror.Report{{Standbys: []mirror.Standby{{Node: "c", State: "in-sync"}, {Node: "b", State: state}}}}
	}
	none := []mirror.Report{{Standbys: []mirror.Standby{{Node: "c", State: "in-sync"}}}}
	says := func(class cluster.Class, ill bool) beat.PeerReport {
		return beat.PeerReport{Node: "b", Class: class, Ill: ill}
	}
	for what, c := range map[string]struct {
		p       beat.PeerReport
		leading bool
		volumes []mirror.Report
		want    control.Tri
	}{
		"it follows and has all":              {says(cluster.InSync, false), true, with("in-sync"), control.Yes},
		"it does not follow yet":              {says(cluster.InSync, false), true, none, control.NotKnown},
		"it lags":                             {says(cluster.InSync, false), true, with("lagging"), control.No},
		"it says so itself":                   {says(cluster.Lagging, false), true, with("in-sync"), control.No},
		"it is ill, and its data is all here": {says(cluster.Stale, true), false, with("in-sync"), control.Yes},
		"a standby knows no better":           {says(cluster.InSync, false), false, none, control.Yes},
	} {
		if got := inSync(c.p, c.leading, c.volumes); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
