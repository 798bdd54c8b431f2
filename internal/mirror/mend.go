package mirror

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"time"

	"github.com/zeebo/blake3"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/verify"
	"revolve/internal/mirror/watch"
	"revolve/internal/problem"
)

// mendDir is where the right copy of a damaged file is written aside, on the master; `kept` sweeps it.
const mendDir = tree.Hidden + "/fetched"

// mend replaces the damaged file at rel of this master by a standby's copy. The
// damaged one is kept aside first; the new one is durable, and what it must be,
// before it takes the name.
func (v *volume) mend(o *opened, reign cluster.Reign, rel string, from verify.Standby, e *verify.Entry) error {
	m, err := o.root.Lstat(rel)
	switch {
	case err != nil:
		return err
	case m.Kind != tree.File || m.Size != e.Size || m.MTime != e.MTime:
		return &problem.Problem{Op: "repair", Kind: problem.Unavailable, Subject: rel, Err: errors.New("it was written meanwhile")}
	case m.Links > 1:
		return &problem.Problem{Op: "repair", Kind: problem.Invalid, Subject: rel, Err: errors.New("the master's copy has several names"), Hint: "copy it over by hand: a new file would break the link"}
	}
	if err := o.root.MkdirAll(mendDir); err != nil {
		return err
	}
	aside := mendDir + "/" + rand.Text()
	f, err := o.root.Create(aside)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f, rel, from, e, m), f.Close()); err != nil {
		return errors.Join(err, o.root.Remove(aside))
	}
	now, err := o.root.Lstat(rel)
	if err != nil || now.Inode != m.Inode || now.CTime != m.CTime {
		return errors.Join(err, o.root.Remove(aside), errors.New("it was written meanwhile"))
	}
	set := apply.NewSet(o.root, v.e.o.Node, reign.Term, apply.WhyDamaged, time.Now())
	if err := set.Keep(rel); err != nil {
		return errors.Join(err, o.root.Remove(aside))
	}
	if err := errors.Join(o.root.Rename(aside, rel), o.root.SyncDir(tree.Parent(rel))); err != nil {
		return err
	}
	v.log.Warn("a damaged file of the master's was replaced by a standby's copy; the damaged one is kept aside", "path", rel, "set", set.Name())
	return v.events([]watch.Event{{Kind: watch.Dirty, Path: rel}})
}

// fill writes the content that e describes, and the metadata m.
func fill(f *os.File, rel string, from verify.Standby, e *verify.Entry, m tree.Meta) error {
	h := blake3.New()
	err := from.Content(rel, e.Size, func(b []byte) error {
		_, _ = h.Write(b) // a hash takes everything
		_, err := f.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), e.Hash) {
		return errors.New("other bytes came than the standby has told")
	}
	if _, err := tree.SetMeta(f, m); err != nil {
		return err
	}
	return f.Sync()
}
