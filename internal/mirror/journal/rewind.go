package journal

import (
	"errors"
	"os"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
)

// Tail returns every change behind position after, oldest first, at most max;
// ErrTrimmed if the journal does not reach back or there are more.
func (j *Journal) Tail(after cluster.Position, max int) ([]Record, error) {
	r, err := j.Reader(after)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	records, err := r.Next(max + 1)
	if err != nil {
		return nil, err
	}
	if len(records) > max {
		return nil, ErrTrimmed
	}
	return records, nil
}

// Rewind forgets every change behind position to and owes the given paths, in
// one durable step: afterwards a crash finds either the old or the new journal.
// No reader may be open.
func (j *Journal) Rewind(to cluster.Position, owe []reconcile.Debt) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := j.state
	st.history = st.history.Until(to)
	st.owed = st.owed.Clone()
	for _, d := range owe {
		st.owed.Add(d)
	}
	return j.restart(st)
}

// Adopt forgets everything and takes over another node's history, owing whole
// trees or paths.
func (j *Journal) Adopt(h reconcile.History, owe []reconcile.Debt) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := state{history: append(reconcile.History(nil), h...)}
	for _, d := range owe {
		st.owed.Add(d)
	}
	return j.restart(st)
}

// restart drops what was written before: the new segment's head is durable
// first, and a leftover older segment is overruled by the newer head.
func (j *Journal) restart(st state) error {
	old := j.segments
	before := j.state
	st.fresh = true
	j.state = st
	if err := j.rotate(); err != nil {
		j.state = before
		return err
	}
	keep := j.segments[len(j.segments)-1]
	j.segments = []segment{keep}
	var err error
	for _, s := range old {
		if rmErr := os.Remove(j.path(segmentName(s.number))); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	close(j.changed)
	j.changed = make(chan struct{})
	return errors.Join(err, syncDir(j.dir))
}
