package mirror

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/tree"
	"revolve/internal/problem"
)

// Pause says why a volume waits for a person: its root is not what it was, and
// what is missing in it was not seen going (promise P6).
type Pause struct {
	Why  string `json:"why"`
	Look string `json:"look"`  // a command that shows it
	GoOn string `json:"go_on"` // what to do
}

const (
	// markFile in a volume and NAME.id in the state directory hold the same random text: they belong together.
	markFile = tree.Hidden + "/volume"
	// maxMark bounds what is read of a mark: rand.Text is 26 letters.
	maxMark = 64
)

// identityFile holds the mark of the root that this node works with.
func (v *volume) identityFile() string {
	return filepath.Join(v.e.o.State, "volumes", string(v.c.Name)+".id")
}

// mountFile is there if the root was a mount point when it was opened last.
func (v *volume) mountFile() string {
	return filepath.Join(v.e.o.State, "volumes", string(v.c.Name)+".mounted")
}

// marks are what this node wants to find in the root, and what is there.
func (v *volume) identities(root *tree.Root) (want, have string, err error) {
	w, err := os.ReadFile(v.identityFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	h, err := root.ReadFile(markFile, maxMark)
	if err != nil && !tree.IsGone(err) {
		return "", "", err
	}
	return string(w), string(h), nil
}

// same reports whether root is the directory that this node works with.
func (v *volume) same(root *tree.Root) bool {
	want, have, err := v.identities(root)
	return err == nil && want != "" && want == have
}

// identify refuses a root that is not the one it was: an unmounted disk leaves
// an empty directory, and an empty directory must never mean "everything was
// deleted" (promise P6).
func (v *volume) identify(root *tree.Root) error {
	want, have, err := v.identities(root)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.replica = want == "" && have != ""
	v.mu.Unlock()
	switch {
	case want != "" && have == want:
		return v.noteMount()
	case want != "":
		return v.pause(v.otherRoot(root, have))
	case have == "":
		return v.adopt(root, rand.Text())
	}
	return v.adopt(root, have)
}

// adopt makes root the one that this node works with, under a mark.
func (v *volume) adopt(root *tree.Root, mark string) error {
	err := errors.Join(root.MkdirAll(tree.Hidden), root.WriteFile(markFile, []byte(mark)))
	if err != nil {
		return &problem.Problem{Op: "prepare volume", Kind: kindOf(err), Subject: v.c.Path, Err: err,
			Hint: "the volume must be writable and have space; nothing was changed"}
	}
	if err := os.MkdirAll(filepath.Dir(v.identityFile()), 0o700); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(v.identityFile(), []byte(mark), 0o600), v.noteMount())
}

// noteMount remembers whether the root is a mount point: without its mount it is
// the empty directory below.
func (v *volume) noteMount() error {
	if isMount(v.c.Path) {
		return os.WriteFile(v.mountFile(), nil, 0o600)
	}
	if err := os.Remove(v.mountFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isMount reports whether the directory at path is the root of a mount (statx(2), STATX_ATTR_MOUNT_ROOT).
func isMount(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, unix.STATX_INO, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// unmounted reports whether nothing is mounted where something was.
func (v *volume) unmounted() bool {
	_, err := os.Stat(v.mountFile())
	return err == nil && !isMount(v.c.Path)
}

func (v *volume) resumeCommand() string { return "revolve volume resume " + string(v.c.Name) }

// noRoot is what to say when the volume's directory cannot be opened.
func (v *volume) noRoot(err error) error {
	if _, serr := os.Stat(v.identityFile()); serr != nil {
		return &problem.Problem{Op: "open volume", Kind: kindOf(err), Subject: v.c.Path, Err: err,
			Hint: "create the directory or mount its disk, or correct the volume's path in the configuration"}
	}
	return v.pause(Pause{
		Why:  fmt.Sprintf("its directory cannot be opened: %v", err),
		Look: "findmnt -T " + v.c.Path + "; ls -ld " + v.c.Path,
		GoOn: "put the directory back, or mount its disk; revolve goes on by itself",
	})
}

// otherRoot says in which way the root is another.
func (v *volume) otherRoot(root *tree.Root, have string) Pause {
	p := Pause{
		Why:  "this is not the directory it was: it was swapped, or its disk is another",
		Look: "findmnt -T " + v.c.Path + "; ls -A " + v.c.Path,
		GoOn: "put the right one back, and revolve goes on by itself; or have this one filled from the other nodes: " + v.resumeCommand(),
	}
	list, err := root.List("")
	switch {
	case v.unmounted():
		p.Why = "nothing is mounted there, and something was"
		p.GoOn = "mount its disk, and revolve goes on by itself; or, if it is to be a plain directory from now on: " + v.resumeCommand() + " --not-mounted"
	case have == "" && err == nil && len(list) == 0:
		p.Why = "the directory is empty: it was emptied, or its disk is a fresh one"
	case have == "":
		p.Why = fmt.Sprintf("the directory has lost its mark (%s): it was swapped or emptied, and holds %d names now", markFile, len(list))
	}
	return p
}

// pause notes that the volume waits for a person, and is the error that says so.
func (v *volume) pause(p Pause) error {
	v.mu.Lock()
	v.paused = &p
	v.mu.Unlock()
	return &problem.Problem{Op: "open volume", Kind: problem.Conflict, Subject: v.c.Path,
		Err: errors.New("paused: " + p.Why + "; nothing is sent or deleted"), Hint: "look: " + p.Look + "; go on: " + p.GoOn}
}

// rootLost stops a volume whose root is not there any more; opening it anew finds out what is.
func (v *volume) rootLost() error {
	return &problem.Problem{Op: "watch volume", Kind: problem.Unavailable, Subject: v.c.Path, Err: errors.New("its root was moved, unmounted or replaced; nothing is sent or deleted"),
		Hint: "put the volume's directory back (mount its disk); revolve goes on by itself"}
}

// Paused names the volumes that wait for a person on this node.
func (e *Engine) Paused() (names []cluster.VolumeID) {
	for _, v := range e.volumes {
		v.mu.Lock()
		if v.paused != nil {
			names = append(names, v.c.Name)
		}
		v.mu.Unlock()
	}
	return names
}

// Resuming is what a person agrees to when a paused volume goes on.
type Resuming struct {
	AcceptDeletions bool // delete on the standbys what was not found on the master
	NotMounted      bool // the root need not be a mount point any more
}

// Resume lets a paused volume go on, and says what happens now. A root that is
// another than before is taken as an empty replica's: the other nodes' files
// come, what is in it and differs is kept as divergent, nothing is deleted
// anywhere. Names that standbys keep since they were only not found on the
// master are deleted there if that is agreed to. It is refused while the reason
// still holds.
func (e *Engine) Resume(name cluster.VolumeID, r Resuming) (string, error) {
	v := e.volume(name)
	if v == nil {
		return "", &problem.Problem{Op: "resume volume", Kind: problem.NotFound, Subject: string(name), Err: errors.New("there is no such volume"), Hint: "revolve status lists them"}
	}
	v.mu.Lock()
	paused, o, leading := v.paused, v.open, v.leading
	v.mu.Unlock()
	switch {
	case paused != nil:
		return v.takeRoot(*paused, r)
	case o == nil:
		return "", &problem.Problem{Op: "resume volume", Kind: problem.Unavailable, Subject: string(name), Err: errors.New("it is not paused, but does not work"), Hint: "revolve status says why"}
	case leading.Term == 0:
		return v.resumeElsewhere()
	}
	return v.acceptDeletions(o, r)
}

func (v *volume) refuseResume(why, hint string) error {
	return &problem.Problem{Op: "resume volume", Kind: problem.Conflict, Subject: string(v.c.Name), Err: errors.New(why), Hint: hint}
}

// takeRoot makes the present root this node's, without any history.
func (v *volume) takeRoot(p Pause, r Resuming) (string, error) {
	root, err := tree.Open(v.c.Path)
	if err != nil {
		return "", v.refuseResume("the reason still holds: "+p.Why, p.GoOn)
	}
	defer root.Close()
	switch {
	case v.same(root):
		return "the right directory is back; it goes on by itself", nil
	case v.unmounted() && !r.NotMounted:
		return "", v.refuseResume("the reason still holds: "+p.Why, p.GoOn)
	}
	// The journal tells of files that are not here. Without it, this is a node that joins. It is moved, not removed, before
	// the mark makes the root this node's: whatever is interrupted, an old history never meets a new root.
	dir := v.e.journalDir(v.c.Name)
	old := dir + ".before-resume"
	if err := os.RemoveAll(old); err != nil {
		return "", err
	}
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := v.adopt(root, rand.Text()); err != nil {
		return "", err
	}
	v.mu.Lock()
	v.paused = nil
	v.pending, v.written, v.bytes, v.lost, v.gap, v.aside, v.doubts = nil, nil, 0, false, false, nil, nil // of a directory that is no more
	v.mu.Unlock()
	v.log.Warn("a person lets the volume go on with the directory that is there now; it is filled from the other nodes", "was", p.Why)
	return "this directory is filled from the other nodes; what was in it and differs is kept as divergent; nothing is deleted elsewhere", nil
}

// resumeElsewhere is the answer of a node that has nothing to resume itself.
func (v *volume) resumeElsewhere() (string, error) {
	r := v.report()
	n, _ := absentOf(r.Standbys)
	if n == 0 {
		return "nothing is paused here", nil
	}
	return "", v.refuseResume(fmt.Sprintf("deletions of %d names are paused, and %s is the master", n, r.Master), "type it there: "+v.resumeCommand())
}

// absentOf counts the names that standbys keep although they were not found on the master, and shows some.
func absentOf(standbys []Standby) (n int, text string) {
	var parts []string
	for _, s := range standbys {
		if s.Absent == 0 {
			continue
		}
		n += s.Absent
		part := fmt.Sprintf("%d on %s", s.Absent, s.Node)
		if len(s.Sample) > 0 {
			part += fmt.Sprintf(" (%s, ...)", strings.Join(s.Sample, ", "))
		}
		parts = append(parts, part)
	}
	slices.SortFunc(parts, cmp.Compare)
	return n, strings.Join(parts, "; ")
}

// acceptDeletions deletes on the standbys what was not found here, once a person has said so.
func (v *volume) acceptDeletions(o *opened, r Resuming) (string, error) {
	n, which := absentOf(v.standbys(o))
	switch {
	case n == 0:
		return "nothing is paused", nil
	case !r.AcceptDeletions:
		return "", v.refuseResume("names that were not found here would be deleted on the standbys: "+which,
			"to delete them there, into the trash: "+v.resumeCommand()+" --accept-deletions; to have them back everywhere, make a node that has them the master: revolve switch NODE")
	case !o.root.StillThere() || !v.same(o.root):
		return "", v.refuseResume("the directory is not what it was", "revolve status")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open != o || v.mode != record || v.leading.Term == 0 {
		return "", &problem.Problem{Op: "resume volume", Kind: problem.Unavailable, Subject: string(v.c.Name), Err: errors.New("this node is not its master any more")}
	}
	if err := o.journal.Append(journal.Record{Kind: journal.Tree, Pos: o.journal.Next()}); err != nil {
		return "", err
	}
	v.markLocked(o.journal.Position())
	v.log.Warn("a person accepts deletions that nobody saw", "names", n, "which", which)
	return "deleted on the standbys, into their trash: " + which, nil
}
