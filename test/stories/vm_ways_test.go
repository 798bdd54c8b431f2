package stories

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"revolve/internal/vm"
	"revolve/internal/vm/points"
)

// Parts of TestVMs: the guest is rehearsed, brought back, stopped, and kept from starting twice.

// vmRehearsed boots a clone of the copy on b, while the guest runs on a.
func vmRehearsed(t *testing.T, a, b *node) {
	var h vm.Rehearsal
	before := a.tpm()
	complaint, status := a.vmJSON(&h, "rehearse", guestName, "--on", "b", "--sign", "guest: up at record")
	if status != 0 || h.Proof.By != "console" || h.Node != "b" {
		t.Errorf("rehearse: exit status %d: %s %+v", status, complaint, h)
	}
	t.Logf("rehearsed in %v: %+v", h.Proof.Took, h.Proof)
	var all struct{ Views []vm.View }
	if _, status := a.vmJSON(&all, "points", guestName); status != 0 {
		t.Fatalf("points: exit status %d", status)
	}
	for _, v := range all.Views {
		if r := v.VMs[0].Points[0]; v.Node == "b" && (r.ID != h.Point || r.Here.Rehearsed == nil || r.Here.Rehearsed.Failed != "") {
			t.Errorf("recorded on b: %+v", r.Here)
		}
	}
	if complaint, status := a.vmJSON(&h, "rehearse", guestName, "--on", "b", "--sign", "no guest says that", "--within", "1s"); status != 2 || h.Proof.Failed == "" {
		t.Errorf("a rehearsal without a sign: exit status %d: %s %+v", status, complaint, h)
	}
	if out, err := b.virsh("list", "--all", "--name"); err != nil || out != "" {
		t.Errorf("machines on b afterwards: %q, %v", out, err)
	}
	b.pointRecords(h.Point, true) // it stays what it was
	a.guestIs("running")
	if left := b.tpm(); left != "" || a.tpm() != before {
		t.Errorf("a rehearsal left a TPM on b: %q; that of the machine was %q, and is %q", left, before, a.tpm())
	}
}

// vmRestored brings the guest back to its first point, and on again to what it was. Its TPM goes with it.
func vmRestored(t *testing.T, a, b *node, counted int) {
	var all struct{ Views []vm.View }
	update := recipe(t, "After a bad update", "points", "rehearse", "restore")
	a.types(&all, update[0])
	list := all.Views[0].VMs[0].Points
	first := list[len(list)-1].ID
	was := a.pointRecords(first, true)
	if complaint, status := a.vmJSON(nil, "restore", guestName, "--point", string(first)); status != 13 || !strings.Contains(complaint, "--confirm") {
		t.Errorf("not confirmed: exit status %d: %s", status, complaint)
	}
	var h vm.Rehearsal
	if b.types(&h, update[1], "P", string(first)); h.Node != "a" || h.Point != first || h.Proof.By != "agent" {
		t.Errorf("rehearsed before: %+v", h)
	}
	restore := func(point points.ID) (s vm.Restored) {
		t.Helper()
		boots := a.boots()
		b.types(&s, update[2], "P", string(point))
		a.bootsAfter(boots)
		return s
	}
	before := a.counted()
	s := restore(first)
	a.counts(counted+1, "at its first point")
	kept := a.pointRecords(s.Kept, true)
	if kept <= was || s.State != "running" || s.Generation != 2 {
		t.Errorf("%d records were kept, %d are in the point: %+v", kept, was, s)
	}
	if !a.upAt(was) {
		t.Errorf("the guest did not go on at record %d", was)
	}
	w := a.replicate("--consistency", "suspend") // what differs, and without force
	if got := b.pointRecords(w.Point, true); got < was || got >= kept {
		t.Errorf("%d records are on b, %d to %d were to be", got, was, kept)
	}
	for _, f := range w.Nodes[0].Record.Here.Files {
		if f.Name == "vda.raw" && (f.Tracker != "extents" || f.Read > 4<<20) {
			t.Errorf("%+v", f)
		}
	}
	restore(s.Kept)
	a.counts(before+1, "at what it was")
	if !a.upAt(kept) {
		t.Errorf("the guest did not go on at record %d", kept)
	}
	var stopped vm.Stopped
	if complaint, status := b.vmJSON(&stopped, "stop", guestName); status != 0 || stopped.Node != "a" || stopped.Was != "running" {
		t.Errorf("stop: exit status %d: %s %+v", status, complaint, stopped)
	}
	a.guestIs("shut off")
	boots := a.boots()
	if out, err := a.virsh("start", guestName); err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
	a.bootsAfter(boots)
}

// vmSaved: a guest whose memory was saved is off, but it did not come to its end: its point says no more than it is, and it becomes
// no other one, or libvirt would have it go on with that memory on the disks of then.
func vmSaved(a, b *node) {
	t := a.lab.t
	boots := a.boots()
	if out, err := a.virsh("managedsave", guestName); err != nil {
		t.Fatalf("managedsave: %v: %s", err, out)
	}
	a.guestIs("shut off")
	w := a.replicate("--consistency", "shutdown")
	if w.Level != points.Suspend || w.Weaker == "" || w.Nodes[0].Record.Level != points.Suspend {
		t.Errorf("the point of a saved guest: %+v", w)
	}
	counted := b.pointRecords(w.Point, true)
	for _, args := range [][]string{
		{"restore", guestName, "--point", string(w.Point), "--confirm", guestName},
		{"start", guestName, "--on", "a", "--point", string(w.Point), "--confirm", guestName},
	} {
		if complaint, status := a.vmJSON(nil, args...); status != 13 || !strings.Contains(complaint, "virsh managedsave-remove "+guestName) {
			t.Errorf("%v of a saved guest: exit status %d: %s", args, status, complaint)
		}
	}
	if out, err := a.virsh("start", guestName); err != nil {
		t.Fatalf("start: %v: %s", err, out)
	}
	a.lab.within(guestWithin, "the guest goes on", askEvery, func() error {
		if got := b.pointRecords(a.replicate("--consistency", "suspend").Point, true); got <= counted {
			return fmt.Errorf("%d records, %d were there when it was saved", got, counted)
		}
		return nil
	})
	if a.boots() != boots {
		t.Error("it did not go on, it booted")
	}
}

// bootsAfter waits until the guest has come up once more.
func (n *node) bootsAfter(boots int) {
	n.lab.t.Helper()
	n.lab.within(guestWithin, "the guest boots again", askEvery, func() error {
		if n.boots() == boots {
			return errors.New("not yet")
		}
		return nil
	})
}

// upAt is whether the guest said that it went on at this record.
func (n *node) upAt(record int) bool {
	return n.said(fmt.Sprintf("guest: up at record %d\r", record))+n.said(fmt.Sprintf("guest: up at record %d\n", record)) > 0
}

// vmHomeReturns: the former home may not start its machine, by virsh either. What
// it had is kept as a point, and keeps no point of the new home from coming.
func vmHomeReturns(t *testing.T, a *node) (aside points.ID) {
	if out, err := a.virsh("start", guestName); err == nil || !strings.Contains(fmt.Sprint(out, err), "it is running on b") {
		t.Errorf("virsh start on the former home: %v: %s", err, out)
	}
	a.lab.within(guestWithin, "the former home is fenced", askEvery, func() error {
		var all struct{ Views []vm.View }
		if _, status := a.vmJSON(&all, "points", guestName); status != 0 || len(all.Views) == 0 || len(all.Views[0].VMs) == 0 {
			return errors.New("no points")
		}
		if p := all.Views[0].VMs[0].Points; !p[0].Here.Aside {
			return errors.New("nothing is kept aside")
		} else {
			aside = p[0].ID
		}
		return nil
	})
	a.guestIs("shut off")
	return aside
}
