package mirror

import "testing"

// TestStormsFound repeats what storms found, shrunk: each failed once.
func TestStormsFound(t *testing.T) {
	base := memoryDir(t)
	for _, tc := range []struct {
		name string
		seed uint64 // odd: new directories are reported as trees
		ops  []stormOp
	}{
		{"tree record: the time of the directory above", 1, []stormOp{
			{"wait", "", "", 0}, {"mkdir", "b", "", 0}, {"emit", "", "", 11}, {"wait", "", "", 0}}},
		{"comparison before a staged rename", 1, []stormOp{
			{"mkdir", "b", "", 0}, {"write", "a", "", 2}, {"wait", "", "", 0}, {"exchange", "a", "b", 0}}},
		{"tree record under a name that will be renamed", 1, []stormOp{
			{"wait", "", "", 0}, {"mkdir", "a", "", 0}, {"mkdir", "d", "", 0}, {"mkdir", "d/d", "", 0}, {"rename", "d", "a/a", 0},
			{"save", "d", "", 1}}},
		{"asked for under a name that was renamed meanwhile", 2, []stormOp{
			{"symlink", "b", "", 1}, {"emit", "", "", 11}, {"pass", "", "", 1000}, {"replace-dir", "b", "d", 0}, {"write", "a", "", 9},
			{"emit", "", "", 4}, {"rename", "a", "b/a", 0}, {"pass", "", "", 2700}, {"rename", "b", "a", 0}}},
		{"sent under the old name by the stream before", 2, []stormOp{
			{"mkdir", "d", "", 0}, {"write", "a", "", 9}, {"emit", "", "", 11}, {"wait", "", "", 0}, {"chmod", "a", "", 1}, {"rename", "a", "d/x", 0},
			{"write", "a", "", 17}, {"emit", "", "", 1}, {"wait", "", "", 0}, {"cut", "", "", 0}, {"wait", "", "", 0}}},
		{"renamed once more after a crash: files", 2, []stormOp{
			{"write", "a", "", 9}, {"emit", "", "", 11}, {"wait", "", "", 0}, {"rename", "a", "b", 0}, {"write", "a", "", 17}, {"write", "c", "", 1},
			{"emit", "", "", 11}, {"crash-in", "", "", 2}, {"wait", "", "", 0}}},
		{"renamed once more after a crash: directories", 2, []stormOp{
			{"mkdir", "a", "", 0}, {"write", "a/p", "", 9}, {"emit", "", "", 11}, {"wait", "", "", 0}, {"replace-dir", "a", "b", 0}, {"write", "a/q", "", 17},
			{"write", "c", "", 1}, {"emit", "", "", 11}, {"crash-in", "", "", 3}, {"wait", "", "", 0}}},
		{"what was asked for survives the connection", 2, []stormOp{
			{"mkdir", "a", "", 0}, {"emit", "", "", 11}, {"wait", "", "", 0}, {"write", "a/x", "", 9}, {"rename", "a/x", "b", 0},
			{"emit", "", "", 1}, {"pass", "", "", 1500}, {"cut-later", "", "", 3}, {"emit", "", "", 1}, {"pass", "", "", 1}}},
		{"the time of a directory that is renamed before it is set", 1, []stormOp{
			{"mkdir", "c", "", 0}, {"mkdir", "c/d", "", 0}, {"symlink", "b", "", 7}, {"mkdir", "a", "", 0}, {"calm", "", "", 0},
			{"rename", "b", "c/d/c", 0}, {"rename", "c", "b", 0}}},
		{"a large file below a directory that a crash let be renamed twice", 2, []stormOp{
			{"big", "d", "", 3}, {"mkdir", "b", "", 0}, {"calm", "", "", 0}, {"slow-write", "a", "", 5}, {"mkdir", "c", "", 2}, {"replace-dir", "d", "c/d", 0},
			{"crash-in", "", "", 9}, {"rename", "c", "b/a", 0}, {"slow-write", "c", "", 0}, {"settle", "", "", 0}, {"emit", "", "", 10}, {"wait", "", "", 0}}},
		{"a new directory that was renamed before the connection broke", 2, []stormOp{
			{"slow-write", "b", "", 0}, {"pass", "", "", 670}, {"mkdir", "d", "", 4}, {"rename", "d", "c", 0}, {"cut-later", "", "", 5}}},
		{"given up under a name whose directory was renamed long before its event", 2, []stormOp{
			{"mkdir", "c", "", 1}, {"mkdir", "a", "", 2}, {"mkdir", "d", "", 3}, {"mkdir", "d/b", "", 4}, {"save", "a/c", "", 5}, {"calm", "", "", 0},
			{"rename", "a/c", "d/b/c", 0}, {"emit", "", "", 10}, {"rename", "d", "c/a", 0}, {"pass", "", "", 2553}}},
		{"a name of several that a rename takes again in the same batch", 2, []stormOp{
			{"big", "d", "", 87569}, {"link", "d", "b", 0}, {"mkdir", "c", "", 692022}, {"link", "b", "c/a", 0}, {"emit", "", "", 11}, {"link", "d", "c/c", 0},
			{"emit", "", "", 4}, {"utimes", "d", "", 150171}, {"save", "d", "", 966136}, {"rename", "c/c", "d", 0}}},
		{"other names that wait for a large file keep their directories' times", 2, []stormOp{
			{"mkdir", "c", "", 0}, {"link-big", "a", "c/b", 9}, {"emit", "", "", 11}, {"wait", "", "", 0}}},
		{"large, with a second name that is renamed over", 2, []stormOp{
			{"mkdir", "c", "", 0}, {"big", "c/a", "", 117676}, {"replace-dir", "c/a", "b", 0}, {"wait", "", "", 0}, {"link", "b", "c/a/b", 0}, {"write", "b", "", 437808}}},
		{"owed below a directory whose name a file takes", 2, []stormOp{
			{"link-big", "a", "c/d/a", 786883}, {"mkdir", "c", "b", 469504}, {"exchange", "a", "c", 835239}, {"big", "a/b", "a/b", 408014},
			{"replace-dir", "a/b", "c", 617538}, {"wait", "c/a/c", "a/c/c", 325834}, {"big", "a/b/a", "c/c/a", 502465}}},
		{"on its way below a directory that was renamed before it was made", 2, []stormOp{
			{"mkdir", "a", "c/a/a", 691924}, {"mkdir", "a/d", "a/c", 303424}, {"mkdir", "a/d/d", "c/d/c", 357783}, {"rename", "a", "c", 831394},
			{"calm", "d/c/c", "b/b", 17545}, {"mkdir", "d", "d", 559973}, {"exchange", "d", "c/d", 720390}, {"replace-dir", "d/d", "c/a", 1035206},
			{"big", "d/d/d", "a/b", 436418}, {"rename", "c", "a", 1043540}}},
		{"the state of a new directory for one that is to be renamed away", 2, []stormOp{
			{"mkdir", "c", "", 49131}, {"mkdir", "a", "", 720051}, {"write", "a/b", "", 373089}, {"calm", "", "", 0}, {"remove", "a/b", "", 0},
			{"emit", "", "", 11}, {"replace-dir", "a", "c/d", 0}, {"wait", "", "", 0}}},
		{"the time of a directory that was renamed away before it was told", 2, []stormOp{
			{"mkdir", "a", "", 0}, {"mkdir", "c", "", 0}, {"write", "a/b", "", 9}, {"emit", "", "", 11}, {"calm", "", "", 0},
			{"remove", "a/b", "", 0}, {"rename", "a", "c/d", 0}, {"emit", "", "", 1}, {"wait", "", "", 0}}},
		{"the time of a directory whose name a file has taken before it was told", 2, []stormOp{
			{"mkdir", "a", "", 0}, {"mkdir", "c", "", 0}, {"write", "a/b", "", 9}, {"emit", "", "", 11}, {"calm", "", "", 0},
			{"remove", "a/b", "", 0}, {"rename", "a", "c/d", 0}, {"write", "a", "", 9}, {"emit", "", "", 1}, {"wait", "", "", 0}}},
		{"another of the same time, not told before a crash that an orderly end follows", 0, []stormOp{
			{"twin", "b", "", 64932}, {"emit", "", "", 11}, {"wait", "", "", 0}, {"twin", "b", "", 420762}, {"crash", "", "", 0}, {"leave", "", "", 0}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for mode := range drainModes {
				if diff := runStormDrained(t, base, tc.seed, tc.ops, mode); diff != "" {
					t.Errorf("drain mode %d: %s", mode, diff)
				}
			}
		})
	}
}
