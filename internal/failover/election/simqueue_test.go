package election

// simEvent is a value of 40 bytes, so that the queue never allocates once it has grown.
type simEvent struct {
	at    Time
	ord   uint64
	kind  simKind
	a, b  uint8
	l     uint8
	life  uint16 // of b, when this was scheduled
	echo  uint16 // evPacket: the life of b that a has proven ...
	echo2 uint16 // ... and the one that it has only seen
	seq   uint32
	slot  int32 // evPacket: index of the packet
}

func (e *simEvent) before(o *simEvent) bool {
	return e.at < o.at || e.at == o.at && e.ord < o.ord
}

// simQueue gives events back in the order of their times, and of their coming
// among equals. Most of them are heartbeats on an undisturbed path, which all
// take the same time: those are in order as they come, and pass the heap by.
type simQueue struct {
	heap []simEvent // 4-ary
	lane []simEvent // events laneDelay away, a ring
	head int
	n    int
}

// laneDelay is the time of a frame on an undisturbed path.
const laneDelay Time = 100_000

func (q *simQueue) clone() simQueue {
	c := *q
	c.heap = append([]simEvent(nil), q.heap...)
	c.lane = append([]simEvent(nil), q.lane...)
	return c
}

// peek is the first event, nil if there is none; it is good until the next change.
func (q *simQueue) peek() *simEvent {
	switch {
	case q.n == 0 && len(q.heap) == 0:
		return nil
	case q.n == 0:
		return &q.heap[0]
	}
	l := &q.lane[q.head]
	if len(q.heap) > 0 && q.heap[0].before(l) {
		return &q.heap[0]
	}
	return l
}

func (q *simQueue) pop() simEvent {
	if q.n == 0 || len(q.heap) > 0 && q.heap[0].before(&q.lane[q.head]) {
		return q.popHeap()
	}
	e := q.lane[q.head]
	q.head = (q.head + 1) & (len(q.lane) - 1)
	q.n--
	return e
}

// follow puts an event behind all others that came by follow.
func (q *simQueue) follow(e *simEvent) {
	if q.n == len(q.lane) {
		wider := make([]simEvent, max(64, 2*len(q.lane)))
		for k := range q.n {
			wider[k] = q.lane[(q.head+k)&(len(q.lane)-1)]
		}
		q.lane, q.head = wider, 0
	}
	q.lane[(q.head+q.n)&(len(q.lane)-1)] = *e
	q.n++
}

func (q *simQueue) push(e *simEvent) {
	q.heap = append(q.heap, *e)
	h := q.heap
	i := len(h) - 1
	for i > 0 {
		p := (i - 1) / 4
		if !e.before(&h[p]) {
			break
		}
		h[i] = h[p]
		i = p
	}
	h[i] = *e
}

func (q *simQueue) popHeap() simEvent {
	h := q.heap
	top, last := h[0], len(h)-1
	e := h[last]
	h = h[:last]
	q.heap = h
	if last == 0 {
		return top
	}
	for i := 0; ; {
		m := 4*i + 1
		if m >= last {
			h[i] = e
			return top
		}
		for c := m + 1; c <= 4*i+4 && c < last; c++ {
			if h[c].before(&h[m]) {
				m = c
			}
		}
		if !h[m].before(&e) {
			h[i] = e
			return top
		}
		h[i] = h[m]
		i = m
	}
}
