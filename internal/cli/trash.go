package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/mirror/restore"
)

type trashCommand struct {
	List    trashListCommand    `cmd:"" help:"List what the nodes' trash holds."`
	Restore trashRestoreCommand `cmd:"" help:"Bring a file or directory back from the trash."`
	Unpin   trashUnpinCommand   `cmd:"" help:"Let the trash of a mass deletion go by age and quota again."`
}

type trashListCommand struct {
	Volume string `arg:"" optional:"" help:"Only of this volume."`
	Path   string `placeholder:"PATH" help:"Only what is at or below this path of the volume."`
	whereFlags
}

// Help is printed under the usage.
func (trashListCommand) Help() string {
	return "Every standby keeps what replication overwrites or deletes, below .revolve/trash of the volume: for 7 days unless the configuration says otherwise, at most one version of a path in ten minutes, at most 5 % of the filesystem. The master's own changes are in the trash of the standbys, so all nodes are asked."
}

// Run lists the versions, newest first.
func (c *trashListCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	q := c.query(st)
	q.Volume, q.Path = cluster.VolumeID(c.Volume), []byte(strings.Trim(c.Path, "/"))
	a, err := client.Trash(ctx, q)
	if err != nil {
		return err
	}
	e.silent(a.Silent)
	return e.answer(a.Trash, trashText(a.Trash))
}

func trashText(all []control.Trashed) string {
	if len(all) == 0 {
		return "nothing of it is in the trash"
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tWENT AT\tSIZE\tON\tPATH")
	for i := 0; i < len(all); { // the same version is on several standbys: one line
		x, on := all[i], string(all[i].On)
		for i++; i < len(all) && all[i].Volume == x.Volume && all[i].Slot == x.Slot && all[i].Path == x.Path && all[i].Size == x.Size; i++ {
			if all[i].On != all[i-1].On {
				on += "," + string(all[i].On)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%q\n", x.Volume, x.Slot, x.Size, on, x.Path)
	}
	t.Flush()
	return b.String()
}

type trashRestoreCommand struct {
	Volume string `arg:"" help:"The volume."`
	Path   string `arg:"" help:"A file or directory, relative to the volume."`
	At     string `placeholder:"SLOT" help:"Another version than the newest: when it went, as the list says."`
	From   string `placeholder:"NODE" help:"From that node's trash; without it from the one that has the newest version."`
	To     string `placeholder:"DIR" help:"Copy it there instead, on any node."`
}

// Help is printed under the usage.
func (trashRestoreCommand) Help() string {
	return "Into the volume only on the master: there it is a write like every other, and the standbys get it. The bytes come from the node whose trash has them. What stands in its place goes to this node's trash first. With --to it is copied into a directory, on any node."
}

// Run brings it back.
func (c *trashRestoreCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	v, err := volumeOf(st, c.Volume)
	if err != nil {
		return err
	}
	path, from := strings.Trim(c.Path, "/"), cluster.NodeID(c.From)
	if from == "" {
		if from, err = c.newest(ctx, e, st, path); err != nil {
			return err
		}
	}
	if from == st.Node {
		return bring(e, st, v, c.To, func(r *restore.Restorer) (restore.Result, error) { return r.Trash(path, c.At) })
	}
	return bringFrom(ctx, e, st, v, c.To, control.KeptQuery{From: from, Volume: v.Name, Path: []byte(path), Slot: c.At})
}

// newest is the node whose trash has the newest version, this one before others.
// Nobody has it: then this node, which says so.
func (c *trashRestoreCommand) newest(ctx context.Context, e *env, st control.Status, path string) (cluster.NodeID, error) {
	a, err := control.Dial(e.state).Trash(ctx, control.KeptQuery{Volume: cluster.VolumeID(c.Volume), Path: []byte(path)})
	if err != nil {
		return "", err
	}
	best, slot := st.Node, ""
	for _, t := range a.Trash { // newest first
		if c.At != "" && t.Slot != c.At {
			continue
		}
		if t.Slot > slot || t.Slot == slot && t.On == st.Node {
			best, slot = t.On, t.Slot
		}
	}
	if slot == "" {
		e.silent(a.Silent)
	}
	return best, nil
}

type trashUnpinCommand struct {
	Volume string `arg:"" help:"The volume."`
	At     string `placeholder:"SLOT" help:"Only what went then, as status says."`
	whereFlags
}

// Help is printed under the usage.
func (trashUnpinCommand) Help() string {
	return "When more than half of a volume is deleted within a minute, every standby raises an alarm and keeps that trash, whatever its age and size, until you say here that the deletion was meant. All nodes are told. Nothing is deleted by this: the trash goes by age and quota again."
}

// Run unpins.
func (c *trashUnpinCommand) Run(ctx context.Context, e *env) error {
	client := control.Dial(e.state)
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	q := c.query(st)
	q.Volume, q.Slot = cluster.VolumeID(c.Volume), c.At
	a, err := client.Unpin(ctx, q)
	if err != nil {
		return err
	}
	e.silent(a.Silent)
	text := ""
	for _, u := range a.Unpinned {
		text += fmt.Sprintf("unpinned on %s: %s\n", u.Node, strings.Join(u.Slots, ", "))
	}
	if text == "" {
		text = "nothing was pinned"
	}
	return e.answer(a.Unpinned, text)
}
