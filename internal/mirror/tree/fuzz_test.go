package tree

import (
	"strings"
	"testing"
)

// FuzzXattrs: what is accepted comes out as it went in, in order, and nothing else is read.
func FuzzXattrs(f *testing.F) {
	f.Add("")
	f.Add(string(appendXattr(nil, "user.a", []byte("value"))))
	f.Add(string(appendXattr(appendXattr(nil, "system.posix_acl_access", []byte{2, 0, 0, 0}), "user.b", nil)))
	f.Add(string(appendXattr(nil, "security.selinux", []byte("x"))))
	f.Add("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
	f.Add("\x80")
	f.Fuzz(func(t *testing.T, s string) {
		if CheckXattrs(s) != nil {
			return
		}
		var again []byte
		last := ""
		for rest := s; len(rest) > 0; {
			name, value, more, ok := nextXattr(rest)
			if !ok || !mirrored(name) || name <= last || len(name) > maxXattrName || len(value) > maxXattrValue || strings.IndexByte(name, 0) >= 0 || len(more) >= len(rest) {
				t.Fatalf("accepted: %q, of which %q and %q", s, name, value)
			}
			again, last, rest = appendXattr(again, name, []byte(value)), name, more
		}
		// Lengths may be written longer than they need be; what they say is the same.
		if CheckXattrs(string(again)) != nil || len(again) > len(s) {
			t.Fatalf("%q comes out as %q", s, again)
		}
	})
}

// FuzzCheck: a path that is accepted stays below the root, whatever it is joined to.
func FuzzCheck(f *testing.F) {
	for _, p := range []string{"", "a/b", "..", "a/../b", "/a", "a//b", "a/", ".", "a\x00b", "\xff/\n", "...", strings.Repeat("d/", 2047) + "f"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if Check(p) != nil || p == "" {
			return
		}
		if len(p) >= MaxPath || strings.IndexByte(p, 0) >= 0 {
			t.Fatalf("accepted: %d bytes, %.100q", len(p), p)
		}
		depth := 0
		for part := range strings.SplitSeq(p, "/") {
			if part == "" || part == "." || part == ".." || len(part) > maxName {
				t.Fatalf("accepted: %q with the part %q", p, part)
			}
			depth++
		}
		at := p
		for range depth {
			if !Below(p, at) || at == "" {
				t.Fatalf("%q is not below %q", p, at)
			}
			at = Parent(at)
		}
		if at != "" || Join(Parent(p), p[len(Parent(p))+min(1, len(Parent(p))):]) != p {
			t.Fatalf("%q does not end at the root", p)
		}
	})
}
