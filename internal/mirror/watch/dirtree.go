package watch

// dirTree knows the directories of a volume by the name the kernel calls them
// in its events (a file handle, a watch descriptor), each linked to its parent,
// so that renaming one moves all below it in one step. It is how a path is told
// as of the event stream and not as of the moment of reading: renames are
// played into it in stream order.
//
// It is bounded when limit > 0: then the least recently used directory without
// known children goes. Using a directory uses all above it, so the least
// recently used one never has any.
type dirTree[K comparable] struct {
	root   *dirNode[K]
	byKey  map[K]*dirNode[K]
	limit  int
	ignore func(rel string) bool // may be nil
	gone   func(key K)           // called for each directory dropped; may be nil
	moves  uint64                // counts moves: an ignore verdict is good until the next one
	forgot bool                  // a directory was put aside though nobody said it is gone, since this was last cleared

	newest, oldest *dirNode[K]
}

// dirNode is one directory.
type dirNode[K comparable] struct {
	key    K
	parent *dirNode[K] // nil for the root
	name   string
	kids   map[string]*dirNode[K]

	newer, older *dirNode[K]

	hidden   bool   // it or something above it is ignored; as of hiddenAt
	hiddenAt uint64 // dirTree.moves+1 when hidden was worked out; 0 never
}

func newDirTree[K comparable](rootKey K, limit int, ignore func(string) bool) *dirTree[K] {
	t := &dirTree[K]{byKey: make(map[K]*dirNode[K]), limit: limit, ignore: ignore}
	t.root = &dirNode[K]{key: rootKey}
	t.byKey[rootKey] = t.root
	t.toFront(t.root)
	return t
}

// lookup finds a directory and marks it used.
func (t *dirTree[K]) lookup(key K) *dirNode[K] {
	n := t.byKey[key]
	if n != nil {
		t.use(n)
	}
	return n
}

// place puts the directory key at parent/name, moving it (with all below it) if
// it is known elsewhere; what was there before is dropped. It refuses, with nil, to put a directory below itself.
func (t *dirTree[K]) place(key K, parent *dirNode[K], name string) *dirNode[K] {
	n := t.byKey[key]
	if n != nil {
		if n.parent == parent && n.name == name {
			t.use(n)
			return n
		}
		for p := parent; p != nil; p = p.parent {
			if p == n {
				return nil
			}
		}
	}
	if n != nil { // first, as what it replaces may be above it
		delete(n.parent.kids, n.name)
		t.moves++
	}
	if old := parent.kids[name]; old != nil {
		t.forgot = true
		t.drop(old)
	}
	if n == nil {
		n = &dirNode[K]{key: key}
		t.byKey[key] = n
	}
	n.parent, n.name = parent, name
	if parent.kids == nil {
		parent.kids = make(map[string]*dirNode[K])
	}
	parent.kids[name] = n
	t.use(n)
	for t.limit > 0 && len(t.byKey) > t.limit && t.oldest != n && t.oldest != t.root {
		t.forgot = true
		t.drop(t.oldest)
	}
	return n
}

// drop forgets a directory and all below it.
func (t *dirTree[K]) drop(n *dirNode[K]) {
	for _, kid := range n.kids {
		t.drop(kid)
	}
	t.unlink(n)
	delete(t.byKey, n.key)
	if n.parent != nil {
		delete(n.parent.kids, n.name)
	}
	if t.gone != nil {
		t.gone(n.key)
	}
}

// reset forgets everything but the root.
func (t *dirTree[K]) reset() {
	for _, kid := range t.root.kids {
		t.drop(kid)
	}
}

// path is the directory relative to the root, "." for the root itself.
func (t *dirTree[K]) path(n *dirNode[K]) string {
	if n.parent == nil {
		return "."
	}
	return t.join(n.parent, n.name)
}

// join is the path of an entry of the directory.
func (t *dirTree[K]) join(n *dirNode[K], name string) string {
	size := len(name)
	for p := n; p.parent != nil; p = p.parent {
		size += len(p.name) + 1
	}
	buf := make([]byte, size)
	at := size - len(name)
	copy(buf[at:], name)
	for p := n; p.parent != nil; p = p.parent {
		at--
		buf[at] = '/'
		at -= len(p.name)
		copy(buf[at:], p.name)
	}
	return string(buf)
}

// visible says whether an entry of the directory is in the stream, and its path if so.
func (t *dirTree[K]) visible(n *dirNode[K], name string) (path string, ok bool) {
	if t.isHidden(n) {
		return "", false
	}
	if name == "." {
		return t.path(n), true
	}
	if n == t.root && name == ownDir {
		return "", false
	}
	path = t.join(n, name)
	if t.ignore != nil && t.ignore(path) {
		return "", false
	}
	return path, true
}

func (t *dirTree[K]) isHidden(n *dirNode[K]) bool {
	if n.parent == nil {
		return false
	}
	if n.hiddenAt != t.moves+1 {
		_, ok := t.visible(n.parent, n.name)
		n.hidden, n.hiddenAt = !ok, t.moves+1
	}
	return n.hidden
}

// use makes the directory and all above it the most recently used ones.
func (t *dirTree[K]) use(n *dirNode[K]) {
	for ; n != nil; n = n.parent {
		if t.newest != n {
			t.unlink(n)
			t.toFront(n)
		}
	}
}

func (t *dirTree[K]) toFront(n *dirNode[K]) {
	n.older, n.newer = t.newest, nil
	if t.newest != nil {
		t.newest.newer = n
	}
	t.newest = n
	if t.oldest == nil {
		t.oldest = n
	}
}

func (t *dirTree[K]) unlink(n *dirNode[K]) {
	if n.newer != nil {
		n.newer.older = n.older
	} else if t.newest == n {
		t.newest = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else if t.oldest == n {
		t.oldest = n.newer
	}
	n.newer, n.older = nil, nil
}
