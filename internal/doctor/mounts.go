package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"revolve/internal/mirror/watch"
	"revolve/internal/mounts"
)

// maxDirectories bounds the directories that are counted: the kernel allows no more watches (inotify(7)).
const maxDirectories = 1 << 20

// mounted says what the volume lies on, and what lies on it.
func (e *examination) mounted(subject, path string) {
	list, err := mounts.List()
	real, err2 := filepath.EvalSymlinks(path)
	if err := errors.Join(err, err2); err != nil {
		e.add(Info, subject, "what it lies on cannot be told: "+cause(err), "", "")
		return
	}
	on, _ := mounts.Under(list, real)
	for _, m := range list {
		if m.At != real && mounts.Below(m.At, real) {
			e.add(Warning, subject, fmt.Sprintf("%s, a filesystem of its own (%s), is mounted inside", m.At, m.Kind), "not seen: what is written there; nothing of it is mirrored",
				"make it a volume of its own in the configuration, or unmount it: umount "+m.At)
		}
	}
	e.filesystem(subject, on)
	e.powerLoss(subject, on)
}

// filesystem says what is special about the kind of filesystem.
func (e *examination) filesystem(subject string, on mounts.Mount) {
	const others = "not seen: what other machines write there; only what this one writes is mirrored"
	switch {
	case on.Kind == "tmpfs" || on.Kind == "ramfs":
		e.add(Info, subject, "lies in memory ("+on.Kind+")", "a restart of this machine loses it; it comes back from the others", "")
	case slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "lustre"}, on.Kind):
		e.add(Warning, subject, "lies on a network filesystem ("+on.Kind+")", others, "put the volume on a disk of this machine")
	case on.Kind == "fuse" || strings.HasPrefix(on.Kind, "fuse.") || on.Kind == "virtiofs":
		e.add(Warning, subject, "lies on "+on.Kind, others+"; and what is written below it on the host or the disk behind", "put the volume on the filesystem behind it")
	case on.Kind == "overlay":
		e.add(Warning, subject, "lies on an overlay, as in a container", "it is gone with the container, and a mark on its filesystem is refused", "give the container a directory of the host: --volume /srv/home:/srv/home")
	case on.Kind == "btrfs" && on.Root != "/":
		e.add(Info, subject, "lies on a btrfs subvolume ("+on.Root+")", "the kernel refuses a mark there, so every directory is watched by itself", "")
	default:
		e.add(OK, subject, "lies on "+on.Kind, "", "")
	}
}

// powerLoss looks for options that break the order in which things reach the
// disk (ext4(5), xfs(5), btrfs(5)): promise P8 stands on it.
func (e *examination) powerLoss(subject string, on mounts.Mount) {
	for _, o := range on.Options {
		switch o {
		case "nobarrier", "barrier=0", "norecovery", "noload":
			e.add(Critical, subject, "is mounted with "+o, "a power cut may lose what was acknowledged, or the whole filesystem", "take "+o+" out of /etc/fstab and: mount -o remount "+on.At)
		case "data=writeback":
			e.add(Warning, subject, "is mounted with "+o, "after a power cut a file may hold old blocks of others where a program did not fsync it", "tune2fs -o journal_data_ordered, take it out of /etc/fstab, and mount it anew")
		}
	}
}

// sysctl reads a number of /proc/sys; 0 if there is none.
func sysctl(name string) int {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// fewEvents is a queue that a burst of a busy machine fills within a second (16384 is the kernel's own value).
const fewEvents = 16384

// queue says how many changes may wait for a watcher that is held up.
func (e *examination) queue(subject string, backend watch.Backend) {
	key := "fs/" + string(backend) + "/max_queued_events"
	n, name := sysctl(key), strings.ReplaceAll(key, "/", ".")
	switch {
	case n == 0:
	case n < fewEvents:
		e.add(Warning, subject, fmt.Sprintf("at most %d changes may wait to be read (%s)", n, name), "more at once are seen, but cost a comparison of the whole volume", fmt.Sprintf("sysctl -w %s=%d, and into /etc/sysctl.d/revolve.conf", name, 4*fewEvents))
	default:
		e.add(OK, subject, fmt.Sprintf("%d changes may wait to be read; more at once cost a comparison", n), "", "")
	}
}

// directories compares their number with the watches that one user may have.
func (e *examination) directories(ctx context.Context, subject, path string) {
	limit, n := sysctl("fs/inotify/max_user_watches"), 0
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil || n >= maxDirectories:
			return fs.SkipAll
		case err != nil:
			return nil // what cannot be read is told by the watcher itself
		case d.IsDir():
			n++
		}
		return nil
	})
	mend := fmt.Sprintf("sysctl -w fs.inotify.max_user_watches=%d, and into /etc/sysctl.d/revolve.conf", max(4*n, 4*limit))
	switch {
	case n > limit:
		e.add(Critical, subject, fmt.Sprintf("%d directories, and %d watches allowed", n, limit), "the volume cannot be watched", mend)
	case n > limit/2:
		e.add(Warning, subject, fmt.Sprintf("%d directories of %d watches allowed", n, limit), "when they are used up the volume cannot be watched", mend)
	default:
		e.add(OK, subject, fmt.Sprintf("%d directories of %d watches allowed", n, limit), "", "")
	}
}
