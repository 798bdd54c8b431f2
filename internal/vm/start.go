package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/syswait"
	"revolve/internal/vm/points"
)

// StartOrder is a wish to run a machine on this node from a point that is here.
type StartOrder struct {
	VM      string    `json:"vm"`
	Point   points.ID `json:"point"`              // the newest if empty
	Confirm string    `json:"confirm"`            // the machine's name, typed by a person
	AsItIs  bool      `json:"as_it_is,omitempty"` // the machine that libvirt has there, not one from a point
}

// Started is what was done.
type Started struct {
	VM         string         `json:"vm"`
	Node       cluster.NodeID `json:"node"`
	Point      points.Record  `json:"point"`
	Generation uint64         `json:"generation"`
	Images     string         `json:"images"` // the directory of its disks
}

func list(nodes []cluster.NodeID) string {
	var names []string
	for _, n := range nodes {
		names = append(names, string(n))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// Start starts a machine on a node, this one or another.
func (e *Engine) Start(ctx context.Context, on cluster.NodeID, o StartOrder) (Started, error) {
	v, err := e.have(ctx, on, Question{What: askStart, VM: o.VM, Start: &o})
	if err != nil || v.Started == nil {
		return Started{}, noAnswer(err, "start", o.VM)
	}
	return *v.Started, nil
}

// StartHere promotes a point that is here: the machine's history goes on from it,
// under a higher generation, and this node is its home. Everybody is told that it
// is being started before anybody is asked, so of two nodes that want to at once
// at most one does.
func (e *Engine) StartHere(ctx context.Context, o StartOrder) (s Started, err error) {
	if err := points.CheckVM(o.VM); err != nil {
		return s, err
	}
	release, err := e.o.Store.Lock(o.VM)
	if err != nil {
		return s, err
	}
	defer release()
	defer e.announce(o.VM)()
	e.step("starting")
	if o.AsItIs {
		return e.startAsItIs(ctx, o)
	}
	may := func() ([]View, error) {
		views, silent := e.Views(ctx, o.VM)
		return views, Judge(o, e.o.Node, views, slices.Collect(maps.Keys(silent)))
	}
	if _, err := may(); err != nil {
		return s, err
	}
	r, err := e.pick(o.VM, o.Point)
	if err != nil {
		return s, err
	}
	if s, err = e.adopt(ctx, r, r.Point, may); err != nil {
		return s, err
	}
	if err := e.admitting(r.VM, func() error { return e.o.Host.Start(ctx, r.VM) }); err != nil {
		return s, &problem.Problem{Op: "start", Kind: problem.Unavailable, Subject: r.VM, Err: err, Hint: "it is defined here, with its disks in " + s.Images + ": correct the cause (virsh edit " + r.VM + "), then virsh start " + r.VM}
	}
	e.o.Log.Warn("machine started from a point", "vm", r.VM, "point", r.ID, "generation", s.Generation)
	return s, nil
}

// pick is a point that is here, the newest if none is named. What was kept aside is named, or not taken.
func (e *Engine) pick(vm string, id points.ID) (r points.Record, err error) {
	if id != "" {
		return e.o.Store.Get(vm, id)
	}
	list, err := e.o.Store.List(vm)
	if err != nil {
		return r, err
	}
	if i := slices.IndexFunc(list, func(r points.Record) bool { return !r.Here.Aside }); i >= 0 {
		return list[i], nil
	}
	return r, &problem.Problem{Op: "find point of", Kind: problem.NotFound, Subject: vm, Err: errors.New("there is none on " + string(e.o.Node)), Hint: "see what there is: revolve vm points " + vm}
}

// fresh is the name of a directory for disks that are about to be made of a point.
func (e *Engine) fresh(vm, prefix string) string {
	return filepath.Join(e.o.Store.Dir(vm), prefix+string(points.NewID(time.Now())))
}

// highest is the highest generation of a point's history that anybody knows.
func (e *Engine) highest(r points.Record, views []View) uint64 {
	n := r.Generation
	for _, v := range views {
		for _, seen := range v.VMs {
			if seen.VM == r.VM {
				n = max(n, seen.Generation)
			}
			for _, p := range seen.Points {
				if seen.VM == r.VM && p.Lineage == r.Lineage {
					n = max(n, p.Generation)
				}
			}
		}
	}
	if mine, ok, err := e.o.Store.Chain(r.VM); err == nil && ok {
		n = max(n, mine.Last.Generation)
	}
	return n
}

// What directories of disks that were made of points are called, before the time when.
const livePrefix = "live-"

// unpack makes a machine's disks out of a point, which stays what it is, and its
// definition with their names. Disks from before are kept beside them. The caller
// has the machine's Lock: half of them is removed by whoever has it next.
func (e *Engine) unpack(r *points.Record, dir string) (text string, err error) {
	half := dir + points.UnfinishedSuffix
	if err := os.Mkdir(half, 0o711); err != nil {
		return "", &problem.Problem{Op: "make directory", Kind: problem.Unavailable, Subject: half, Err: err}
	}
	text, err = e.unpackInto(half, dir, r)
	if err == nil {
		err = errors.Join(os.Rename(half, dir), syncDir(filepath.Dir(dir)))
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(half))
	}
	return text, err
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(syswait.Sync(d), d.Close())
}

// unpackInto makes the files in one directory, for a definition in which they are in another.
func (e *Engine) unpackInto(half, dir string, r *points.Record) (text string, err error) {
	src, err := e.o.Store.Reopen(r)
	if err != nil {
		return "", err
	}
	defer src.Close()
	for _, f := range src.Files {
		if f.Name == definitionFile {
			b, err := io.ReadAll(io.NewSectionReader(f.F, 0, maxDefinition))
			if err != nil {
				return "", err
			}
			text = string(b)
			continue
		}
		if err := unpackFile(filepath.Join(half, f.Name), f.F); err != nil {
			return "", &problem.Problem{Op: "make disk", Kind: problem.Unavailable, Subject: filepath.Join(half, f.Name), Err: err}
		}
	}
	d, err := readDomain(text)
	if err != nil {
		return "", err
	}
	if d.Name != r.VM {
		return "", &problem.Problem{Op: "start", Kind: problem.Corrupt, Subject: r.VM, Err: fmt.Errorf("its definition is that of %q", d.Name), Hint: "choose another point: revolve vm points " + r.VM}
	}
	where := map[string]string{}
	for _, f := range src.Files {
		switch f.Name {
		case nvramFile:
			where[d.OS.NVRAM] = filepath.Join(dir, f.Name)
		case definitionFile, tpmFile:
		default:
			for _, disk := range d.Disks {
				if disk.fileOf() == f.Name {
					where[disk.Source.File] = filepath.Join(dir, f.Name)
				}
			}
		}
	}
	for _, disk := range d.Disks {
		if disk.Device != "cdrom" && disk.Device != "floppy" && disk.ReadOnly == nil && (disk.Type != "file" || where[disk.Source.File] == "") {
			return "", &problem.Problem{Op: "start", Kind: problem.Corrupt, Subject: r.VM, Err: fmt.Errorf("disk %s of its definition is not in the point", disk.Target.Dev), Hint: "choose another point: revolve vm points " + r.VM}
		}
	}
	return moved(text, where)
}

// maxDefinition bounds a machine's XML.
const maxDefinition = 4 << 20

// unpackFile clones a point's file, or copies it where blocks cannot be shared.
func unpackFile(name string, from *os.File) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = block.Clone(f, from)
	if errors.Is(err, block.ErrUnsupported) {
		_, err = io.Copy(f, io.NewSectionReader(from, 0, 1<<62))
	}
	return errors.Join(err, syswait.Sync(f), f.Close())
}
