package send

import (
	"testing"
	"time"

	"revolve/internal/mirror/tree"
)

func TestWhatIsLeft(t *testing.T) {
	for _, c := range []struct {
		name  string
		p     Progress
		left  time.Duration
		known bool
	}{
		{"a comparison still looks", Progress{Looking: true, BytesLeft: 10, ByteRate: 1}, 0, false},
		{"nothing moves", Progress{BytesLeft: 10}, 0, false},
		{"nothing is left", Progress{}, 0, true},
		{"bytes", Progress{BytesLeft: 100, ByteRate: 10}, 10 * time.Second, true},
		{"the slower one counts", Progress{BytesLeft: 100, ByteRate: 10, RecordsLeft: 60, RecordRate: 2}, 30 * time.Second, true},
		{"beyond belief", Progress{BytesLeft: 1 << 60, ByteRate: 1e-9}, 0, false},
	} {
		if left, known := c.p.Left(); left != c.left || known != c.known {
			t.Errorf("%s: %v %v, want %v %v", c.name, left, known, c.left, c.known)
		}
	}
}

func TestRatesAreOfTheLastSeconds(t *testing.T) {
	var m meter
	now := time.Unix(0, 0)
	m.start(now)
	for range 30 { // 100 a second
		now = now.Add(time.Second)
		m.now.Bytes += 100
		m.rates(now)
	}
	if m.now.ByteRate != 100 {
		t.Errorf("rate %v after half a minute of 100 a second", m.now.ByteRate)
	}
	for range 30 { // and then nothing
		now = now.Add(time.Second)
		m.rates(now)
	}
	if m.now.ByteRate > 1 {
		t.Errorf("rate %v when nothing has moved for half a minute", m.now.ByteRate)
	}
}

// Progress begins with what a follower lacks, counts it down, and ends when it has everything.
func TestProgressOfLargeFiles(t *testing.T) {
	s := &Stream{big: newBulk()}
	if s.Progress() != nil {
		t.Error("progress without anything to do")
	}
	id := s.big.offer("large", 0, tree.Meta{Size: 1000})
	s.big.want([]uint64{id}, nil)
	s.begins(id, 1200) // it has grown since
	if !s.advance(id, 500) {
		t.Error("not wanted any more")
	}
	p := s.Progress()
	if p == nil || p.FilesLeft != 1 || p.BytesLeft != 700 || p.Bytes != 500 || p.Began.IsZero() {
		t.Fatalf("got %+v", p)
	}
	s.begins(id, 1200) // it did not stand still: from the beginning
	if p := s.Progress(); p.BytesLeft != 1200 {
		t.Errorf("got %+v", p)
	}
	s.big.removed("large")
	if s.advance(id, 1) || s.Progress() != nil || len(s.big.left) > 0 {
		t.Error("still counted when it is gone")
	}
}
