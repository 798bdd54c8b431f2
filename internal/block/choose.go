package block

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Tracker is a way to know what changed in a file.
type Tracker string

// The ways, best first.
const (
	Maps   Tracker = "extents" // clones are kept and their extent maps compared: nothing unchanged is read
	Hashes Tracker = "hashes"  // a table of hashes is kept: the file is read once, its copy never
)

// Choice is the tracker that a directory's filesystem allows, and why.
type Choice struct {
	Tracker Tracker `json:"tracker"`
	Why     string  `json:"why"`
}

// Choose tries what the filesystem of a directory can do, in files without
// names. An error says that nothing could be tried there.
func Choose(dir string) (Choice, error) {
	err := SelfTest(dir)
	switch {
	case err == nil:
		return Choice{Maps, "the filesystem shares blocks, and a trial found every change by its extent maps"}, nil
	case errors.Is(err, ErrUnsupported):
		return Choice{Hashes, "the filesystem shares no blocks between files"}, nil
	case problem.KindOf(err) == problem.Corrupt:
		return Choice{Hashes, err.Error()}, nil
	}
	return Choice{}, err
}

const (
	trialBlock  = 4096
	trialBlocks = 64
)

// SelfTest clones a file of random bytes, changes it, and compares what Changed
// tells with the bytes. nil: extent maps can be relied on in this directory.
// ErrUnsupported: there is nothing to rely on. problem.Corrupt: they miss
// changes, or tell everything as changed, and must not be used.
func SelfTest(dir string) error {
	f, err := unnamed(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	if err := fill(f, rng, 0, trialBlocks); err != nil {
		return err
	}
	was, err := cloneIn(dir, f)
	if err != nil {
		return err
	}
	defer was.Close()
	// One block, two neighbours, a few bytes, a hole, what is behind the end.
	err = errors.Join(fill(f, rng, 3, 1), fill(f, rng, 17, 2), Punch(f, Range{At: 30 * trialBlock, Length: 3 * trialBlock}), fill(f, rng, trialBlocks, 2))
	if err == nil {
		_, err = f.WriteAt([]byte("some bytes"), 40*trialBlock+100)
	}
	if err != nil {
		return trialProblem(dir, err)
	}
	now, err := cloneIn(dir, f)
	if err != nil {
		return err
	}
	defer now.Close()
	size := int64((trialBlocks + 2) * trialBlock)
	changed, err := Changed(was, now, size)
	if err != nil {
		return err
	}
	return judge(dir, was, now, size, changed)
}

// judge compares what was told with the bytes.
func judge(dir string, was, now *os.File, size int64, changed []Range) error {
	old, new := make([]byte, size), make([]byte, size)
	_, _ = was.ReadAt(old, 0) // it is shorter
	if _, err := now.ReadAt(new, 0); err != nil {
		return trialProblem(dir, err)
	}
	spared := 0
	for at := int64(0); at < size; at += trialBlock {
		told := slices.ContainsFunc(changed, func(r Range) bool { return r.At <= at && r.End() >= at+trialBlock })
		if !told && !bytes.Equal(old[at:at+trialBlock], new[at:at+trialBlock]) {
			return &problem.Problem{Op: "try extent maps in", Kind: problem.Corrupt, Subject: dir, Err: fmt.Errorf("a change at byte %d was not told", at)}
		}
		if !told {
			spared++
		}
	}
	if spared < trialBlocks/2 {
		return &problem.Problem{Op: "try extent maps in", Kind: problem.Corrupt, Subject: dir,
			Err: fmt.Errorf("of %d blocks that did not change, %d were told as such (compressed?)", trialBlocks-8, spared)}
	}
	return nil
}

func fill(f *os.File, rng *rand.Rand, block, blocks int) error {
	b := make([]byte, blocks*trialBlock)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	_, err := f.WriteAt(b, int64(block)*trialBlock)
	if err != nil {
		return trialProblem(f.Name(), err)
	}
	return nil
}

func trialProblem(dir string, err error) error {
	return &problem.Problem{Op: "try extent maps in", Kind: problem.Unavailable, Subject: dir, Err: err}
}

// unnamed makes a file without a name (open(2), O_TMPFILE): it ends with its descriptor.
func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, ErrUnsupported
	}
	if err != nil {
		return nil, trialProblem(dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func cloneIn(dir string, f *os.File) (*os.File, error) {
	c, err := unnamed(dir)
	if err != nil {
		return nil, err
	}
	if err := Clone(c, f); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
