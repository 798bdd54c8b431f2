package agent

import (
	"testing"
	"time"
)

// TestAskedBeforeTheWord: the mirror is asked once for each word, shortly before it, though the words drift.
func TestAskedBeforeTheWord(t *testing.T) {
	const every = wordEvery + 300*time.Microsecond // saying it takes a moment
	for _, now := range []time.Duration{0, 1, 42 * time.Millisecond, 89 * time.Millisecond, 95 * time.Millisecond, 5 * time.Second} {
		asks := map[time.Duration]int{} // for each word, as far as it was close enough
		first := now/every + 2
		for now < 100*every {
			now += beforeWord(now/every*every, now)
			if word := now/every + 1; word*every-now <= 2*standingAhead {
				asks[word]++
			}
		}
		for word := first; word < 100; word++ {
			if asks[word] != 1 {
				t.Fatalf("the mirror was asked %d times shortly before word %d", asks[word], word)
			}
		}
	}
}
