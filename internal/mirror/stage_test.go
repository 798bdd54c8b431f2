package mirror

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/watch"
)

// The tests below need mounts of their own. They run this binary again in a
// mount namespace, so that nothing is left when it ends.

const stageEnv = "REVOLVE_MIRROR_STAGE"

// TestFilesystems runs TestOnStage.
func TestFilesystems(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: mounting filesystems needs root")
	}
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestOnStage$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), stageEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
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

// TestOnStage does what depends on the filesystem on each of them.
func TestOnStage(t *testing.T) {
	if os.Getenv(stageEnv) == "" {
		t.Skip("runs as a part of TestFilesystems")
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			at := mountOf(t, kind)
			t.Run("sweep", func(t *testing.T) { sweepOn(t, kind, at) })
			t.Run("storms", func(t *testing.T) { stormsOn(t, at) })
			if kind == "xfs" {
				t.Run("restless", func(t *testing.T) { restlessOn(t, filepath.Join(at, "restless")) })
			}
			if kind == "ext4" || kind == "xfs" {
				t.Run("foreign", func(t *testing.T) { foreignOn(t, at) })
			}
		})
	}
}

func mountOf(t *testing.T, kind string) string {
	t.Helper()
	at := t.TempDir()
	if kind == "tmpfs" {
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	} else {
		image := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, 512<<20))
		if out, err := exec.Command("mkfs."+kind, "-q", image).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED PART: tests on %s: %v %s", kind, err, out)
		}
		if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED PART: tests on %s: %v %s", kind, err, out)
		}
	}
	// A follower that died in a storm holds what it had open until this process ends.
	t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
	return at
}

// stormsOn is TestStorm on a filesystem that gives the numbers of inodes anew, and orders directories as it likes.
func stormsOn(t *testing.T, at string) {
	first, n := stormFirst(t)
	if n == stormSeeds {
		n = 4 // the disk syncs for each batch
	}
	for seed := first; seed < first+uint64(n); seed++ {
		ops := newStorm(seed, stormSteps)
		if diff := runStorm(t, at, seed, ops); diff != "" {
			t.Fatalf("seed %d: the follower differs (-source +follower):\n%s\nafter:\n%v", seed, diff, ops)
		}
	}
}

// foreignOn is TestForeignComesFirst with the kernel's own notifications, of both kinds: all that happens is within
// two seconds of the applier's own changes, which inotify does not tell from others'.
func foreignOn(t *testing.T, at string) {
	ways := comesFirst()
	ways["left alone"] = ways["changed"]
	n := 0
	for _, backend := range []watch.Backend{watch.Fanotify, watch.Inotify} {
		for name, way := range ways {
			if n++; name == "left alone" {
				way.do = func(*hand) {}
			}
			dir := filepath.Join(at, fmt.Sprint(n))
			must(t, os.Mkdir(dir, 0o755))
			t.Run(fmt.Sprintf("%s, %s", backend, name), func(t *testing.T) { foreignInKernel(t, dir, backend, way.at, way.do) })
		}
	}
}

func foreignInKernel(t *testing.T, dir string, backend watch.Backend, at string, do func(*hand)) {
	w, err := newWorld(dir, 0)
	must(t, err)
	defer func() { must(t, w.close()) }()
	w.o.watcher, err = watch.Open(watch.Options{Root: w.dir, Ignore: w.v.excluded, Backend: backend})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.o.watcher.Run(ctx, w.v.events) }()
	defer func() {
		cancel()
		must(t, <-ended)
		must(t, w.o.watcher.Close())
	}()
	w.watches = w.o.watcher.Drain
	for w.watches(ctx) != nil { // it begins to read
		must(t, ctx.Err())
		time.Sleep(time.Millisecond)
	}
	h := w.byHand(t)
	h.next(handDir("d"), handFile("d/f", "small"), handFile("d/g", "small"), handFile("e", "small"))
	h.settle()
	must(t, w.o.watcher.Drain(ctx))
	w.v.mu.Lock()
	if len(w.v.pending) > 0 {
		t.Errorf("own changes count as others': %v", w.v.pending)
	}
	w.v.mu.Unlock()
	// Not this process's: fanotify tells.
	out, err := exec.Command("sh", "-c", `rm -rf "$1" && mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"`, "sh", filepath.Join(w.dir, at), byStranger).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	do(h)
	h.settle()
	must(t, w.o.watcher.Drain(ctx))
	must(t, h.sess.betweenOnce(true)) // foreignDelay is over
	if !w.lists(t, byStranger, at, strings.ToUpper(at[:1])+at[1:]) {
		kept, err := apply.ListDivergent(w.o.root)
		t.Errorf("what was written at %s is not listed: %+v (%v)", at, kept, err)
	}
	for _, other := range []string{"d/f", "d/g", "e"} {
		if other != at && w.lists(t, "small", other) {
			t.Errorf("%s is listed, and nobody wrote it", other)
		}
	}
}
