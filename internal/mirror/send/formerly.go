package send

import (
	"strings"

	"revolve/internal/mirror/tree"
)

// formerly knows what paths were called before a sequence of renames. It costs the depth of a path, however many there were:
// a stream that begins may have hundreds of thousands of them behind it, and names to look up for each of as many files.
type formerly struct {
	was   string // its path before, if it was renamed
	moved bool
	kids  map[string]*formerly
}

// rename takes note of one more, the latest.
func (f *formerly) rename(old, path string) {
	if old == "" || path == "" || old == path {
		return
	}
	was := f.before(old)
	n := f.take(old)
	n.was, n.moved = was, true
	f.put(path, n)
}

// before is the name that what is called path now had before them all.
func (f *formerly) before(path string) string {
	was, rest := "", path
	for n, below := f, path; below != ""; {
		var name string
		name, below, _ = strings.Cut(below, "/")
		if n = n.kids[name]; n == nil {
			break
		}
		if n.moved {
			was, rest = n.was, below
		}
	}
	if rest == "" {
		return was
	}
	return tree.Join(was, rest)
}

// take is what is known below a name, which nothing is known of any more.
func (f *formerly) take(path string) *formerly {
	n, name := f, path
	for dir, below, deeper := strings.Cut(name, "/"); deeper; dir, below, deeper = strings.Cut(name, "/") {
		if n, name = n.kids[dir], below; n == nil {
			return &formerly{}
		}
	}
	kid := n.kids[name]
	if kid == nil {
		return &formerly{}
	}
	delete(n.kids, name)
	return kid
}

// put places it at another name, in place of what is known there.
func (f *formerly) put(path string, kid *formerly) {
	n, name := f, path
	for dir, below, deeper := strings.Cut(name, "/"); deeper; dir, below, deeper = strings.Cut(name, "/") {
		next := n.kids[dir]
		if next == nil {
			next = &formerly{}
			n.set(dir, next)
		}
		n, name = next, below
	}
	n.set(name, kid)
}

func (f *formerly) set(name string, kid *formerly) {
	if f.kids == nil {
		f.kids = map[string]*formerly{}
	}
	f.kids[name] = kid
}
