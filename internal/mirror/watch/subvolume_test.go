package watch

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// subvolumes are the rows of btrfs that other filesystems have not: what is made,
// snapshotted and deleted with one system call, each full of files nobody was told of.
// A mark on the filesystem's top tells of all subvolumes below it.
func subvolumes(t *testing.T, base string) {
	if _, err := exec.LookPath("btrfs"); err != nil {
		t.Skip("SKIPPED PART: no btrfs on this machine")
	}
	for _, b := range backends(t, base) {
		t.Run(string(b), func(t *testing.T) {
			for i, r := range subvolumeRows() {
				t.Run(r.name, func(t *testing.T) {
					d := newVolume(t, base, "sub-"+string(b)+"-"+string(rune('a'+i)))
					shell(t, d, r.before)
					rec := watching(t, Options{Root: d, Backend: b, KeepOwn: true})
					r.do(t, d)
					want := r.fan
					if b == Inotify && r.in != "" {
						want = r.in
					}
					if got := lines(sortedTail(rec.start(nil).drained())); got != want {
						t.Errorf("got  %q\nwant %q", got, want)
					}
					// What comes below a subvolume afterwards is told, whatever it is.
					shell(t, d, "mkdir -p s; echo later > s/later")
					// Of a directory that has just been made the whole is told if the file was there before its watch.
					rec.until("dirty s/later", func(e Event) bool { return e.Path == "s/later" || e.Path == "s" && e.Tree })
				})
			}
		})
	}
	t.Run("a volume that is a subvolume", func(t *testing.T) { volumeIsSubvolume(t, base) })
}

func subvolumeRows() []row {
	const make = "btrfs -q subvolume create s; echo x > s/f"
	return []row{
		{name: "create subvolume", do: sh("btrfs -q subvolume create s"), fan: "dirty s/**"},
		{name: "write in a new subvolume", do: sh(make), fan: "dirty s/**; dirty s/f", in: "dirty s/**"},
		{name: "write in a subvolume", before: make, do: sh("echo y > s/f; mv s/f s/g"), fan: "dirty s/f; renamed s/f -> s/g", in: "dirty s/f; dirty s/g"},
		{name: "snapshot", before: make, do: sh("btrfs -q subvolume snapshot s t"), fan: "dirty t/**"},
		{name: "delete subvolume", before: make, do: sh("btrfs -q subvolume delete s"), fan: "removed s/"},
		{name: "rename subvolume", before: make, do: sh("mv s t; echo y >> t/f"), fan: "renamed s -> t/; dirty t/f"},
	}
}

// volumeIsSubvolume: the root of a volume may be a subvolume of a filesystem whose top is mounted.
func volumeIsSubvolume(t *testing.T, base string) {
	top := newVolume(t, base, "subroot")
	shell(t, top, "btrfs -q subvolume create v; mkdir v/d")
	d := filepath.Join(top, "v")
	t.Cleanup(func() { shell(t, top, "btrfs -q subvolume delete v") })
	w := watching(t, Options{Root: d, KeepOwn: true}).start(nil)
	shell(t, d, "echo x > d/f; mv d e")
	if got := lines(w.drained()); got != "dirty d/f; renamed d -> e/" {
		t.Errorf("got %q", got)
	}
	// The kernel refuses a mark on anything but the top (EXDEV): directory by directory, then.
	if got := w.w.Backend(); got != Inotify {
		t.Errorf("the backend is %s: say so in docs/mirror.md", got)
	}
}
