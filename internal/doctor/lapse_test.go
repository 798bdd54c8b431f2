package doctor

import (
	"net/netip"
	"testing"
	"time"
)

// A kernel that is late is told from a doctor that looks late.
func TestLapse(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		took  lapse
		tells bool
		want  Level
	}{
		{lapse{1010 * ms, 1020 * ms}, true, OK},
		{lapse{1290 * ms, 1300 * ms}, true, OK},
		{lapse{1000 * ms, 1900 * ms}, false, Info},
		{lapse{1301 * ms, 1900 * ms}, true, Warning},
		{lapse{there: 3000 * ms}, true, Critical},
	} {
		e := &examination{}
		e.expired(netip.MustParsePrefix("127.213.73.73/32"), c.took)
		if got := e.report.Findings; len(got) != 1 || got[0].Level != c.want || c.took.tells() != c.tells {
			t.Errorf("%+v: %+v, want %s; tells: %v", c.took, got, c.want, c.took.tells())
		}
	}
}
