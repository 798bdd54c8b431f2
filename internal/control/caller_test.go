package control

import "testing"

// Behind sudo the user who logged in is named, too.
func TestCallerName(t *testing.T) {
	for want, ids := range map[string][2]uint32{
		"root":                   {0, noLogin},
		"uid 4000000001 as root": {0, 4000000001},
		"uid 4000000001":         {4000000001, 4000000001},
		"root as uid 4000000002": {4000000002, 0},
	} {
		if got := callerName(ids[0], ids[1]); got != want {
			t.Errorf("%v: %q, want %q", ids, got, want)
		}
	}
}
