package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/restore"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// This file is divergent changes, and bringing back what was kept.

type divergentCommand struct {
	List divergentListCommand `cmd:"" help:"List the changes that were kept aside on this node."`
	Show divergentShowCommand `cmd:"" help:"Show one set of them."`

	Restore divergentRestoreCommand `cmd:"" help:"Bring changes back into the volume, or copy them elsewhere."`
	Drop    divergentDropCommand    `cmd:"" help:"Forget changes for good."`
}

type divergentListCommand struct {
	whereFlags
}

// Help is printed under the usage.
func (divergentListCommand) Help() string {
	return "Divergent are changes that the next master never received: made in the last moment of a reign that ended badly, on the losing side of a partition, or by hand on a standby. They are kept on the node that made them, below .revolve/divergent of the volume, and nothing removes them but you. All nodes are asked."
}

// Run lists the sets.
func (c *divergentListCommand) Run(ctx context.Context, e *env) error {
	list, err := c.divergent(ctx, e)
	if err != nil {
		return err
	}
	return e.answer(list, setsText(list))
}

// whereFlags choose the nodes that are asked.
type whereFlags struct {
	Here bool   `xor:"where" help:"Only what this node keeps."`
	From string `xor:"where" placeholder:"NODE" help:"Only what that node keeps."`
}

func (w whereFlags) query(st control.Status) control.KeptQuery {
	if w.Here {
		return control.KeptQuery{From: st.Node}
	}
	return control.KeptQuery{From: cluster.NodeID(w.From)}
}

// divergent asks the nodes for what they keep aside.
func (w whereFlags) divergent(ctx context.Context, e *env) ([]control.Divergent, error) {
	client := control.Dial(e.state)
	st, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	a, err := client.KeptAside(ctx, w.query(st))
	e.silent(a.Silent)
	return a.Divergent, err
}

// silent says on standard error who did not answer.
func (e *env) silent(list []control.Silent) {
	for _, s := range list {
		fmt.Fprintf(e.stderr, "revolve: %s did not answer: %s\n", s.Node, s.Why)
	}
}

func setsText(list []control.Divergent) string {
	if len(list) == 0 {
		return "nothing is kept aside"
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tON\tSET\tWHY\tBY\tTERM\tTIME\tCHANGES\tFIRST")
	for i := 0; i < len(list); {
		d, n := list[i], 0
		for i+n < len(list) && list[i+n].Set == d.Set && list[i+n].Volume == d.Volume && list[i+n].On == d.On {
			n++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%d\t%q\n", d.Volume, d.On, d.Set, d.Why, d.Node, d.Term, d.Time.Format(time.DateTime), n, d.Path)
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
	list, err := whereFlags{}.divergent(ctx, e)
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
	fmt.Fprintln(t, "WHAT\tPATH\tSIZE\tON\tKEPT IN")
	for _, d := range kept {
		path := fmt.Sprintf("%q", d.Path)
		if d.Old != "" {
			path = fmt.Sprintf("%q, was %q", d.Path, d.Old)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", d.What, path, d.Size, d.On, cmp.Or(d.File, "-"))
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
	return "Into the volume only on the master: there it is a write like every other, and the standbys get it. What stands in its place goes to this node's trash first, and what was brought back leaves the set. A set that lies on another node comes from there. Removals and renames are left to you: they are listed."
}

// Run brings the changes back.
func (c *divergentRestoreCommand) Run(ctx context.Context, e *env) error {
	st, vol, on, err := findSet(ctx, e, c.Set)
	if err != nil {
		return err
	}
	if on != st.Node {
		q := control.KeptQuery{From: on, Volume: vol.Name, Set: c.Set, Only: bytesOf(trimmed(c.Path))}
		return bringFrom(ctx, e, st, vol, c.To, q)
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
	st, vol, on, err := findSet(ctx, e, c.Set)
	if err != nil {
		return err
	}
	if !c.Yes && !e.agreed("Drop the changes of "+c.Set+" for good? They may be the only copy. Type yes: ") {
		return &problem.Problem{Op: "drop divergent changes", Kind: problem.Invalid, Subject: c.Set, Err: errors.New("not agreed to"), Hint: "type yes, or give --yes"}
	}
	n, err := c.drop(ctx, e, st, vol, on)
	if err != nil {
		return err
	}
	return e.answer(map[string]int{"dropped": n}, fmt.Sprintf("%d dropped", n))
}

func (c *divergentDropCommand) drop(ctx context.Context, e *env, st control.Status, vol control.Volume, on cluster.NodeID) (int, error) {
	if on != st.Node {
		return control.Dial(e.state).Drop(ctx, control.KeptQuery{From: on, Volume: vol.Name, Set: c.Set, Only: bytesOf(trimmed(c.Path))})
	}
	root, err := openVolume(vol)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	return restore.Drop(root, c.Set, trimmed(c.Path))
}

// maxAnswer bounds what is read of an answer: it is one word, and standard input may be a file.
const maxAnswer = 64

// agreed asks a question on standard error and reads the answer.
func (e *env) agreed(question string) bool {
	fmt.Fprint(e.stderr, visible(question))
	line, err := bufio.NewReader(io.LimitReader(e.stdin, maxAnswer)).ReadString('\n')
	return strings.TrimSpace(line) == "yes" && (err == nil || len(line) < maxAnswer)
}

// bring lets what restore into the volume, if this node is the master, or into another directory.
func bring(e *env, st control.Status, v control.Volume, dir string, what func(*restore.Restorer) (restore.Result, error)) error {
	root, to, err := places(st, v, dir)
	if err != nil {
		return err
	}
	defer root.Close()
	defer to.Close()
	result, err := what(restore.Into(root, to, time.Now))
	if err != nil {
		return err
	}
	return e.answer(result, broughtText(result))
}

// places opens the volume and where something is to be brought: the volume, if this node is the master, or a directory.
func places(st control.Status, v control.Volume, dir string) (root, to *tree.Root, err error) {
	if dir == "" && st.Master != string(st.Node) {
		return nil, nil, &problem.Problem{Op: "restore into the volume", Kind: problem.Conflict, Subject: string(v.Name), Err: fmt.Errorf("this node is not the master (%s is): what is written here is set aside", st.Master),
			Hint: fmt.Sprintf("type it on %s, or copy it with --to DIR, or make this node the master first: revolve switch %s", st.Master, st.Node)}
	}
	if root, err = openVolume(v); err != nil {
		return nil, nil, err
	}
	if dir == "" {
		dir = v.Path
	}
	if to, err = tree.Open(dir); err != nil {
		root.Close()
		return nil, nil, &problem.Problem{Op: "open directory", Kind: problem.NotFound, Subject: dir, Err: err, Hint: "create it"}
	}
	return root, to, nil
}

// bringFrom brings what another node keeps: its agent hands it over to ours, and
// from there it goes where everything goes, by an ordinary write.
func bringFrom(ctx context.Context, e *env, st control.Status, v control.Volume, dir string, q control.KeptQuery) error {
	root, to, err := places(st, v, dir)
	if err != nil {
		return err
	}
	defer root.Close()
	defer to.Close()
	client := control.Dial(e.state)
	f, err := client.Fetch(ctx, q)
	if err != nil {
		return err
	}
	var items []restore.Item
	var left []restore.Left
	for _, i := range f.Items {
		items = append(items, restore.Item{Path: string(i.Path), File: i.File})
	}
	for _, l := range f.Left {
		left = append(left, restore.Left(l))
	}
	result, err := restore.Into(root, to, time.Now).Items(items, left)
	if err = errors.Join(err, root.RemoveAll(f.Dir)); err != nil {
		return err
	}
	if q.Set != "" && dir == "" { // in the volume it leaves the set, as one of this node's does
		if err := client.Forget(ctx, q, f.Items); err != nil {
			return err
		}
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

// findSet finds the volume and the node of a divergent set, this node first.
func findSet(ctx context.Context, e *env, set string) (st control.Status, vol control.Volume, on cluster.NodeID, err error) {
	client := control.Dial(e.state)
	if st, err = client.Status(ctx); err != nil {
		return st, vol, "", err
	}
	for _, v := range st.Volumes {
		root, err := openVolume(v)
		if err != nil {
			continue // its disk is gone; the set may be in another one
		}
		_, _, err = apply.OpenSet(root, set)
		root.Close()
		if err == nil {
			return st, v, st.Node, nil
		}
	}
	a, err := client.KeptAside(ctx, control.KeptQuery{})
	if err != nil {
		return st, vol, "", err
	}
	for _, d := range a.Divergent {
		if d.Set == set {
			v, err := volumeOf(st, string(d.Volume))
			return st, v, d.On, err
		}
	}
	e.silent(a.Silent)
	return st, vol, "", noSet("open divergent set", set)
}

func volumeOf(st control.Status, name string) (control.Volume, error) {
	for _, v := range st.Volumes {
		if string(v.Name) == name {
			return v, nil
		}
	}
	return control.Volume{}, noVolume("look for volume", name)
}

func noSet(op, set string) error {
	return &problem.Problem{Op: op, Kind: problem.NotFound, Subject: set, Err: errors.New("there is no such set on any node that answers"), Hint: "revolve divergent list"}
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

func bytesOf(paths []string) (out [][]byte) {
	for _, p := range paths {
		out = append(out, []byte(p))
	}
	return out
}

func trimmed(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, strings.Trim(p, "/"))
	}
	return out
}
