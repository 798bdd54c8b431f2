package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

type mirrorCommand struct {
	Explain mirrorExplainCommand `cmd:"" help:"Where a path is, since when, and why not."`
}

type mirrorExplainCommand struct {
	Path string `arg:"" help:"A path below a volume's directory."`
}

// Help is printed under the usage.
func (mirrorExplainCommand) Help() string {
	return "It says whether the path is mirrored, when it last changed and which standbys have that durably, as this node knows it (the master knows most), and what all nodes keep of it in their trash and aside."
}

// explanation is the answer with what the nodes keep.
type explanation struct {
	control.Explained
	Trash     []control.Trashed   `json:"trash"`
	Divergent []control.Divergent `json:"divergent"`
	Silent    []control.Silent    `json:"silent"`
}

// Run asks the agent about the path.
func (c *mirrorExplainCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	volume, rel, err := volumeAbove(st, c.Path)
	if err != nil {
		return err
	}
	x := explanation{Trash: []control.Trashed{}, Divergent: []control.Divergent{}}
	if x.Explained, err = client.Explain(ctx, control.ExplainQuery{Volume: volume.Name, Path: []byte(rel)}); err != nil {
		return err
	}
	trash, err := client.Trash(ctx, control.KeptQuery{Volume: volume.Name, Path: []byte(rel)})
	if err != nil {
		return err
	}
	aside, err := client.KeptAside(ctx, control.KeptQuery{Volume: volume.Name})
	if err != nil {
		return err
	}
	x.Silent = trash.Silent
	for _, t := range trash.Trash {
		if t.Path == rel {
			x.Trash = append(x.Trash, t)
		}
	}
	for _, d := range aside.Divergent {
		if d.Path == rel || d.Old == rel {
			x.Divergent = append(x.Divergent, d)
		}
	}
	return e.answer(x, explainText(x, volume))
}

// volumeAbove is the volume that holds the path, and the path in it.
func volumeAbove(st control.Status, path string) (control.Volume, string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return control.Volume{}, "", &problem.Problem{Op: "explain", Kind: problem.Invalid, Subject: path, Err: err}
	}
	for _, v := range st.Volumes {
		if rel, ok := strings.CutPrefix(abs, strings.TrimRight(v.Path, "/")+"/"); ok {
			return v, rel, nil
		}
	}
	return control.Volume{}, "", &problem.Problem{Op: "explain", Kind: problem.NotFound, Subject: abs, Err: errors.New("it is in no volume"), Hint: "revolve status --json names the volumes' directories"}
}

// explainText is the explanation for people.
func explainText(x explanation, v control.Volume) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q in volume %s\n", x.Path, x.Volume)
	switch {
	case !x.Mirrored:
		fmt.Fprintf(&b, "  not mirrored: %s\n", x.Why)
	case v.Problem != "":
		fmt.Fprintf(&b, "  the volume does not work here: %s\n", v.Problem)
	}
	if x.There {
		fmt.Fprintf(&b, "  here: %s, of %s\n", size(x.Size), x.MTime.Local().Format(time.DateTime))
	} else {
		b.WriteString("  not here\n")
	}
	if x.Owed {
		b.WriteString("  its bytes are still under way to this node\n")
	}
	switch {
	case x.What != "":
		fmt.Fprintf(&b, "  last %s at position %s\n", x.What, x.Changed)
	case x.Mirrored:
		b.WriteString("  no change of it is in the journal: it is older, was never seen, or is written and not closed yet\n")
	}
	for _, on := range x.Standbys {
		fmt.Fprintf(&b, "  on %s: %s (it has everything up to %s)\n", on.Node, strings.ReplaceAll(on.State, "-", " "), on.Acked)
	}
	for _, sb := range v.Standbys {
		if x.Mirrored && v.State == "leading" && !connected(x.Standbys, sb.Node) {
			fmt.Fprintf(&b, "  on %s: unknown, it is not connected\n", sb.Node)
		}
	}
	for _, t := range x.Trash {
		fmt.Fprintf(&b, "  in the trash of %s: %s of %s\n", t.On, size(t.Size), t.Time.Local().Format(time.DateTime))
	}
	for _, d := range x.Divergent {
		fmt.Fprintf(&b, "  kept aside on %s, %s: set %s\n", d.On, d.Why, d.Set)
	}
	for _, s := range x.Silent {
		fmt.Fprintf(&b, "  %s did not answer: %s\n", s.Node, s.Why)
	}
	return b.String()
}

func connected(list []control.ExplainedOn, node cluster.NodeID) bool {
	for _, on := range list {
		if on.Node == node {
			return true
		}
	}
	return false
}
