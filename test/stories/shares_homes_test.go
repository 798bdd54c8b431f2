package stories

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The numbers of the user games, and of two people who have no name on these machines: a
// file's owner is a number, and the nodes must agree on what it means.
const (
	sharerUID, sharerGID = 5, 60
	adaUID, benUID       = 2001, 2002
	family               = 2100
)

// smallFiles are those of a home directory: many, as a browser's cache or a mailbox has.
const (
	smallFiles       = 300
	smallFilesInFull = 5000
	filesInDirectory = 50
)

// fillHomes makes home directories of all that Linux has: owners, modes, times, extended
// attributes, access lists, links of both kinds, names that are hard to quote, and many small files.
func (s *shared) fillHomes(root string) {
	t := s.t
	t.Helper()
	home := filepath.Join(root, "homes", "ada")
	must(t, os.MkdirAll(home+"/shared", 0o755))
	must(t, os.Chown(home, adaUID, family))
	must(t, os.Chmod(home, 0o710))
	many := smallFiles
	if s.full {
		many = smallFilesInFull
	}
	for i := range many {
		dir := fmt.Sprintf("%s/mail/%03d", home, i/filesInDirectory)
		must(t, os.MkdirAll(dir, 0o700))
		p := fmt.Sprintf("%s/message %d 'ä'\n.eml", dir, i)
		put(t, p, strings.Repeat("x", i%1000))
		must(t, os.Chown(p, adaUID, family))
		must(t, os.Chmod(p, []fs.FileMode{0o600, 0o640, 0o400}[i%3]))
	}
	changeHome(t, home, "first")
	must(t, os.Chmod(home+"/shared", 0o770|os.ModeSetgid))
	must(t, os.Symlink("../ben/letter", home+"/shared/to-ben"))
	put(t, home+"/program", "#!/bin/sh\n")
	must(t, os.Chmod(home+"/program", 0o755|os.ModeSetuid))
	must(t, os.Link(home+"/program", home+"/shared/same-program"))
}

// changeHome gives a letter another text, owner's note and access list.
func changeHome(t *testing.T, home, note string) {
	t.Helper()
	p := home + "/letter"
	put(t, p, note)
	must(t, os.Chown(p, adaUID, family))
	must(t, unix.Setxattr(p, "user.note", []byte(note), 0))
	for _, list := range []string{fmt.Sprintf("u:%d:rw", benUID), fmt.Sprintf("g:%d:r", family+len(note))} {
		if out, err := exec.Command("setfacl", "-m", list, p).CombinedOutput(); err != nil {
			t.Fatalf("setfacl: %v\n%s", err, out)
		}
	}
	if out, err := exec.Command("setfacl", "-d", "-m", fmt.Sprintf("u:%d:rwx", benUID), home+"/shared").CombinedOutput(); err != nil {
		t.Fatalf("setfacl: %v\n%s", err, out)
	}
}

// homesOf describes everything in a node's home directories that no client writes.
func homesOf(t *testing.T, n *node) map[string]string {
	t.Helper()
	root := filepath.Join(n.volume("shares"), "homes", "ada")
	all := map[string]string{}
	must(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		text, err := describe(p)
		if err != nil {
			return err
		}
		for _, name := range []string{"user.note", "system.posix_acl_access", "system.posix_acl_default"} {
			value := make([]byte, 1024)
			size, err := unix.Lgetxattr(p, name, value)
			if err == nil {
				text += fmt.Sprintf(" %s=%x", name, value[:size])
			} else if !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
				return err
			}
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); !d.IsDir() {
			text += fmt.Sprintf(" %d names", st.Nlink)
		}
		rel, err := filepath.Rel(root, p)
		all[rel] = text
		return err
	}))
	return all
}

// homesAreWhole: after all moves every node's home directories are what they were at first, and
// what is changed then on the master is so on all.
func (s *shared) homesAreWhole() {
	t := s.t
	t.Helper()
	s.sameHomes("after all moves", s.homes)
	m := s.settled()
	home := filepath.Join(m.volume("shares"), "homes", "ada")
	changeHome(t, home, "second note")
	must(t, os.Rename(home+"/mail/000", home+"/mail/seen"))
	must(t, os.Remove(home+"/shared/same-program"))
	must(t, os.Chmod(home+"/shared", 0o700))
	m.sync()
	s.sameHomes("after a change", homesOf(t, m))
}

func (s *shared) sameHomes(when string, want map[string]string) {
	s.t.Helper()
	s.t.Logf("%s: %d names of home directories are compared on all nodes", when, len(want))
	for _, n := range s.nodes {
		got := homesOf(s.t, n)
		if maps.Equal(got, want) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got[name] != want[name] {
				s.t.Errorf("%s: %s has of %q\n%s\nnot\n%s", when, n.name, name, got[name], want[name])
				break
			}
		}
		if len(got) != len(want) {
			s.t.Errorf("%s: %s has %d names, not %d", when, n.name, len(got), len(want))
		}
	}
}

// smbGet reads a file of the share as another client would: nil, or what Samba says.
func (s *shared) smbGet(name string) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	out, err := s.client.Run(ctx, "smbclient", "-s", s.dir+"/smb.conf", "-A", s.dir+"/who", "//10.77.0.200/"+sharer, "-c", "get "+name+" /dev/null")
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
