package tree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/tree"
)

// TestXattrsComeBack: what one inode has is what another gets, and what it had besides goes.
func TestXattrsComeBack(t *testing.T) {
	dir := t.TempDir()
	root, err := tree.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{"from", "to"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	set := func(name, attr, value string) {
		t.Helper()
		if err := unix.Setxattr(filepath.Join(dir, name), attr, []byte(value), 0); err == unix.EOPNOTSUPP {
			t.Skip("SKIPPED PART: no extended attributes on this filesystem")
		} else if err != nil {
			t.Fatal(err)
		}
	}
	set("from", "user.b", strings.Repeat("x", 1000))
	set("from", "user.a", "")
	set("to", "user.b", "another")
	set("to", "user.extra", "goes")
	m, err := root.Lstat("from")
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.CheckXattrs(m.Xattrs); err != nil || m.Xattrs == "" {
		t.Fatalf("%q: %v", m.Xattrs, err)
	}
	if _, err := root.SetMetaAt("to", m); err != nil {
		t.Fatal(err)
	}
	if got, err := root.Lstat("to"); err != nil || got.Xattrs != m.Xattrs {
		t.Errorf("%q (%v), want %q", got.Xattrs, err, m.Xattrs)
	}
}

func TestXattrsThatAreRefused(t *testing.T) {
	field := func(s string) string { return string(rune(len(s))) + s }
	good := field("user.a") + field("1") + field("user.b") + field("")
	if err := tree.CheckXattrs(good); err != nil {
		t.Error(err)
	}
	for what, s := range map[string]string{
		"torn":              good[:len(good)-1],
		"no value":          field("user.a"),
		"out of order":      field("user.b") + field("") + field("user.a") + field(""),
		"twice":             field("user.a") + field("") + field("user.a") + field(""),
		"of this machine":   field("security.selinux") + field("label"),
		"a zero in a name":  field("user.a\x00b") + field(""),
		"longer than it is": "\x7fuser.a",
	} {
		if tree.CheckXattrs(s) == nil {
			t.Errorf("%s is allowed: %q", what, s)
		}
	}
}
