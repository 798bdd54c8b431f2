package apply

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/tree"
)

// Relist lists what a power cut left kept and not listed: a file's second name in a set is on the disk with the
// next commit of the filesystem, and the line in the set's index is not synced for each. It is for the
// start after an unclean stop.
func Relist(root *tree.Root) (listed int, err error) {
	sets, err := root.List(divergentDir)
	if err != nil {
		return 0, ignoreGone(err)
	}
	for _, e := range sets {
		if e.Meta.Kind != tree.Dir {
			continue
		}
		n, err := relistSet(root, e.Name)
		listed += n
		if err != nil {
			return listed, err
		}
	}
	return listed, nil
}

func relistSet(root *tree.Root, name string) (listed int, err error) {
	s, kept, err := OpenSet(root, name)
	if err != nil {
		return 0, ignoreGone(err)
	}
	known := map[string]bool{}
	above := map[string]bool{} // directories in which something is listed
	for _, k := range kept {
		s.kept = Kept{Set: k.Set, Node: k.Node, Term: k.Term, Time: k.Time, Why: k.Why}
		known[k.File] = true
		for dir := tree.Parent(k.File); dir != "" && !above[dir]; dir = tree.Parent(dir) {
			above[dir] = true
		}
	}
	if len(kept) == 0 {
		s.kept = keptOf(name)
	}
	list, err := root.List(s.dir)
	if err != nil {
		return 0, ignoreGone(err)
	}
	for _, e := range list {
		if e.Meta.Kind != tree.Dir || e.Name != keptName && !strings.HasPrefix(e.Name, keptName+".") {
			continue
		}
		base := s.dir + "/" + e.Name
		err := walkKept(root, base, known, above, func(file string, m tree.Meta) error {
			if listed == 0 {
				if err := s.mendIndex(); err != nil {
					return err
				}
			}
			listed++
			return s.note("changed", strings.TrimPrefix(file, base+"/"), "", file, m.Size)
		})
		if err != nil {
			return listed, err
		}
	}
	if listed == 0 {
		return 0, nil
	}
	return listed, s.syncIndex()
}

// walkKept calls see for the files in dir that are not listed, by themselves or as part of a whole tree.
func walkKept(root *tree.Root, dir string, known, above map[string]bool, see func(file string, m tree.Meta) error) error {
	list, err := root.List(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range list {
		file := dir + "/" + e.Name
		switch {
		case e.Meta.Kind != tree.Dir:
			if known[file] {
				continue
			}
			err = see(file, e.Meta)
		case known[file] && !above[file]: // it was moved here as a whole
			continue
		default:
			err = walkKept(root, file, known, above, see)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mendIndex ends a line that was torn: the next one would be torn with it.
func (s *Set) mendIndex() error {
	f, err := s.root.OpenAppend(s.dir + "/" + indexName)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("\n"))
	return errors.Join(err, f.Close())
}

func (s *Set) syncIndex() error {
	f, err := s.root.OpenAppend(s.dir + "/" + indexName)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), s.root.SyncDir(s.dir))
}

// keptOf is what a set's name says of its entries.
func keptOf(name string) Kept {
	k := Kept{Set: name}
	parts := strings.Split(name, "-")
	if len(parts) < 4 {
		return k
	}
	k.Time, _ = time.Parse("20060102T150405.000", parts[0])
	term, _ := strconv.ParseUint(parts[1], 10, 64)
	k.Term = cluster.Term(term)
	k.Node, k.Why = cluster.NodeID(strings.Join(parts[2:len(parts)-1], "-")), parts[len(parts)-1]
	return k
}
