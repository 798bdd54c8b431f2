package stories

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// asker is a client that asks again and again, and what it saw: a file with one
// line for each question, its time in nanoseconds and the answer, "-" for none.
type asker struct {
	name, file string
	from       int   // lines that an earlier chapter has counted
	last       int64 // time of the last answer in them
}

// answer is one line of an asker.
type answer struct {
	at   int64 // ns since 1970
	text string
}

func (a answer) none() bool { return a.text == "-" }

// read are the answers so far, without a line that is being written.
func (a *asker) read(t *testing.T) (all []answer) {
	t.Helper()
	b, err := os.ReadFile(a.file)
	must(t, err)
	lines := strings.SplitAfter(string(b), "\n")
	for _, line := range lines[:len(lines)-1] {
		at, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseInt(at, 10, 64); err == nil {
			all = append(all, answer{n, text})
		}
	}
	return all
}

// loss is what a client lost in a chapter.
type loss struct {
	client, chapter string
	asked, none     int
	longest         time.Duration // between two answers
}

func (l loss) String() string {
	return fmt.Sprintf("%s: the client of %s asked %d times, %d got no answer, the longest time without one was %v", l.chapter, l.client, l.asked, l.none, l.longest.Round(time.Millisecond))
}

// lost counts since the last call.
func (a *asker) lost(t *testing.T, chapter string) loss {
	t.Helper()
	all, last := a.read(t), a.last
	l := loss{client: a.name, chapter: chapter, asked: len(all) - a.from}
	for _, x := range all[a.from:] {
		if x.none() {
			l.none++
			continue
		}
		if last != 0 {
			l.longest = max(l.longest, time.Duration(x.at-last))
		}
		last = x.at
	}
	a.from, a.last = len(all), last
	return l
}
