package block

import (
	"os"
	"slices"
	"testing"

	"revolve/internal/testbed"
)

func TestMain(m *testing.M) {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	os.Exit(m.Run())
}

func TestCompare(t *testing.T) {
	const k = 4096
	a := extent{at: 0, place: 100 * k, length: 8 * k}
	for name, c := range map[string]struct {
		old, new []extent
		size     int64
		want     []Range
	}{
		"same":                {[]extent{a}, []extent{a}, 8 * k, nil},
		"same, split":         {[]extent{a}, []extent{{0, 100 * k, 3 * k, 0}, {3 * k, 103 * k, 5 * k, 0}}, 8 * k, nil},
		"middle elsewhere":    {[]extent{a}, []extent{{0, 100 * k, 3 * k, 0}, {3 * k, 500 * k, k, 0}, {4 * k, 104 * k, 4 * k, 0}}, 8 * k, []Range{{3 * k, k, false}}},
		"moved by one":        {[]extent{a}, []extent{{0, 101 * k, 8 * k, 0}}, 8 * k, []Range{{0, 8 * k, false}}},
		"longer":              {[]extent{a}, []extent{a, {8 * k, 200 * k, 2 * k, 0}}, 9*k + 5, []Range{{8 * k, k + 5, false}}},
		"shorter":             {[]extent{a}, []extent{a}, 2 * k, nil},
		"punched":             {[]extent{a}, []extent{{0, 100 * k, k, 0}, {2 * k, 102 * k, 6 * k, 0}}, 8 * k, []Range{{k, k, true}}},
		"hole filled":         {nil, []extent{a}, 8 * k, []Range{{0, 8 * k, false}}},
		"holes":               {nil, nil, 8 * k, nil},
		"unwritten, written":  {[]extent{{0, 100 * k, 8 * k, flagZero}}, []extent{a}, 8 * k, []Range{{0, 8 * k, false}}},
		"nobody knows":        {[]extent{{0, 100 * k, 8 * k, 0x4}}, []extent{{0, 100 * k, 8 * k, 0x4}}, 8 * k, []Range{{0, 8 * k, false}}},
		"all gone":            {[]extent{a}, nil, 8 * k, []Range{{0, 8 * k, true}}},
		"nothing of a size 0": {[]extent{a}, []extent{a}, 0, nil},
	} {
		if got := compare(c.old, c.new, c.size); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestMovedBetween lets a block move away between the two readings, and another
// one come to its place.
func TestMovedBetween(t *testing.T) {
	const k = 4096
	readings, moves := 0, 1
	was := func() ([]extent, error) {
		if readings++; readings <= moves {
			return []extent{{0, int64(100+readings) * k, k, 0}}, nil
		}
		return []extent{{0, 900 * k, k, 0}}, nil
	}
	now := func() ([]extent, error) { return []extent{{0, 101 * k, k, 0}}, nil } // where was was at first
	if got, err := steadily(was, now, k); err != nil || !slices.Equal(got, []Range{{0, k, false}}) {
		t.Errorf("%v, %v: the change is not told", got, err)
	}
	readings, moves = 0, 1000
	if got, err := steadily(was, now, k); err != ErrUnsupported {
		t.Errorf("%v, %v of a map that never stands still", got, err)
	}
}
