package send

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOnlyEntangledNamesAreProven(t *testing.T) {
	type change struct {
		path, old string
		dir       bool
		after     time.Duration
	}
	for name, c := range map[string]struct {
		changes []change
		want    []string
	}{
		"a lonely rename of a directory":            {[]change{{path: "b", old: "a", dir: true}}, nil},
		"an editor's saves":                         {[]change{{path: "f", old: "t1"}, {path: "f", old: "t2"}, {path: "f", old: "t3"}}, nil},
		"rm -r":                                     {[]change{{path: "a/b/c"}, {path: "a/b"}, {path: "a", dir: true}}, nil},
		"a directory renamed twice":                 {[]change{{path: "b", old: "a", dir: true}, {path: "c", old: "b", dir: true}}, []string{"b"}},
		"a rename into a directory that is renamed": {[]change{{path: "d/x", old: "x"}, {path: "e", old: "d", dir: true}}, []string{"d"}},
		"the same, but long ago":                    {[]change{{path: "d/x", old: "x"}, {path: "e", old: "d", dir: true, after: time.Minute}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var p proof
			now := time.Unix(1000, 0)
			for _, c := range c.changes {
				now = now.Add(c.after)
				p.note(now, c.path, c.old, c.dir)
			}
			var got []string
			for _, job := range p.take(now) {
				got = append(got, job.path)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if again := p.take(now.Add(time.Hour)); again != nil {
				t.Errorf("again %v", again)
			}
		})
	}
}

func TestProofIsBounded(t *testing.T) {
	var p proof
	now := time.Unix(1000, 0)
	for i := range 10 * proofPaths {
		p.note(now, fmt.Sprintf("d/%d", i), "elsewhere", true)
		p.note(now, fmt.Sprintf("d/%d/x", i), "x", false)
	}
	if len(p.moves) > proofMoves+1 || len(p.due) > proofPaths+1 {
		t.Errorf("%d moves, %d due", len(p.moves), len(p.due))
	}
	if jobs := p.take(now); len(jobs) != 1 || jobs[0].path != "" {
		t.Errorf("%d comparisons, want one of the whole volume", len(jobs))
	}
}
