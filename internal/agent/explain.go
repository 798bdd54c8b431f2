package agent

import (
	"cmp"
	"context"
	"slices"

	"revolve/internal/control"
)

// Explain says what this node knows of one path.
func (b backend) Explain(_ context.Context, q control.ExplainQuery) (control.Explained, error) {
	x, err := b.a.engine.Explain(q.Volume, string(q.Path))
	out := control.Explained{Volume: q.Volume, Path: string(q.Path), Name: q.Path, Mirrored: x.Why == "", Why: x.Why, There: x.There, Size: x.Size, MTime: x.MTime, Owed: x.Owed,
		Changed: x.Changed, What: x.What, Standbys: []control.ExplainedOn{}}
	for _, on := range x.Standbys {
		out.Standbys = append(out.Standbys, control.ExplainedOn(on))
	}
	slices.SortFunc(out.Standbys, func(x, y control.ExplainedOn) int { return cmp.Compare(x.Node, y.Node) })
	return out, err
}
