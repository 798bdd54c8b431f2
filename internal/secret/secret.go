// Package secret reads what only the agent may know, such as passwords: each from
// a file of its own that nobody else can read. It keeps nothing, and never tells
// or writes one.
//
//	password, err := secret.Read("/etc/revolve/d.ipmi")
package secret

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"revolve/internal/problem"
)

// maxSecret is what a file with a secret may have.
const maxSecret = 4 << 10

// Read reads a secret: one line of a file that nobody but root and the agent's user may read or write. The error says
// what is wrong with the file, never what is in it.
func Read(path string) (string, error) {
	refuse := func(kind problem.Kind, hint string, err error) error {
		return &problem.Problem{Op: "read secret", Kind: kind, Subject: path, Err: err, Hint: hint}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return "", refuse(problem.NotFound, "write it there, readable for the agent's user only (chmod 600)", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", refuse(problem.Unavailable, "", err)
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return "", refuse(problem.Invalid, "name a file", errors.New("it is no file"))
	case info.Mode().Perm()&0o077 != 0:
		return "", refuse(problem.Permission, "chmod 600 "+path, fmt.Errorf("others may read or write it (mode %04o)", info.Mode().Perm()))
	case known && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		return "", refuse(problem.Permission, "chown root "+path, errors.New("it belongs to another user"))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	text := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return "", refuse(problem.Unavailable, "", err)
	case len(b) > maxSecret || strings.ContainsAny(text, "\r\n\x00"):
		return "", refuse(problem.Invalid, "write the secret alone, on one line", errors.New("it is not one line"))
	case text == "":
		return "", refuse(problem.Invalid, "write the secret alone, on one line", errors.New("it is empty"))
	}
	return text, nil
}
