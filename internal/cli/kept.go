package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"revolve/internal/control"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/restore"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// This file is what was kept: divergent changes and the trash.

type divergentCommand struct {
	List divergentListCommand `cmd:"" help:"List the changes that were kept aside on this node."`
	Show divergentShowCommand `cmd:"" help:"Show one set of them."`

	Restore divergentRestoreCommand `cmd:"" help:"Bring changes back into the volume, or copy them elsewhere."`
	Drop    divergentDropCommand    `cmd:"" help:"Forget changes for good."`
}

type divergentListCommand struct{}

// Help is printed under the usage.
func (divergentListCommand) Help() string {
	return "Divergent are changes that the next master never received: made in the last moment of a reign that ended badly, on the losing side of a partition, or by hand on a standby. They are kept on the node that made them, below .revolve/divergent of the volume, and nothing removes them but you."
}

// Run lists the sets.
func (divergentListCommand) Run(ctx context.Context, e *env) error {
	list, err := control.Dial(e.state).Divergent(ctx)
	if err != nil {
		return err
	}
	return e.answer(list, setsText(list))
}

func setsText(list []control.Divergent) string {
	if len(list) == 0 {
		return "nothing is kept aside on this node"
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tSET\tWHY\tBY\tTERM\tCHANGES\tFIRST")
	for i := 0; i < len(list); {
		d, n := list[i], 0
		for i+n < len(list) && list[i+n].Set == d.Set && list[i+n].Volume == d.Volume {
			n++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%q\n", d.Volume, d.Set, d.Why, d.Node, d.Term, n, d.Path)
		i += n
	}
	t.Flush()
	return b.String() + "\nrevolve divergent show SET lists its files"
}

type divergentShowCommand struct {
	Set string `arg:"" help:"The set, as the list names it."`
}

// Run lists one set's changes and where their bytes are.
func (c *divergentShowCommand) Run(ctx context.Context, e *env) error {
	list, err := control.Dial(e.state).Divergent(ctx)
	if err != nil {
		return err
	}
	kept := []control.Divergent{}
	for _, d := range list {
		if d.Set == c.Set {
			kept = append(kept, d)
		}
	}
	if len(kept) == 0 {
		return noSet("show divergent set", c.Set)
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tPATH\tSIZE\tKEPT IN")
	for _, d := range kept {
		path := fmt.Sprintf("%q", d.Path)
		if d.Old != "" {
			path = fmt.Sprintf("%q, was %q", d.Path, d.Old)
		}
		file := d.File
		if file == "" {
			file = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", d.What, path, d.Size, file)
	}
	t.Flush()
	return e.answer(kept, b.String())
}

type divergentRestoreCommand struct {
	Set  string   `arg:"" help:"The set, as the list names it."`
	Path []string `arg:"" optional:"" help:"Only what is at or below these paths of the volume."`
	To   string   `placeholder:"DIR" help:"Copy there instead, on any node; the set stays as it is."`
}

// Help is printed under the usage.
func (divergentRestoreCommand) Help() string {
	return "Into the volume only on the master: there it is a write like every other, and the standbys get it. What stands in its place goes to this node's trash first, and what was brought back leaves the set. Removals and renames are left to you: they are listed."
}

// Run brings the changes back.
func (c *divergentRestoreCommand) Run(ctx context.Context, e *env) error {
	st, vol, err := volumeOfSet(ctx, e, c.Set)
	if err != nil {
		return err
	}
	return bring(e, st, vol, c.To, func(r *restore.Restorer) (restore.Result, error) { return r.Set(c.Set, trimmed(c.Path)) })
}

type divergentDropCommand struct {
	Set  string   `arg:"" help:"The set, as the list names it."`
	Path []string `arg:"" optional:"" help:"Only what is at or below these paths of the volume."`
	Yes  bool     `help:"Do not ask."`
}

// Help is printed under the usage.
func (divergentDropCommand) Help() string {
	return "What is dropped is gone: it is the only copy. The warning in status ends with the last set."
}

// Run forgets the changes, after a question.
func (c *divergentDropCommand) Run(ctx context.Context, e *env) error {
	_, vol, err := volumeOfSet(ctx, e, c.Set)
	if err != nil {
		return err
	}
	if !c.Yes && !e.agreed("Drop the changes of "+c.Set+" for good? They may be the only copy. Type yes: ") {
		return &problem.Problem{Op: "drop divergent changes", Kind: problem.Invalid, Subject: c.Set, Err: errors.New("not agreed to"), Hint: "type yes, or give --yes"}
	}
	root, err := openVolume(vol)
	if err != nil {
		return err
	}
	defer root.Close()
	n, err := restore.Drop(root, c.Set, trimmed(c.Path))
	if err != nil {
		return err
	}
	return e.answer(map[string]int{"dropped": n}, fmt.Sprintf("%d dropped", n))
}

// agreed asks a question on standard error and reads the answer.
func (e *env) agreed(question string) bool {
	fmt.Fprint(e.stderr, question)
	line, _ := bufio.NewReader(e.stdin).ReadString('\n')
	return strings.TrimSpace(line) == "yes"
}

type trashCommand struct {
	List    trashListCommand    `cmd:"" help:"List what this node's trash holds."`
	Restore trashRestoreCommand `cmd:"" help:"Bring a file or directory back from the trash."`
}

type trashListCommand struct {
	Volume string `arg:"" optional:"" help:"Only of this volume."`
	Path   string `placeholder:"PATH" help:"Only what is at or below this path of the volume."`
}

// Help is printed under the usage.
func (trashListCommand) Help() string {
	return "Every standby keeps what replication overwrites or deletes, below .revolve/trash of the volume: for 7 days unless the configuration says otherwise, at most one version of a path in ten minutes, at most 5 % of the filesystem. The master's own changes are in the trash of the standbys."
}

// trashed is a version in the trash of a volume.
type trashed struct {
	Volume string `json:"volume"`
	apply.Trashed
}

// Run lists the versions, newest first.
func (c *trashListCommand) Run(ctx context.Context, e *env) error {
	st, err := control.Dial(e.state).Status(ctx)
	if err != nil {
		return err
	}
	all, found := []trashed{}, c.Volume == ""
	for _, v := range st.Volumes {
		if c.Volume != "" && c.Volume != string(v.Name) {
			continue
		}
		found = true
		list, err := trashOf(v, strings.Trim(c.Path, "/"))
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	if !found {
		return noVolume("list trash", c.Volume)
	}
	return e.answer(all, trashText(all))
}

func trashOf(v control.Volume, path string) ([]trashed, error) {
	root, err := openVolume(v)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	list, err := apply.ListTrash(root, path)
	if err != nil {
		return nil, err
	}
	all := make([]trashed, 0, len(list))
	for _, t := range list {
		t.File = filepath.Join(v.Path, t.File)
		all = append(all, trashed{string(v.Name), t})
	}
	return all, nil
}

func trashText(all []trashed) string {
	if len(all) == 0 {
		return "nothing of it is in this node's trash"
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tWENT AT\tSIZE\tPATH")
	for _, x := range all {
		fmt.Fprintf(t, "%s\t%s\t%d\t%q\n", x.Volume, x.Slot, x.Size, x.Path)
	}
	t.Flush()
	return b.String()
}

type trashRestoreCommand struct {
	Volume string `arg:"" help:"The volume."`
	Path   string `arg:"" help:"A file or directory, relative to the volume."`
	At     string `placeholder:"SLOT" help:"Another version than the newest: when it went, as the list says."`
	To     string `placeholder:"DIR" help:"Copy it there instead, on any node."`
}

// Help is printed under the usage.
func (trashRestoreCommand) Help() string {
	return "Into the volume only on the master: there it is a write like every other. What stands in its place goes to this node's trash first. On a standby, whose trash has what the master deleted, copy it with --to and put it back through the address; or make this node the master."
}

// Run brings it back.
func (c *trashRestoreCommand) Run(ctx context.Context, e *env) error {
	st, err := control.Dial(e.state).Status(ctx)
	if err != nil {
		return err
	}
	for _, v := range st.Volumes {
		if string(v.Name) == c.Volume {
			return bring(e, st, v, c.To, func(r *restore.Restorer) (restore.Result, error) { return r.Trash(strings.Trim(c.Path, "/"), c.At) })
		}
	}
	return noVolume("restore from trash", c.Volume)
}

// bring lets what restore into the volume, if this node is the master, or into another directory.
func bring(e *env, st control.Status, v control.Volume, dir string, what func(*restore.Restorer) (restore.Result, error)) error {
	if dir == "" && st.Master != string(st.Node) {
		return &problem.Problem{Op: "restore into the volume", Kind: problem.Conflict, Subject: string(v.Name), Err: fmt.Errorf("this node is not the master (%s is): what is written here is set aside", st.Master),
			Hint: fmt.Sprintf("copy it with --to DIR, or make this node the master first: revolve switch %s", st.Node)}
	}
	root, err := openVolume(v)
	if err != nil {
		return err
	}
	defer root.Close()
	to := root
	if dir != "" {
		if to, err = tree.Open(dir); err != nil {
			return &problem.Problem{Op: "open directory", Kind: problem.NotFound, Subject: dir, Err: err, Hint: "create it"}
		}
		defer to.Close()
	}
	result, err := what(restore.Into(root, to, time.Now))
	if err != nil {
		return err
	}
	return e.answer(result, broughtText(result))
}

func broughtText(r restore.Result) string {
	var b strings.Builder
	for _, p := range r.Restored {
		fmt.Fprintf(&b, "restored %q\n", p)
	}
	for _, l := range r.Left {
		fmt.Fprintf(&b, "left     %q: %s\n", l.Path, l.Why)
	}
	return b.String()
}

// volumeOfSet asks the agent for its volumes and finds the one that has the divergent set.
func volumeOfSet(ctx context.Context, e *env, set string) (control.Status, control.Volume, error) {
	st, err := control.Dial(e.state).Status(ctx)
	if err != nil {
		return st, control.Volume{}, err
	}
	for _, v := range st.Volumes {
		root, err := openVolume(v)
		if err != nil {
			continue // its disk is gone; the set may be in another one
		}
		_, _, err = apply.OpenSet(root, set)
		root.Close()
		if err == nil {
			return st, v, nil
		}
	}
	return st, control.Volume{}, noSet("open divergent set", set)
}

func noSet(op, set string) error {
	return &problem.Problem{Op: op, Kind: problem.NotFound, Subject: set, Err: errors.New("there is no such set on this node"), Hint: "revolve divergent list"}
}

func openVolume(v control.Volume) (*tree.Root, error) {
	root, err := tree.Open(v.Path)
	if err != nil {
		return nil, &problem.Problem{Op: "open volume", Kind: problem.Unavailable, Subject: v.Path, Err: err, Hint: "mount its disk; run it as the user of the agent (sudo)"}
	}
	return root, nil
}

func noVolume(op, name string) error {
	return &problem.Problem{Op: op, Kind: problem.NotFound, Subject: name, Err: errors.New("there is no such volume"), Hint: "revolve status lists them"}
}

func trimmed(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, strings.Trim(p, "/"))
	}
	return out
}
