package send

import "time"

// Progress is how far a follower has come that is behind: at its first copy, a
// comparison or a long backlog. It begins anew whenever the follower had everything.
type Progress struct {
	Began   time.Time
	Names   int64 // looked at by comparisons
	Files   int64 // whose content was sent
	Bytes   int64 // of content sent
	Records int64 // of the journal that it has acknowledged

	Looking     bool    // a comparison is under way: how much is left is not known before it ends
	FilesLeft   int64   // large ones that it asked for and does not have yet
	BytesLeft   int64   // of those
	RecordsLeft int64   // of the journal
	ByteRate    float64 // bytes a second, of the last seconds
	RecordRate  float64 // records a second
}

// Left is how long it will take at the present rate; known is false while more
// may be found, and when nothing moves.
func (p *Progress) Left() (left time.Duration, known bool) {
	if p.Looking {
		return 0, false
	}
	for _, x := range []struct {
		left int64
		rate float64
	}{{p.BytesLeft, p.ByteRate}, {p.RecordsLeft, p.RecordRate}} {
		if x.left <= 0 {
			continue
		}
		if x.rate <= 0 || float64(x.left)/x.rate > maxLeft.Seconds() {
			return 0, false
		}
		left = max(left, time.Duration(float64(x.left)/x.rate*float64(time.Second)))
	}
	return left, true
}

const (
	// rateEvery is how often the rates are looked at; each look counts rateWeight, so they are those of about five seconds.
	rateEvery  = time.Second
	rateWeight = 0.3
	// maxLeft bounds an estimate: beyond it nobody believes it.
	maxLeft = 1000 * time.Hour
)

// meter counts; the stream's lock guards it.
type meter struct {
	now     Progress
	at      time.Time // of the last look at the rates
	bytes   int64     // then
	records int64
}

// start begins anew if nothing is counted yet.
func (m *meter) start(now time.Time) {
	if m.now.Began.IsZero() {
		m.now.Began, m.at = now, now
	}
}

// acked notes what the follower has acknowledged.
func (m *meter) acked(batches []mark) {
	for _, b := range batches {
		m.now.Records += int64(b.sent)
	}
}

// rates looks at what moved since the last look.
func (m *meter) rates(now time.Time) {
	dt := now.Sub(m.at)
	if dt < rateEvery {
		return
	}
	smooth := func(old float64, moved int64) float64 {
		r := float64(moved) / dt.Seconds()
		if old == 0 {
			return r
		}
		return (1-rateWeight)*old + rateWeight*r
	}
	m.now.ByteRate = smooth(m.now.ByteRate, m.now.Bytes-m.bytes)
	m.now.RecordRate = smooth(m.now.RecordRate, m.now.Records-m.records)
	m.at, m.bytes, m.records = now, m.now.Bytes, m.now.Records
}

// count notes something that was looked at, sent or acknowledged.
func (s *Stream) count(add func(*Progress)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meter.start(time.Now())
	add(&s.meter.now)
}

// advance notes that a large file has come further, and reports whether it is still wanted.
func (s *Stream) advance(id uint64, bytes int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meter.start(time.Now())
	s.meter.now.Bytes += bytes
	if _, ok := s.big.left[id]; ok {
		s.big.left[id] -= bytes
	}
	_, ok := s.big.wanted[id]
	return ok
}

// Progress is how far the follower has come, or nil if it has everything.
func (s *Stream) Progress() *Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	st := &s.state
	if !st.Busy && st.Pending == 0 && st.Owed == 0 && len(s.big.wanted) == 0 {
		s.meter = meter{}
		return nil
	}
	s.meter.start(now)
	s.meter.rates(now)
	p := s.meter.now
	p.Looking, p.RecordsLeft, p.FilesLeft = st.Busy, int64(st.Pending), int64(len(s.big.wanted))
	for _, n := range s.big.left {
		p.BytesLeft += max(n, 0)
	}
	return &p
}
