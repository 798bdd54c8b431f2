package config

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"revolve/internal/problem"
)

// Load reads and checks the file at path. The error is a *Problems if the file
// was read and is wrong, else a problem.Problem (NotFound, Permission, Invalid for a directory, Unavailable).
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	// One byte more than the limit, so that Parse sees that there is too much.
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	return Parse(path, data)
}

func unreadable(path string, err error) error {
	p := &problem.Problem{Op: "read configuration", Kind: problem.Unavailable, Subject: path, Err: err}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		p.Err = pathError.Err // the path is the subject already
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Kind, p.Hint = problem.NotFound, "name the cluster's configuration file with --config"
	case errors.Is(err, syscall.EISDIR):
		p.Kind, p.Hint = problem.Invalid, "name the file itself, not its directory"
	case errors.Is(err, fs.ErrPermission):
		p.Kind, p.Hint = problem.Permission, "make the file readable for this user, or run as one who may read it"
	}
	return p
}

// Parse checks data; name stands for the file in what it reports. The error is a
// *Problems with everything that is wrong.
func Parse(name string, data []byte) (*Config, error) {
	r, doc := newReader(name), &document{}
	if !r.read(data, doc) {
		return nil, newProblems(name, r.mistakes)
	}
	c := &checker{reader: r, doc: doc}
	cfg := c.build()
	if len(r.mistakes) > 0 {
		return nil, newProblems(name, r.mistakes)
	}
	for _, w := range newProblems(name, c.warnings).Mistakes {
		cfg.Warnings = append(cfg.Warnings, w.String())
	}
	return cfg, nil
}
