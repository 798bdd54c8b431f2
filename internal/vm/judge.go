package vm

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/vm/libvirt"
	"revolve/internal/vm/points"
)

// known is what all views together say of a machine that is to be started.
type known struct {
	newest, chosen *points.Record
	top            Claim // that beats all others
	blind          []cluster.NodeID
}

// Judge decides whether a machine may be started on a node. It never may while it
// runs, or is being started, on a node that answers. Where a node is silent, or
// the point is not all that is known to have been written, a person must have
// typed its name.
func Judge(o StartOrder, here cluster.NodeID, views []View, silent []cluster.NodeID) error {
	confirmed := o.Confirm == o.VM
	if o.Confirm != "" && !confirmed {
		return notStarted(o.VM, problem.Invalid, fmt.Sprintf("%q was typed", o.Confirm), "type the machine's own name: --confirm "+o.VM)
	}
	k := known{blind: slices.Clone(silent)}
	for i := range views {
		v := &views[i]
		if v.Libvirt != "" && v.Node == here {
			return notStarted(o.VM, problem.Unavailable, "libvirt here cannot be asked: "+v.Libvirt, "start it: systemctl start libvirtd")
		}
		if v.Failed != nil && v.Node == here {
			return notStarted(o.VM, problem.Unavailable, "what is written here cannot be read: "+v.Failed.Error, "look at the storage: is it mounted?")
		}
		if v.Libvirt != "" {
			k.blind = append(k.blind, v.Node)
		}
		for n := range v.VMs {
			if s := &v.VMs[n]; s.VM == o.VM {
				if err := inTheWay(o.VM, here, v.Node, s); err != nil {
					return err
				}
				if s.Unread != "" {
					k.blind = append(k.blind, v.Node)
				}
				k.add(o, v.Node == here, s)
			}
		}
	}
	switch {
	case k.chosen == nil:
		return notStarted(o.VM, problem.NotFound, "there is no such point of it on "+string(here), "see what there is: revolve vm points "+o.VM)
	case confirmed:
		return nil
	case len(k.blind) > 0:
		return notStarted(o.VM, problem.Conflict, fmt.Sprintf("%s cannot be asked whether it runs there", list(k.blind)),
			"make sure that it does not, and type its name: --confirm "+o.VM)
	}
	return k.givesUp(o.VM, here)
}

func notStarted(vm string, kind problem.Kind, text, hint string) error {
	return &problem.Problem{Op: "start", Kind: kind, Subject: vm, Err: errors.New(text), Hint: hint}
}

// inTheWay is what a machine does somewhere that keeps it from being started, whatever was typed.
func inTheWay(vm string, here, node cluster.NodeID, s *Seen) error {
	switch {
	case s.Unread != "" && node == here:
		return notStarted(vm, problem.Unavailable, "what is written here of it cannot be read: "+s.Unread, "look at the storage: is it mounted, is it readable?")
	case s.Starting && node != here:
		return notStarted(vm, problem.Conflict, "it is being started on "+string(node)+" right now", "see what became of it: revolve vm list")
	case yielded(node, *s) && node == here: // libvirt starts no machine that is there
		return notStarted(vm, problem.Conflict, "it is paused here, because its home is "+string(s.Home), "end it, what it was is kept aside (revolve vm points "+vm+"): virsh destroy "+vm)
	case s.State == libvirt.Paused && up(node, *s):
		return notStarted(vm, problem.Conflict, fmt.Sprintf("it is %s on %s", s.State, node), "let it go on and stop it there: virsh resume "+vm+", revolve vm stop "+vm)
	case up(node, *s):
		return notStarted(vm, problem.Conflict, fmt.Sprintf("it is %s on %s", s.State, node), "shut it down there first: revolve vm stop "+vm)
	}
	return nil
}

// add takes note of what one node has. What was kept aside is chosen only by its name.
func (k *known) add(o StartOrder, here bool, s *Seen) {
	if c := claimOf(*s); c.Known && (!k.top.Known || c.beats(k.top)) {
		k.top = c
	}
	for i := range s.Points {
		r := &s.Points[i]
		if !r.Here.Aside && (k.newest == nil || r.Newer(&k.newest.Point)) {
			k.newest = r
		}
		if here && (k.chosen == nil && o.Point == "" && !r.Here.Aside || r.ID == o.Point) {
			k.chosen = r
		}
	}
}

// givesUp says what the point that was chosen does not have, as far as anybody knows.
func (k *known) givesUp(vm string, here cluster.NodeID) error {
	refuse := func(text, hint string) error { return notStarted(vm, problem.Conflict, text, hint) }
	switch {
	case k.newest != nil && k.newest.Newer(&k.chosen.Point):
		return refuse(fmt.Sprintf("%s is older than %s, which is on %s", k.chosen.ID, k.newest.ID, k.newest.Here.Node),
			"what was written since is given up on this machine: choose another node or point, or type its name: --confirm "+vm)
	case k.chosen.Node != here: // the home is another one
		return refuse(fmt.Sprintf("its home is %s; what it wrote there after %s is not in this point", k.chosen.Node, k.chosen.Taken.Local().Format(time.DateTime)),
			"shut it down there and replicate once more, or type its name: --confirm "+vm)
	case k.chosen.Here.Aside, k.top.Generation > k.chosen.Generation, k.top.Home != "" && k.top.Home != here:
		return refuse(fmt.Sprintf("its history went on after this point, and its home is %s; what it wrote there is not in the point", k.top.Home),
			"shut it down there and replicate once more; as it is here, it starts with vm start --as-it-is; or type its name: --confirm "+vm)
	}
	return nil
}
