package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/config"
	"revolve/internal/mirror/watch"
	"revolve/internal/problem"
)

const (
	// leastFree is the part of a volume's filesystem that should be free: the trash alone may take 5 %.
	leastFree = 0.10
	// trashShare is the part of it that the trash may take (promise P6).
	trashShare = 0.05
	// maxXattr is the largest value of an attribute that Linux knows (XATTR_SIZE_MAX of linux/limits.h).
	maxXattr = 64 << 10
)

// volume looks at what the mount of a volume can do, by doing it.
func (e *examination) volume(ctx context.Context, v config.Volume) {
	path, subject := e.Config.VolumePath(e.Node, v.Name), "volume "+string(v.Name)
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		what := "mount its disk, or correct the path"
		if errors.Is(err, fs.ErrNotExist) {
			what = "mkdir -p " + path + ", or mount its disk"
		}
		e.add(Critical, subject, fmt.Sprintf("%s: %v", path, err), "the volume does not work here", what)
		return
	}
	e.mounted(subject, path)
	if e.space(subject, path, &st, v.TrashQuota); st.Flags&unix.ST_RDONLY != 0 {
		return
	}
	t, err := newTrial(path)
	if err != nil {
		e.add(Warning, subject, "cannot be tried: "+cause(err), "how changes are seen there stays unknown", "run the doctor as the agent's user (sudo)")
		return
	}
	defer t.close()
	e.watched(ctx, string(v.Name), path, t.path())
	e.abilities(subject, t.path(), st.Namelen)
}

// watched makes every kind of change on the mount, and says which of them the agent's watcher tells of.
func (e *examination) watched(ctx context.Context, volume, path, dir string) {
	subject := "volume " + volume
	sights, backend, err := look(ctx, dir, "")
	switch {
	case err != nil:
		e.add(Critical, subject, "cannot be watched: "+err.Error(), "changes on this node would not be seen", problem.HintOf(err))
		return
	case backend == watch.Inotify:
		e.add(Warning, subject, "is watched directory by directory (inotify)", "more memory, and a storm of renames may cost a comparison", "run the agent as root on ext4, XFS, btrfs (its top, subvolid=5) or tmpfs")
		e.directories(ctx, subject, path)
	default:
		e.add(OK, subject, "is watched by a mark on its filesystem", "", "")
	}
	e.queue(subject, backend)
	for i := range sights {
		sights[i].Volume = volume
	}
	e.report.Sights = append(e.report.Sights, sights...)
	e.seen(subject, sights)
}

// seen puts the trials into words: one finding for what is fine, one for each consequence of what is not.
func (e *examination) seen(subject string, sights []Sight) {
	if names := of(sights, AtOnce, ""); len(names) > 0 {
		e.add(OK, subject, "seen at once: "+strings.Join(names, ", "), "", "")
	}
	told := map[string]bool{}
	for _, s := range sights {
		key := string(s.Seen) + s.covers
		if s.Seen != AtClose && s.Seen != Never || told[key] {
			continue
		}
		told[key] = true
		names := strings.Join(of(sights, s.Seen, s.covers), ", ")
		switch {
		case s.Seen == AtClose:
			e.add(Info, subject, "seen at close only: "+names, coversOpen, "")
		case s.covers == coversFlags:
			e.add(Info, subject, "not seen: "+names, s.covers, "")
		default:
			e.add(Warning, subject, "not seen: "+names, cmp.Or(s.covers, coversNot), "write such changes on another filesystem, or copy them another way")
		}
	}
	var untried []string
	for _, s := range sights {
		if s.Seen == Untried && s.What != onlyBtrfs && s.What != onlyReflink {
			untried = append(untried, s.What+" ("+s.Note+")")
		}
	}
	if len(untried) > 0 {
		e.add(Info, subject, "refused here, so not tried: "+strings.Join(untried, ", "), "what this node cannot do is left out here, and counted in status", "")
	}
}

// of are the names of what was seen so; with covers only those of that consequence.
func of(sights []Sight, seen Seen, covers string) (names []string) {
	for _, s := range sights {
		if s.Seen == seen && (seen == AtOnce || s.covers == covers) {
			names = append(names, s.What)
		}
	}
	return names
}

func (e *examination) space(subject, path string, st *unix.Statfs_t, trash config.Quota) {
	if st.Flags&unix.ST_RDONLY != 0 {
		e.add(Critical, subject, path+" is mounted read-only", "nothing can be mirrored to it", "mount -o remount,rw "+path+", after a look at dmesg")
		return
	}
	free, bytes := float64(st.Bavail)/float64(max(st.Blocks, 1)), float64(st.Bavail)*float64(st.Bsize)
	most := quotaBytes(trash, float64(st.Blocks)*float64(st.Bsize))
	quota := sizeText(most)
	switch {
	case free < leastFree || bytes < most:
		e.add(Warning, subject, fmt.Sprintf("%.0f %% are free (%s)", 100*free, sizeText(bytes)),
			fmt.Sprintf("the trash may take %s, and a large file is staged beside the old one", quota), "make space, or let the trash have less: volumes.NAME.trash in the configuration, as { age: 1d, quota: 1% }")
	case st.Files > 0 && float64(st.Ffree) < leastFree*float64(st.Files):
		e.add(Warning, subject, fmt.Sprintf("%d inodes are left", st.Ffree), "every small file needs one", "remove small files, or make the filesystem anew with more inodes")
	default:
		e.add(OK, subject, fmt.Sprintf("%.0f %% are free; the trash may take %s of it", 100*free, quota), "", "")
	}
}

// quotaBytes is how much of a filesystem of so many bytes the trash may take.
func quotaBytes(q config.Quota, all float64) float64 {
	switch {
	case q.Bytes > 0:
		return float64(q.Bytes)
	case q.Share > 0:
		return all * float64(q.Share) / 100
	}
	return all * trashShare
}

func sizeText(bytes float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; bytes >= 1024 && i < len(units)-1; i++ {
		bytes /= 1024
	}
	return fmt.Sprintf("%.1f %s", bytes, units[i])
}

// abilities tries what the mirror likes to have.
func (e *examination) abilities(subject, dir string, longest int64) {
	name := filepath.Join(dir, "Ability")
	if err := file(dir); err != nil {
		e.add(Critical, subject, "a file cannot be written: "+cause(err), "nothing can be mirrored to it", "make space, or look at dmesg")
		return
	}
	if err := os.Rename(dir+"/f", name); err != nil {
		e.add(Critical, subject, "a file cannot be renamed: "+cause(err), "files are put into place by renames", "use ext4, XFS or btrfs")
		return
	}
	if _, err := os.Lstat(filepath.Join(dir, "aBILITY")); err == nil {
		e.add(Warning, subject, "upper and lower case are the same here", "two names of another node may be one here", "use a filesystem, or a directory, without case folding")
	}
	if longest < 255 {
		e.add(Warning, subject, fmt.Sprintf("a name has at most %d bytes here", longest), "longer names of other nodes cannot be kept", "use ext4, XFS or btrfs")
	}
	e.attributes(subject, name)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err == nil {
		if err := cloneOnto(f); err != nil {
			e.add(Info, subject, "blocks cannot be shared", "files over 64 MiB do not go to the trash, and are read while they may change (XFS and btrfs share blocks)", "")
		} else {
			e.add(OK, subject, "blocks can be shared: large files go to the trash for nothing", "", "")
		}
		_ = f.Close()
	}
	if err := errors.Join(file(dir), unix.Renameat2(unix.AT_FDCWD, dir+"/f", unix.AT_FDCWD, name, unix.RENAME_EXCHANGE)); err != nil {
		e.add(Info, subject, "two names cannot be exchanged: "+cause(err), "programs that need it (installers, some editors) fail here", "")
	}
}

// attributes finds the largest value that an attribute may have.
func (e *examination) attributes(subject, name string) {
	if err := unix.Setxattr(name, "user.doctor", []byte("x"), 0); err != nil {
		e.add(Warning, subject, "extended attributes are refused: "+err.Error(), "ACLs and attributes are not kept the same on this node", "mount it with user_xattr, or use ext4, XFS or btrfs")
		return
	}
	if err := unix.Setxattr(name, "system.posix_acl_access", acl(), 0); err != nil {
		e.add(Warning, subject, "ACLs are refused: "+err.Error(), "they are not kept the same on this node", "mount -o remount,acl, or use ext4, XFS or btrfs")
	}
	largest := 0
	for _, n := range []int{maxXattr, 16 << 10, 3 << 10, 1 << 10} {
		if unix.Setxattr(name, "user.doctor", make([]byte, n), 0) == nil {
			largest = n
			break
		}
	}
	if largest < maxXattr {
		e.add(Info, subject, fmt.Sprintf("an attribute may have at least %s here, and not %s", sizeText(float64(largest)), sizeText(maxXattr)), "a larger one of another node is left out here, and counted in status", "")
	}
}
