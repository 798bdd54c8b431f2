package mirror

import "time"

// complainEvery is the least time between two log lines of one kind about one
// volume: whoever provokes them must not fill the disk. What is wrong now stands in the status.
const complainEvery = 10 * time.Second

// complaint is one kind of log line: said when its text is a new one, and seldom.
type complaint struct {
	said string
	at   time.Time
}

// due reports whether to log text now. A text that had to wait is due later, if it is still true then.
func (c *complaint) due(now time.Time, text string) bool {
	if text == c.said || !c.at.IsZero() && now.Sub(c.at) < complainEvery {
		return false
	}
	c.said, c.at = text, now
	return true
}

// over says that there is nothing to complain about: the same text is news again.
func (c *complaint) over() { c.said = "" }
