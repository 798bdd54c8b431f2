package apply

import "revolve/internal/mirror/tree"

// Stats counts what an Applier did since it was made.
type Stats struct {
	Files        int64      `json:"files"`
	Bytes        int64      `json:"bytes"`
	Renames      int64      `json:"renames"`
	Removes      int64      `json:"removes"`
	Commits      int64      `json:"commits"`
	ChownRefused int64      `json:"chown_refused"` // files whose owner this node may not set
	XattrRefused int64      `json:"xattr_refused"` // files with an extended attribute or ACL that this node or its filesystem cannot hold
	NodesRefused int64      `json:"nodes_refused"` // devices that this node may not make
	LinksRefused int64      `json:"links_refused"` // names that became files of their own, since this node or its filesystem may not link them
	Absent       int        `json:"absent"`        // names left alone because their absence was only inferred
	Trash        TrashStats `json:"trash"`
}

// refused counts what could not be set.
func (s *Stats) refused(not tree.Refused) {
	if not.Owner {
		s.ChownRefused++
	}
	if not.Xattrs {
		s.XattrRefused++
	}
}

// not is what comparisons must leave out here: it was refused once.
func (s *Stats) not() tree.Refused {
	return tree.Refused{Owner: s.ChownRefused > 0, Xattrs: s.XattrRefused > 0}
}

// Stats returns the counters.
func (a *Applier) Stats() Stats {
	s := a.stats
	s.Trash = a.trash.stats
	if a.trash.slotNow == a.trash.slot() {
		s.Trash.Bytes = a.trash.slotBytes
	}
	return s
}
