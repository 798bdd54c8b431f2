package cli

import (
	"testing"

	"revolve/internal/control"
)

func TestIsolationText(t *testing.T) {
	for want, i := range map[string]control.Isolation{
		"": {Policy: "keep", Isolated: control.No, Patience: 1},
		"isolation: release; witness 10.77.0.250:7374 reachable (lets a lead, 0.4 ms)\n": {Policy: "release", Isolated: control.No, Patience: 1,
			Witness: &control.Witness{Address: "10.77.0.250:7374", State: "reachable", Leads: "a", Took: 0.4}},
		"isolation: keep; witness 10.77.0.250:7374 silent\n": {Policy: "keep", Isolated: control.No, Patience: 1,
			Witness: &control.Witness{Address: "10.77.0.250:7374", State: "silent", Leads: "unknown"}},
		"isolation: release (isolated: it does not serve); reference 10.77.0.1 silent;\n  reference fe80::1 unknown\n": {Policy: "release", Isolated: control.Yes, Patience: 1,
			References: []control.Reference{{Address: "10.77.0.1", Up: control.No}, {Address: "fe80::1"}}},
		"damped: silence is borne 4 times as long\n": {Policy: "keep", Isolated: control.No, Patience: 4},
	} {
		if got := isolationText(i); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
