package watch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func readInt(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	return n
}

// row is an operation and the exact stream it makes when it is done before the
// queue is read: the case with the most merging.
type row struct {
	name   string
	before string // shell, before the watch
	do     func(t *testing.T, d string)
	fan    string  // the stream of fanotify
	btrfs  string  // of fanotify on btrfs, if it differs: a snapshot is made full with one event, so a new directory may be full
	in     string  // of inotify, if it differs
	on     []int64 // the filesystems that have it; nil: all
}

// hasIt reports whether a filesystem has what the row is about, on the oldest kernel that we run on too.
func (r row) hasIt(fs int64) bool { return r.on == nil || slices.Contains(r.on, fs) }

// sh makes an operation of a shell script, run as another process.
func sh(script string) func(*testing.T, string) {
	return func(t *testing.T, d string) { t.Helper(); shell(t, d, script) }
}

// rows is the table of the kernel's event semantics, each line as we report it.
func rows() []row {
	return []row{
		{name: "create write close", do: sh("echo x > f"), fan: "dirty f"},
		{name: "many writes", do: sh("for i in 1 2 3 4 5 6 7 8 9; do echo $i; done > f"), fan: "dirty f"},
		{name: "open for writing only", before: "echo x > f", do: sh(": >> f"), fan: "dirty f"},
		{name: "truncate without close", before: "echo x > f", fan: "dirty f",
			do: func(t *testing.T, d string) { must(t, unix.Truncate(d+"/f", 0)) }},
		{name: "chmod", before: "echo x > f", do: sh("chmod 600 f"), fan: "dirty f"},
		{name: "utimes", before: "echo x > f", do: sh("touch -d 2001-01-01 f"), fan: "dirty f"},
		{name: "chown", before: "echo x > f", do: sh("chown 0:0 f"), fan: "dirty f"},
		{name: "setxattr", before: "echo x > f", fan: "dirty f", on: disks(),
			do: func(t *testing.T, d string) { must(t, unix.Setxattr(d+"/f", "user.k", []byte("v"), 0)) }},
		{name: "removexattr", before: "echo x > f; setfattr -n user.k -v v f", fan: "dirty f", on: disks(),
			do: func(t *testing.T, d string) { must(t, unix.Removexattr(d+"/f", "user.k")) }},
		{name: "fallocate", before: "echo x > f", fan: "dirty f", do: onFile(func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 65536) })},
		{name: "hole punched", before: "head -c 65536 /dev/zero > f", fan: "dirty f",
			do: onFile(func(f *os.File) error {
				return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 4096)
			})},
		{name: "copied inside the kernel", before: "echo x > f; echo y > ../out/g", fan: "dirty f", do: fromOut(func(f, g *os.File) error {
			_, err := unix.CopyFileRange(int(g.Fd()), nil, int(f.Fd()), nil, 2, 0)
			return err
		})},
		{name: "cloned", before: "head -c 65536 /dev/zero > f; head -c 65536 /dev/urandom > ../out/g", fan: "dirty f", on: disks()[1:],
			do: fromOut(func(f, g *os.File) error { return unix.IoctlFileClone(int(f.Fd()), int(g.Fd())) })},
		{name: "past the cache", before: "head -c 8192 /dev/zero > f", do: sh("head -c 4096 /dev/urandom > ../out/b; dd if=../out/b of=f bs=4096 count=1 conv=notrunc oflag=direct 2>/dev/null"), fan: "dirty f", on: disks()},
		{name: "chmod directory", before: "mkdir d", do: sh("chmod 700 d"), fan: "dirty d/"},
		{name: "chmod root", do: sh("chmod 711 ."), fan: "dirty ./"},
		{name: "symlink", do: sh("ln -s nowhere l"), fan: "dirty l"},
		{name: "fifo", do: sh("mkfifo p"), fan: "dirty p"},
		{name: "link", before: "echo x > f", do: sh("ln f g"), fan: "dirty g"},
		{name: "unlink", before: "echo x > f", do: sh("rm f"), fan: "removed f"},
		{name: "create and unlink", fan: "removed f", in: "dirty f; removed f",
			do: func(t *testing.T, d string) { write(t, d+"/f", "x"); must(t, os.Remove(d+"/f")) }},
		{name: "unlink while open", before: "echo x > f", do: sh("exec 3>>f; rm f; echo y >&3; exec 3>&-"), fan: "removed f"},
		{name: "mkdir -p", do: sh("mkdir -p a/b/c"), fan: "dirty a/; dirty a/b/; dirty a/b/c/", btrfs: "dirty a/**; dirty a/b/**; dirty a/b/c/**", in: "dirty a/**"},
		{name: "rmdir", before: "mkdir d", do: sh("rmdir d"), fan: "removed d/"},
		{name: "rm -r", before: "mkdir d; echo x > d/f", do: sh("rm -r d"), fan: "removed d/", in: "dirty d/f; removed d/"},
		{name: "rename", before: "echo x > f", do: sh("mv f g"), fan: "renamed f -> g"},
		{name: "rename over", before: "echo x > f; echo y > g", do: sh("mv f g"), fan: "renamed f -> g"},
		{name: "write aside and rename", before: "echo x > f", do: sh("echo y > .f; mv .f f"), fan: "dirty .f; renamed .f -> f"},
		{name: "rename directory", before: "mkdir -p d/e; echo x > d/e/f", fan: "renamed d -> c/; dirty c/e/f",
			do: sh("mv d c; echo y >> c/e/f")},
		{name: "write then rename directory", before: "mkdir -p d/e; echo x > d/e/f", do: sh("echo y >> d/e/f; mv d c"),
			// The directory was not known before the event was read: see moveDir.
			fan: "dirty c/e/f; renamed d -> c/; dirty c/**", in: "dirty d/e/f; renamed d -> c/"},
		{name: "exchange files", before: "echo x > f; echo y > g", fan: "renamed f -> g; dirty f; dirty g", in: "renamed f -> g; renamed g -> f; dirty f; dirty g",
			do: func(t *testing.T, d string) { exchange(t, d+"/f", d+"/g") }},
		{name: "moved in", before: "echo x > ../out/f; mkdir -p ../out/d/e", do: sh("mv ../out/f f; mv ../out/d d"),
			fan: "dirty f; dirty d/**"},
		{name: "moved out", before: "echo x > f; mkdir -p d/e", do: sh("mv f ../out/; mv d ../out/"), fan: "removed f; removed d/"},
		{name: "from ignored", before: "echo x > f.tmp; mkdir -p d.tmp/e", do: sh("mv f.tmp f; mv d.tmp d"), fan: "dirty f; dirty d/**"},
		{name: "to ignored", before: "echo x > f; mkdir -p d/e", do: sh("mv f f.tmp; mv d d.tmp"), fan: "removed f; removed d/"},
		{name: "inside ignored", before: "mkdir -p d.tmp .revolve/trash", fan: "",
			do: sh("echo x > d.tmp/f; echo x > .revolve/trash/f; mkdir .revolve/s; echo x > g.tmp; rm g.tmp")},
		{name: "own directory only in the root", before: "mkdir d", do: sh("mkdir d/.revolve"), fan: "dirty d/.revolve/", btrfs: "dirty d/.revolve/**", in: "dirty d/.revolve/**"},
		{name: "there and back and there", before: "echo x > f", do: renames("f", "g", "f", "g"),
			// The third rename is merged into the first: only looking tells.
			fan: "renamed f -> g; renamed g -> f; dirty f; dirty g",
			in:  "renamed f -> g; renamed g -> f; dirty g; dirty f; renamed f -> g; dirty f; dirty g"},
		{name: "hard link gone and back", before: "echo x > f; ln f g", fan: "dirty g", in: "removed g; dirty g",
			do: func(t *testing.T, d string) { must(t, os.Remove(d+"/g")); must(t, os.Link(d+"/f", d+"/g")) }},
		{name: "tmpfile", do: tmpfile, fan: "dirty f", in: "dirty f"},
		{name: "name like a tmpfile", before: "echo x > '#123'", do: sh("echo y >> '#123'"), fan: "dirty #123"},
		{name: "odd names", do: sh("echo x > 'a\nb'; echo x > \"$(printf '\\377')\""), fan: "dirty a\nb; dirty \xff"},
	}
}

// onFile does something to the file f, which is open for writing.
func onFile(do func(f *os.File) error) func(*testing.T, string) {
	return func(t *testing.T, d string) {
		t.Helper()
		f, err := os.OpenFile(d+"/f", os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		must(t, do(f))
	}
}

// fromOut does that with g, a file outside of the volume.
func fromOut(do func(f, g *os.File) error) func(*testing.T, string) {
	return func(t *testing.T, d string) {
		t.Helper()
		g, err := os.Open(d + "/../out/g")
		must(t, err)
		defer g.Close()
		onFile(func(f *os.File) error { return do(f, g) })(t, d)
	}
}

// disks are the filesystems on disks; the first cannot share blocks.
func disks() []int64 {
	return []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC}
}

func renames(names ...string) func(*testing.T, string) {
	return func(t *testing.T, d string) {
		for i := range names[1:] {
			must(t, os.Rename(filepath.Join(d, names[i]), filepath.Join(d, names[i+1])))
		}
	}
}

func exchange(t *testing.T, a, b string) {
	t.Helper()
	must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
}

func tmpfile(t *testing.T, d string) {
	fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	must(t, err)
	_, err = unix.Write(fd, []byte("x"))
	must(t, err)
	must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, d+"/f", unix.AT_SYMLINK_FOLLOW))
	must(t, unix.Close(fd))
}

// sortedTail puts the second looks at the end of a pass, which come in any order
// and maybe after a first one, into one.
func sortedTail(events []Event) []Event {
	i := len(events)
	for i > 0 && events[i-1].Kind == Dirty {
		i--
	}
	tail := events[i:]
	if i == 0 || events[i-1].Kind != Renamed || len(tail) < 2 {
		return events
	}
	slices.SortFunc(tail, func(a, b Event) int { return strings.Compare(a.Path, b.Path) })
	return events[:i+len(slices.Compact(tail))]
}

func ignoreTmp(rel string) bool { return strings.HasSuffix(rel, ".tmp") }

// conformance runs everything that a backend has to do on one filesystem.
func conformance(t *testing.T, base string) {
	var fs unix.Statfs_t
	must(t, unix.Statfs(base, &fs))
	for _, b := range backends(t, base) {
		t.Run(string(b), func(t *testing.T) {
			for i, r := range rows() {
				if !r.hasIt(int64(fs.Type)) {
					continue
				}
				t.Run(r.name, func(t *testing.T) {
					d := newVolume(t, base, fmt.Sprintf("row-%s-%d", b, i))
					shell(t, d, r.before)
					rec := watching(t, Options{Root: d, Backend: b, KeepOwn: true, Ignore: ignoreTmp})
					r.do(t, d)
					want := r.fan
					if b == Inotify && r.in != "" {
						want = r.in
					}
					if b == Fanotify && r.btrfs != "" && fs.Type == unix.BTRFS_SUPER_MAGIC {
						want = r.btrfs
					}
					if got := lines(sortedTail(rec.start(nil).drained())); got != want {
						t.Errorf("got  %q\nwant %q", got, want)
					}
				})
			}
			t.Run("storm", func(t *testing.T) { storms(t, base, b) })
			t.Run("blind", func(t *testing.T) { blindSpots(t, newVolume(t, base, "blind-"+string(b)), b) })
		})
	}
}

// newVolume makes <base>/<name>/vol and, beside it, out.
func newVolume(t *testing.T, base, name string) string {
	t.Helper()
	top := filepath.Join(base, name)
	must(t, os.MkdirAll(filepath.Join(top, "out"), 0o755))
	must(t, os.Mkdir(filepath.Join(top, "vol"), 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(top)) })
	return filepath.Join(top, "vol")
}

func TestConformance(t *testing.T) { conformance(t, t.TempDir()) }
