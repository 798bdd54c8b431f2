package tpm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"revolve/internal/problem"
)

const uuid = "6f8a1d2e-0b1c-4d5e-8f90-123456789abc"

// here is a place whose emulator runs as whoever runs this test.
func here(t *testing.T) Place {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "qemu.conf")
	text := fmt.Sprintf("# comment = \"x\"\n#swtpm_user = \"nobody\"\n  swtpm_user = \"+%d\" # it\nswtpm_group=\"%d\"\n", os.Getuid(), os.Getgid())
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Place{Dir: filepath.Join(dir, "swtpm"), Conf: []string{filepath.Join(dir, "none.conf"), conf}, Defs: []string{dir}}
}

// What names a directory comes from other nodes, too.
func TestCheck(t *testing.T) {
	for w, good := range map[Which]bool{
		{uuid, "2.0"}:                          true,
		{uuid, "1.2"}:                          true,
		{uuid, ""}:                             false,
		{uuid, "../2.0"}:                       false,
		{"", "2.0"}:                            false,
		{strings.ToUpper(uuid), "2.0"}:         false,
		{"../../../../../../etc/swtpm", "2.0"}: false,
		{strings.Replace(uuid, "-", "/", 1), "2.0"}: false,
		{uuid + "/..", "2.0"}:                       false,
	} {
		p := here(t)
		if err := w.Check(); (err == nil) != good {
			t.Errorf("%+v: %v", w, err)
		}
		for what, err := range map[string]error{"stage": p.Stage(w, []byte("x")), "swap": p.Swap(w), "drop": p.Drop(w), "clone": p.Clone(w, nil), "strike": p.Strike(w)} {
			if (err == nil) != good || !good && problem.KindOf(err) != problem.Invalid {
				t.Errorf("%+v, %s: %v", w, what, err)
			}
		}
	}
}

// A state takes its place as a whole, with nothing of the one before it; whatever is interrupted, doing it again does it.
func TestSwap(t *testing.T) {
	w := Which{uuid, "2.0"}
	for name, broken := range map[string]func(p Place, mine string) error{
		"at once": func(Place, string) error { return nil },
		"between renames": func(p Place, mine string) error {
			return os.Rename(filepath.Dir(p.File(w)), filepath.Join(mine, former))
		},
		"something is old": func(p Place, mine string) error { return os.MkdirAll(filepath.Join(mine, former, "x"), 0o700) },
	} {
		p := here(t)
		mine := filepath.Join(p.Dir, uuid)
		if err := errors.Join(p.Stage(w, []byte("first")), p.Swap(w)); err != nil {
			t.Fatal(err)
		}
		volatile := filepath.Join(filepath.Dir(p.File(w)), "tpm2-00.volatilestate")
		if err := os.WriteFile(volatile, []byte("of a guest that goes on"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.Stage(w, []byte("second")); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(p.File(w)); string(b) != "first" {
			t.Errorf("%s: staged only, it is %q, %v", name, b, err)
		}
		if err := broken(p, mine); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := p.Swap(w); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if b, err := os.ReadFile(p.File(w)); string(b) != "second" {
			t.Errorf("%s: it is %q, %v", name, b, err)
		}
		if list, err := filepath.Glob(mine + "/*/*"); len(list) != 1 || err != nil {
			t.Errorf("%s: there is %v, %v", name, list, err)
		}
		for file, mode := range map[string]fs.FileMode{p.File(w): 0o600, filepath.Dir(p.File(w)): fs.ModeDir | 0o700, mine: fs.ModeDir | 0o711} {
			if info, err := os.Stat(file); err != nil || info.Mode() != mode {
				t.Errorf("%s: %s is %v, %v", name, file, info.Mode(), err)
			}
		}
	}
}

// What was staged and is not wanted goes; a TPM of which there is no state begins anew.
func TestDropAndNew(t *testing.T) {
	p, w := here(t), Which{uuid, "1.2"}
	if err := errors.Join(p.Stage(w, []byte("first")), p.Swap(w), p.Stage(w, []byte("second")), p.Drop(w), p.Swap(w)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(p.File(w)); string(b) != "first" || filepath.Base(p.File(w)) != "tpm-00.permall" {
		t.Errorf("dropped: %q, %v", b, err)
	}
	if err := errors.Join(p.Stage(w, nil), p.Swap(w)); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(filepath.Dir(p.File(w))); err != nil || len(list) > 0 {
		t.Errorf("a new one: %v, %v", list, err)
	}
}

// Only a machine that rehearses is removed.
func TestStrike(t *testing.T) {
	p, w := here(t), Which{uuid, "2.0"}
	if err := errors.Join(p.Stage(w, []byte("a machine's")), p.Swap(w), p.Strike(w)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.File(w)); err != nil {
		t.Fatalf("a machine's own was removed: %v", err)
	}
	other := Which{strings.Replace(uuid, "6f", "7f", 1), "2.0"}
	if err := p.Clone(other, []byte("a clone's")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(p.File(other)); string(b) != "a clone's" {
		t.Errorf("cloned is %q, %v", b, err)
	}
	if err := errors.Join(p.Strike(other), p.Strike(other)); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(p.Dir); err != nil || len(list) != 1 {
		t.Errorf("left are %v, %v", list, err)
	}
}

// A clone's state is made only behind the mark that says that it may be removed; if anything fails then, Strike leaves nothing.
func TestCloneIsMarkedFirst(t *testing.T) {
	p, w := here(t), Which{uuid, "2.0"}
	mark := filepath.Join(p.Dir, uuid, marker)
	if err := os.MkdirAll(mark, 0o700); err != nil { // it cannot be written
		t.Fatal(err)
	}
	if err := p.Clone(w, []byte("secret")); err == nil {
		t.Error("it was made without a mark")
	}
	if list, err := os.ReadDir(filepath.Dir(mark)); err != nil || len(list) != 1 {
		t.Errorf("there is %v, %v", list, err)
	}
	if err := os.RemoveAll(filepath.Dir(mark)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Conf[1], []byte("swtpm_user = \"nobody has this name\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Clone(w, []byte("secret")); err == nil {
		t.Error("it was made for a user who is not there")
	}
	if _, err := os.Stat(filepath.Dir(p.File(w))); err == nil {
		t.Error("a state is used though it could not be made")
	}
	if err := p.Strike(w); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(p.Dir); err != nil || len(list) > 0 {
		t.Errorf("left are %v, %v", list, err)
	}
}

// Links that somebody put there lead nowhere.
func TestLinks(t *testing.T) {
	p, w, elsewhere := here(t), Which{uuid, "2.0"}, t.TempDir()
	if err := errors.Join(os.Mkdir(p.Dir, 0o711), os.Symlink(elsewhere, filepath.Join(p.Dir, uuid))); err != nil {
		t.Fatal(err)
	}
	if err := p.Stage(w, []byte("x")); err == nil {
		t.Error("it was staged")
	}
	if list, err := os.ReadDir(elsewhere); err != nil || len(list) > 0 {
		t.Errorf("written elsewhere: %v, %v", list, err)
	}
}

// The emulator's user is the one that libvirt of this node takes.
func TestOwner(t *testing.T) {
	p := here(t)
	if uid, gid, err := p.owner(); err != nil || uid != os.Getuid() || gid != os.Getgid() {
		t.Errorf("%d, %d, %v", uid, gid, err)
	}
	if err := errors.Join(p.Stage(Which{uuid, "2.0"}, []byte("x")), p.Swap(Which{uuid, "2.0"})); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(p.File(Which{uuid, "2.0"}))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
		t.Errorf("it is %d's, %d's", st.Uid, st.Gid)
	}
	for text, good := range map[string]bool{"swtpm_user = \"root\"\nswtpm_group = \"root\"\n": true, "": true, "swtpm_user = \"nobody has this name\"\n": false} {
		if err := os.WriteFile(p.Conf[1], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if uid, gid, err := p.owner(); (err == nil) != good || strings.Contains(text, "root") && uid+gid != 0 {
			t.Errorf("%q: %d, %d, %v", text, uid, gid, err)
		}
	}
}
