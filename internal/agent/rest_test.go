package agent

import (
	"errors"
	"testing"
	"time"

	"revolve/internal/alarm/deliver"
	"revolve/internal/config"
)

// What a place refuses for good is behind it, and the next message follows soon; one that is told everything each time
// refuses the same again, so it is asked less and less often, as one that does not answer.
func TestHowLongAChannelRests(t *testing.T) {
	channels := deliver.Channels([]config.Alarm{{Kind: config.AlarmWebhook}, {Kind: config.AlarmAlertmanager}})
	refused, away := error(&deliver.Refused{Err: errors.New("status 400")}), errors.New("it does not answer")
	const s = time.Second
	doubled := []time.Duration{5 * s, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, againLast, againLast}
	for name, c := range map[string]struct {
		channel *deliver.Channel
		err     error
		rests   []time.Duration
	}{
		"well":                       {channels[0], nil, []time.Duration{streamEvery, streamEvery}},
		"a message is refused":       {channels[0], refused, []time.Duration{againFirst, againFirst, againFirst}},
		"a place is away":            {channels[0], away, doubled},
		"all that stands, refused":   {channels[1], refused, doubled},
		"all that stands, away":      {channels[1], away, doubled},
		"it says when it wants more": {channels[1], &deliver.Wait{For: time.Hour, Err: away}, []time.Duration{time.Hour, time.Hour}},
	} {
		wait := time.Duration(0)
		for i, want := range c.rests {
			var again time.Duration
			if wait, again = rest(c.channel, c.err, wait); again != want {
				t.Errorf("%s, try %d: again in %s, not in %s", name, i+1, again, want)
			}
		}
		if wait, _ = rest(c.channel, nil, wait); wait != 0 {
			t.Errorf("%s: what it took does not count", name)
		}
	}
}
