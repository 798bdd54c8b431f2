package send

import (
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// within holds the directory open of which n names are to be answered for; what it returns lets go. The names are looked up in it
// and not below the root, each: of a first copy's small files that is a fifth of the looking and reading. If it is renamed meanwhile, its files are sent under the name that
// they had when it was opened. That is as if all had been read at that moment: no record is sent before the last of them, and the rename has one.
func (s *Stream) within(dir string, n int) (leave func()) {
	if n < 2 {
		return func() {}
	}
	h, err := s.o.Root.Hold(dir)
	if err != nil {
		return func() {} // gone, or not to be read: each name says so itself
	}
	s.dir, s.inside = h, dir
	return func() {
		s.dir = nil
		h.Close()
	}
}

// nameIn is the path's name in the directory that is held open; "" if it is elsewhere.
func (s *Stream) nameIn(path string) string {
	if s.dir == nil || tree.Parent(path) != s.inside {
		return ""
	}
	if s.inside == "" {
		return path
	}
	return path[len(s.inside)+1:]
}

func (s *Stream) glance(path string) (tree.Meta, error) {
	if name := s.nameIn(path); name != "" {
		return s.dir.Glance(name)
	}
	return s.o.Root.Glance(path)
}

func (s *Stream) readOnce(path string) (m tree.Meta, data []byte, still bool, err error) {
	if name := s.nameIn(path); name != "" {
		return s.dir.ReadSmall(name, wire.InlineMax)
	}
	return s.o.Root.ReadSmall(path, wire.InlineMax)
}
