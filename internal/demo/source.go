package demo

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// The tree that is made when there is no Go installation to copy.
const (
	madeDirs  = 150
	madeFiles = 20 // in each
	madeMost  = 24 << 10
)

// askGoFor bounds `go env GOROOT`; it answers in milliseconds.
const askGoFor = 10 * time.Second

// findTree says which tree to copy: the given one, or the sources of the Go
// installation, or "" when there is none and one must be made.
func findTree(ctx context.Context, given string) (string, error) {
	if given != "" {
		st, err := os.Stat(given)
		if err == nil && !st.IsDir() {
			err = fmt.Errorf("not a directory")
		}
		if err != nil {
			return "", &problem.Problem{Op: "find the tree", Subject: given, Kind: problem.NotFound, Err: err,
				Hint: "name an existing directory with --tree"}
		}
		return filepath.Abs(given)
	}
	roots := []string{os.Getenv("GOROOT")}
	ctx, cancel := context.WithTimeout(ctx, askGoFor)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "env", "GOROOT")
	cmd.Dir = "/" // a go.mod may ask for another toolchain
	if out, err := cmd.Output(); err == nil {
		roots = append(roots, strings.TrimSpace(string(out)))
	}
	roots = append(roots, "/usr/local/go")
	for _, r := range roots {
		src := filepath.Join(r, "src")
		if st, err := os.Stat(src); r != "" && err == nil && st.IsDir() {
			return filepath.EvalSymlinks(src)
		}
	}
	return "", nil
}

// makeTree makes a tree of a few thousand small files.
func makeTree(ctx context.Context, to string, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 2))
	text := strings.Repeat("the quick brown fox jumps over the lazy dog\n", madeMost/44+1)
	for d := range madeDirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir := filepath.Join(to, fmt.Sprintf("part%d", d%10), fmt.Sprintf("chapter%d", d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for f := range madeFiles {
			data := fmt.Sprintf("page %d of chapter %d\n%s", f, d, text[:rnd.IntN(madeMost)])
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("page%d.txt", f)), []byte(data), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// copied is what a copy of a tree did.
type copied struct {
	files   int
	bytes   int64
	refused int // owners that could not be set: an ordinary user has one id
	skipped int // neither file, directory nor link
}

// copyTree copies a tree as `cp -a` would: kinds, permissions, owners, times.
func copyTree(ctx context.Context, from, to string) (copied, error) {
	var done copied
	type dirTime struct {
		path string
		st   unix.Stat_t
	}
	var dirs []dirTime
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(p, from))
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: p, Err: err}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			dirs = append(dirs, dirTime{target, st})
			return os.MkdirAll(target, 0o755)
		case unix.S_IFLNK:
			link, err := os.Readlink(p)
			if err != nil {
				return err
			}
			if err := os.Symlink(link, target); err != nil {
				return err
			}
		case unix.S_IFREG:
			n, err := copyFile(p, target)
			if err != nil {
				return err
			}
			done.files++
			done.bytes += n
		default:
			done.skipped++
			return nil
		}
		return done.dress(target, &st)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = done.dress(dirs[i].path, &dirs[i].st)
	}
	if err != nil {
		return done, &problem.Problem{Op: "copy tree", Subject: from, Kind: problem.Unavailable, Err: err}
	}
	return done, nil
}

func copyFile(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return n, err
}

// dress gives a copy the owner, permissions and times of the original.
func (c *copied) dress(path string, st *unix.Stat_t) error {
	if err := unix.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		c.refused++
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
			return &fs.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimens", Path: path, Err: err}
	}
	return nil
}
