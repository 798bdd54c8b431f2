package apply

import (
	"maps"
	"slices"

	"revolve/internal/mirror/wire"
)

// maxAnswers bounds the paths that TakeAnswers returns.
const maxAnswers = 4096

// Answer is a path that a survivor answered for, to a new master and without a record.
type Answer struct {
	Path string
	Gone bool // the survivor said that nothing is there; what is only on its way to here is not gone
}

// noteAnswer remembers what a survivor says outside of the sequence. The last word about a path counts.
func (a *Applier) noteAnswer(op *wire.Op) {
	if op.Seq != 0 || op.Path == "" || !a.stays() {
		return
	}
	if _, known := a.answers[op.Path]; !known && len(a.answers) >= maxAnswers {
		return
	}
	if a.answers == nil {
		a.answers = map[string]bool{}
	}
	a.answers[op.Path] = op.Kind == wire.OpRemove || op.Kind == wire.OpPaid
}

// TakeAnswers are the paths that survivors gave a new master without a record, in order: other standbys at
// the same position may have something else there. They are forgotten; all says that there may be more.
func (a *Applier) TakeAnswers() (list []Answer, all bool) {
	for _, path := range slices.Sorted(maps.Keys(a.answers)) {
		list = append(list, Answer{path, a.answers[path]})
	}
	a.answers = nil
	return list, len(list) >= maxAnswers
}
