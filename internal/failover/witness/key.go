package witness

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Key is what the nodes and their witness share, and nobody else. It opens
// nothing else of the cluster.
type Key [32]byte

const (
	maxKeys    = 4       // one in use, one that comes, and as many of a second cluster
	maxKeyFile = 4 << 10 // bytes; four keys with a comment each are 300
)

const keyComment = "# Shared by the nodes of a cluster and their witness (revolve witness --help). Keep it secret.\n"

// MakeKey writes a new key into a file that does not exist yet, for its owner only.
func MakeKey(path string) error {
	var k Key
	if _, err := rand.Read(k[:]); err != nil {
		return &problem.Problem{Op: "make a witness's key", Kind: problem.Internal, Err: err}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return &problem.Problem{Op: "make a witness's key", Kind: problem.Conflict, Subject: path, Err: errors.New("the file is there already"),
			Hint: "use it, or name another file"}
	case err != nil:
		return &problem.Problem{Op: "make a witness's key", Kind: kindOf(err), Subject: path, Err: cause(err)}
	}
	_, err = io.WriteString(f, keyComment+base64.StdEncoding.EncodeToString(k[:])+"\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return &problem.Problem{Op: "make a witness's key", Kind: problem.Unavailable, Subject: path, Err: errors.Join(err, os.Remove(path))}
	}
	return nil
}

// ReadKeys reads a key file: one key in base64 a line. The first one is what a
// node seals with; every one is accepted.
func ReadKeys(path string) ([]Key, error) {
	fail := func(kind problem.Kind, err error, hint string) ([]Key, error) {
		return nil, &problem.Problem{Op: "read a witness's key", Kind: kind, Subject: path, Err: err, Hint: hint}
	}
	f, err := os.Open(path)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "make it once with `revolve witness --make-key --key-file " + path + "`, and copy it to every node and to the witness"
		}
		return fail(kindOf(err), cause(err), hint)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return fail(problem.Unavailable, err, "")
	case !info.Mode().IsRegular():
		return fail(problem.Invalid, errors.New("not a file"), "")
	case info.Mode().Perm()&0o007 != 0:
		return fail(problem.Permission, fmt.Errorf("everybody on this machine may use it (mode %04o)", info.Mode().Perm()), "chmod 600 "+path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return fail(problem.Unavailable, err, "")
	}
	defer clear(b)
	keys, err := parseKeys(b)
	if err != nil {
		return fail(problem.Invalid, err, "copy it anew from the witness or from another node")
	}
	return keys, nil
}

// parseKeys never puts a part of a key into its error.
func parseKeys(b []byte) (keys []Key, err error) {
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("longer than %d bytes", maxKeyFile)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != len(Key{}) {
			return nil, fmt.Errorf("line %d is not a key: 32 bytes in base64 are wanted", n)
		}
		if keys = append(keys, Key(raw)); len(keys) > maxKeys {
			return nil, fmt.Errorf("more than %d keys", maxKeys)
		}
	}
	switch {
	case lines.Err() != nil:
		return nil, errors.New("a line is too long")
	case len(keys) == 0:
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

// cause is err without the path, which the problem names already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func kindOf(err error) problem.Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return problem.NotFound
	case errors.Is(err, fs.ErrPermission):
		return problem.Permission
	}
	return problem.Unavailable
}
