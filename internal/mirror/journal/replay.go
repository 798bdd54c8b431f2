package journal

import (
	"slices"

	"revolve/internal/cluster"
)

// maxAnswered bounds Opened.Answered: what was given by somebody who may be lost since is asked for again.
const maxAnswered = 1024

// replay runs through a segment and returns the state behind it, the position
// before its first change, and how many bytes of it are good. Unless it is nil, answered gets what was paid.
func replay(b []byte, answered *[]string) (st state, after cluster.Position, good int) {
	for good < len(b) {
		r, n, err := decodeFrame(b[good:])
		if err != nil || good == 0 && r.Kind != head {
			return st, after, good
		}
		if answered != nil {
			st.answered(r, answered)
		}
		st.apply(r)
		if r.Kind == head {
			after = st.history.End()
		}
		good += n
	}
	return st, after, good
}

// answered adds the path of a record that pays what this node had asked for; what has a number is a large file.
func (s *state) answered(r Record, list *[]string) {
	d, owed := s.owed.Get(r.Path)
	if r.Kind != Paid || r.Below || !owed || d.ID != 0 {
		return
	}
	if *list = append(*list, r.Path); len(*list) > 2*maxAnswered {
		*list = slices.Clone((*list)[maxAnswered:])
	}
}
