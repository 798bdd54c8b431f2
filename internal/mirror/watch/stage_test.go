package watch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests below need mounts of their own. They run this binary again in a
// mount namespace (and a user namespace), so that nothing is left when it ends.

const stageEnv = "REVOLVE_WATCH_STAGE"

func TestFilesystems(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: mounting filesystems needs root")
	}
	restage(t, "root", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL})
}

func TestUserNamespace(t *testing.T) {
	restage(t, "user", &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
		Pdeathsig:   unix.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	})
}

func restage(t *testing.T, stage string, attr *syscall.SysProcAttr) {
	if os.Getenv(stageEnv) != "" {
		t.Skip("already on the stage")
	}
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestOnStage$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), stageEnv+"="+stage)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("SKIPPED PART: the kernel refuses the namespace: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "SKIPPED PART") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestOnStage") {
		t.Errorf("on the stage: %v\n%s", err, out)
	}
}

// TestOnStage is the body of the two tests above.
func TestOnStage(t *testing.T) {
	stage := os.Getenv(stageEnv)
	if stage == "" {
		t.Skip("runs as a part of TestFilesystems and TestUserNamespace")
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	if stage == "user" {
		t.Run("tmpfs", func(t *testing.T) {
			dir := mounted(t, "tmpfs", t.TempDir())
			conformance(t, dir)
			ownOnStage(t, dir)
		})
		t.Run("host filesystem", func(t *testing.T) {
			dir := t.TempDir()
			w, err := Open(Options{Root: dir})
			must(t, err)
			defer func() { _ = w.Close() }()
			if w.Backend() != Inotify {
				t.Errorf("a user namespace may not mark the host's filesystem, yet backend is %s", w.Backend())
			}
		})
		return
	}
	for _, kind := range []string{"tmpfs", "ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, t.TempDir())
			conformance(t, dir)
			if kind == "btrfs" {
				t.Run("subvolumes", func(t *testing.T) { subvolumes(t, dir) })
			}
			if kind == "ext4" || kind == "xfs" {
				t.Run("nameless", func(t *testing.T) { nameless(t, dir) })
			}
		})
	}
	t.Run("unmounted", func(t *testing.T) { unmounted(t) })
}

// mounted mounts a filesystem of the kind below dir until the test ends.
func mounted(t *testing.T, kind, dir string) string {
	t.Helper()
	at := filepath.Join(dir, "mnt")
	must(t, os.Mkdir(at, 0o755))
	if kind == "tmpfs" {
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	} else {
		mountLoop(t, kind, filepath.Join(dir, "image"), at)
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
	return at
}

func mountLoop(t *testing.T, kind, image, at string) {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skipf("SKIPPED PART: no mkfs.%s on this machine", kind)
	}
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	if out, err := exec.Command(mkfs, "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED PART: cannot mount a loop device: %v: %s", err, out)
	}
}

func ownOnStage(t *testing.T, dir string) {
	if backends(t, dir)[0] != Fanotify {
		return
	}
	r := watching(t, Options{Root: dir, Backend: Fanotify}).start(nil)
	write(t, filepath.Join(dir, "own"), "x")
	shell(t, dir, "echo x > theirs")
	if got := lines(r.drained()); got != "dirty theirs" {
		t.Errorf("in a user namespace: %s", got)
	}
}

// nameless writes to a file that was opened by handle after the caches had
// gone, as a kernel NFS server does: the event cannot carry a name.
func nameless(t *testing.T, dir string) {
	if backends(t, dir)[0] != Fanotify {
		t.Skip("SKIPPED PART: needs fanotify")
	}
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	path := filepath.Join(dir, "d", "f")
	write(t, path, "x")
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	must(t, err)
	remount(t, dir)
	r := watching(t, Options{Root: dir, Backend: Fanotify, KeepOwn: true}).start(nil)
	top, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	fd, err := unix.OpenByHandleAt(top, h, unix.O_WRONLY)
	must(t, err)
	must(t, unix.Close(top))
	_, err = unix.Write(fd, []byte("y"))
	must(t, err)
	must(t, unix.Close(fd))
	// One for the write and one for the close, if they were read one by one.
	if got := lines(r.drained()); got != "overflow" && got != "overflow; overflow" {
		t.Errorf("a write without a name: %q, want an overflow", got)
	}
	if n := r.w.Stats().Nameless; n == 0 {
		t.Error("not counted")
	}
	// Once the kernel knows the name, so do we.
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	shell(t, dir, "echo z > d/f")
	if got := lines(r.drained()); got != "dirty d/f" {
		t.Errorf("a write with a name: %q", got)
	}
}

// remount unmounts and mounts the same device again, which empties its caches.
func remount(t *testing.T, dir string) {
	t.Helper()
	out, err := exec.Command("findmnt", "-no", "SOURCE", dir).Output()
	must(t, err)
	dev := strings.TrimSpace(string(out))
	fd, err := os.Open(dev) // a loop device goes when nobody has it open
	must(t, err)
	defer func() { _ = fd.Close() }()
	must(t, unix.Unmount(dir, 0))
	if out, err := exec.Command("mount", dev, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
}

// unmounted takes the volume's filesystem away, or puts another one over it.
func unmounted(t *testing.T) {
	for _, how := range []string{"lazily unmounted", "mounted over"} {
		for _, b := range []Backend{Fanotify, Inotify} {
			t.Run(fmt.Sprint(how, " ", b), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "vol")
				must(t, os.Mkdir(dir, 0o755))
				must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
				r := watching(t, Options{Root: dir, Backend: b}).start(nil)
				must(t, r.w.CheckRoot())
				if how == "mounted over" {
					must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
				} else {
					must(t, unix.Unmount(dir, unix.MNT_DETACH))
				}
				r.until("root-lost", func(e Event) bool { return e.Kind == RootLost })
				r.close()
				for unix.Unmount(dir, 0) == nil {
				}
			})
		}
	}
}
