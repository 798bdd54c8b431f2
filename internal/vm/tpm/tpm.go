// Package tpm is where libvirt keeps the state of emulated TPMs on this node: one
// small file for each machine, which holds the keys of its guest. It finds that file,
// and puts another one in its place, in steps of which each can be taken up again.
//
// It never reads what is in a state, never makes it readable for anybody but the
// emulator's user, and never touches the state of a machine while it runs: its
// caller knows what runs.
//
//	place := tpm.Default()
//	err := place.Stage(which, content) // durable, and not used yet
//	err = place.Swap(which)            // it is the machine's now; once
package tpm

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
	"revolve/internal/syswait"
)

// MaxState bounds a state, in bytes: libtpms has NV memory of 176 KiB in a TPM 2.0, and less in one of 1.2.
const MaxState = 1 << 20

// Which is one machine's TPM. What names it comes from definitions, also of other nodes: Check.
type Which struct {
	UUID    string `json:"uuid"`    // of the machine: libvirt calls the directory so
	Version string `json:"version"` // "1.2" or "2.0"
}

// Check reports a machine or a version that there cannot be. What passes is a directory's name.
func (w Which) Check() error {
	bad := len(w.UUID) != 36 || w.Version != "1.2" && w.Version != "2.0"
	for i := 0; i < len(w.UUID) && !bad; i++ {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash {
			bad = w.UUID[i] != '-'
		} else {
			bad = !strings.ContainsRune("0123456789abcdef", rune(w.UUID[i]))
		}
	}
	if bad {
		return &problem.Problem{Op: "find TPM of machine", Kind: problem.Invalid, Subject: w.UUID[:min(len(w.UUID), 64)], Err: fmt.Errorf("that UUID, or version %q, is none of libvirt's", w.Version[:min(len(w.Version), 64)]), Hint: "versions 1.2 and 2.0 are known here; the definition says which: virsh dumpxml"}
	}
	return nil
}

// in is the directory of the emulator below that of the machine, and file the one
// that outlasts a reboot (libvirt, qemu_tpm.c; swtpm, swtpm_nvstore_dir.c). Others
// there are only for a guest that goes on without one.
func (w Which) in() (dir, file string) {
	if w.Version == "1.2" {
		return "tpm1.2", "tpm-00.permall"
	}
	return "tpm2", "tpm2-00.permall"
}

// Place is where the states are.
type Place struct {
	Dir  string   // a directory for each machine
	Conf []string // of libvirt: the first one that is there names the emulator's user and group
	Defs []string // where libvirt writes definitions
}

// Default is libvirt's own place. NixOS has its configuration elsewhere.
func Default() Place {
	return Place{Dir: "/var/lib/libvirt/swtpm", Conf: []string{"/etc/libvirt/qemu.conf", "/var/lib/libvirt/qemu.conf"}, Defs: []string{"/etc/libvirt/qemu", "/var/lib/libvirt/qemu"}}
}

// File is the name of a machine's state.
func (p Place) File(w Which) string {
	dir, file := w.in()
	return filepath.Join(p.Dir, w.UUID, dir, file)
}

// Names of ours beside those of the emulator, each below a machine's directory.
const (
	staged = "revolve-staged" // what is to be its state; as long as this is there, it is not
	former = "revolve-former" // what was, for a moment
	marker = "revolve-clone"  // a machine that only rehearses: all of it may be removed
)

// Stage makes a state durable beside the one that is used: that of a new TPM if
// content is nil, which the emulator makes itself. It belongs to nobody until Swap.
func (p Place) Stage(w Which, content []byte) error {
	return p.work("stage state of TPM", w, func(r *os.Root) error {
		uid, gid, err := p.owner()
		if err != nil {
			return err
		}
		at := path.Join(w.UUID, staged)
		_, file := w.in()
		err = errors.Join(r.RemoveAll(at), r.MkdirAll(w.UUID, 0o711), r.Chmod(w.UUID, 0o711), r.Mkdir(at, 0o700))
		if err == nil && content != nil {
			err = write(r, path.Join(at, file), content, uid, gid)
		}
		if err != nil {
			return errors.Join(err, r.RemoveAll(at))
		}
		return errors.Join(r.Lchown(at, uid, gid), syncDir(r, at), syncDir(r, w.UUID), syncDir(r, "."))
	})
}

// Staged is the name of the state that waits for its place, "" if none does. A new TPM has no file of that name.
func (p Place) Staged(w Which) (name string, err error) {
	err = p.work("look for state of TPM", w, func(r *os.Root) error {
		_, err := r.Lstat(path.Join(w.UUID, staged))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		_, file := w.in()
		name = filepath.Join(p.Dir, w.UUID, staged, file)
		return err
	})
	return name, err
}

// Swap makes what was staged the machine's state, if anything is. It may be
// interrupted anywhere, and called again. The definition for which it was staged is
// made durable before: neither is to be without the other after a power cut.
func (p Place) Swap(w Which) error {
	return p.work("put in place state of TPM", w, func(r *os.Root) error {
		dir, _ := w.in()
		now, next, old := path.Join(w.UUID, dir), path.Join(w.UUID, staged), path.Join(w.UUID, former)
		if _, err := r.Lstat(next); errors.Is(err, fs.ErrNotExist) {
			return r.RemoveAll(old)
		}
		for _, d := range p.Defs {
			if f, err := os.Open(d); err == nil {
				_ = syswait.Sync(f) // which of them it is, is libvirt's
				f.Close()
			}
		}
		if _, err := r.Lstat(now); err == nil {
			if err := errors.Join(r.RemoveAll(old), r.Rename(now, old)); err != nil {
				return err
			}
		}
		return errors.Join(r.Rename(next, now), syncDir(r, w.UUID), r.RemoveAll(old))
	})
}

// Drop forgets what was staged.
func (p Place) Drop(w Which) error {
	return p.work("remove state of TPM", w, func(r *os.Root) error { return r.RemoveAll(path.Join(w.UUID, staged)) })
}

// Clone makes a state that of a machine that only rehearses.
func (p Place) Clone(w Which, content []byte) error {
	err := p.work("clone state of TPM", w, func(r *os.Root) error {
		if err := r.MkdirAll(w.UUID, 0o711); err != nil {
			return err
		}
		return write(r, path.Join(w.UUID, marker), nil, 0, 0)
	})
	if err != nil { // nothing would say that it is to be removed
		return err
	}
	if err := p.Stage(w, content); err != nil {
		return err
	}
	return p.Swap(w)
}

// Strike removes all that there is of a machine that only rehearses; of any other it removes nothing.
func (p Place) Strike(w Which) error {
	return p.work("remove state of TPM", w, func(r *os.Root) error {
		if _, err := r.Lstat(path.Join(w.UUID, marker)); err != nil {
			return nil // libvirt did it
		}
		return r.RemoveAll(w.UUID)
	})
}

// work does something below the directory of all machines; no name leads out of it.
func (p Place) work(op string, w Which, do func(r *os.Root) error) error {
	if err := w.Check(); err != nil {
		return err
	}
	err := os.Mkdir(p.Dir, 0o711)
	if err == nil {
		err = os.Chmod(p.Dir, 0o711) // as libvirt makes it, whatever the mask is
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	var r *os.Root
	if err == nil {
		r, err = os.OpenRoot(p.Dir)
	}
	if err == nil {
		err = errors.Join(do(r), r.Close())
	}
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Unavailable, Subject: w.UUID, Err: err, Hint: "look at " + filepath.Join(p.Dir, w.UUID) + ": is there room?"}
	}
	return nil
}

// write makes a file durable that only its owner may read.
func write(r *os.Root, name string, content []byte, uid, gid int) error {
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Chown(uid, gid), syswait.Sync(f), f.Close())
}

func syncDir(r *os.Root, name string) error {
	d, err := r.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(syswait.Sync(d), d.Close())
}

// owner is the user and the group as which libvirt of this node runs the emulator:
// those of its configuration, else tss, else root (libvirt, qemu_conf.c).
func (p Place) owner() (uid, gid int, err error) {
	says := map[string]string{}
	for _, name := range p.Conf {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		says = settings(f)
		f.Close()
		break
	}
	uid, err = number(says["swtpm_user"], func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return 0, 0, err
	}
	gid, err = number(says["swtpm_group"], func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	return uid, gid, err
}

// number is who a setting names: a number, also written as "+107", or a name.
func number(says string, look func(name string) (string, error)) (int, error) {
	if n, err := strconv.ParseUint(strings.TrimPrefix(says, "+"), 10, 31); err == nil {
		return int(n), nil
	}
	name := says
	if says == "" {
		name = "tss"
	}
	id, err := look(name)
	if err != nil && says == "" {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(id)
}

// settings are the texts of libvirt's configuration: NAME = "TEXT" on a line of its own.
func settings(f *os.File) map[string]string {
	says := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "=")
		value = strings.TrimSpace(value)
		if len(value) < 2 || value[0] != '"' && value[0] != '\'' {
			continue
		}
		if end := strings.IndexByte(value[1:], value[0]); ok && end >= 0 {
			says[strings.TrimSpace(name)] = value[1 : 1+end]
		}
	}
	return says
}
