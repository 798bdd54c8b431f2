package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// ioctlShutdown is EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, _IOR('X', 125, __u32);
// noLogFlush is EXT4_GOING_FLAGS_NOLOGFLUSH and XFS_FSOP_GOING_FLAGS_NOLOGFLUSH
// (fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h): stop as if the power had gone.
const (
	ioctlShutdown = 0x8004587d
	noLogFlush    = 2
)

// Bounds: free loop devices are taken by others between asking and using; an
// unmount waits for the last reference of killed processes.
const (
	loopTries   = 20
	unmountWait = 10 * time.Second
	unmountPoll = 5 * time.Millisecond
)

// disk is what a node keeps its files on: a loop device over an unnamed file, or
// a tmpfs, which keeps everything over a power cut.
type disk struct {
	fs    string
	root  string // mount point on the stage
	size  int64
	loop  *os.File // held open so that autoclear comes when we end, not at unmount; nil for tmpfs
	dev   string
	there bool // mounted
}

// newDisk makes a disk as the spec wants it. The string says why it is less than
// a real filesystem, "" if it is one.
func (s *Stage) newDisk(spec NodeSpec) (*disk, string, error) {
	d := &disk{fs: spec.Disk.FS, root: filepath.Join(s.Dir, string(spec.ID)), size: spec.Disk.Size}
	if d.size == 0 {
		d.size = DefaultDiskSize
	}
	if err := os.MkdirAll(d.root, 0o755); err != nil {
		return nil, "", &problem.Problem{Op: "make directory", Subject: d.root, Kind: problem.Internal, Err: err}
	}
	if d.fs == "tmpfs" {
		return d, "disks are in memory: a power cut loses no unsynced data", nil
	}
	if s.Mapped {
		d.fs = "tmpfs"
		return d, "no root: disks are in memory, a power cut loses no unsynced data", nil
	}
	mkfs, fs := findMkfs(d.fs)
	if mkfs == "" {
		d.fs = "tmpfs"
		return d, "no mkfs.ext4, mkfs.xfs or mkfs.btrfs: disks are in memory, a power cut loses no unsynced data", nil
	}
	d.fs = fs
	if err := d.attach(s); err != nil {
		d.fs = "tmpfs"
		return d, fmt.Sprintf("no loop device (%v): disks are in memory, a power cut loses no unsynced data", err), nil
	}
	if err := d.format(mkfs); err != nil {
		d.loop.Close()
		return nil, "", err
	}
	return d, "", nil
}

// findMkfs finds the tool for fs, or for the first filesystem that has one.
func findMkfs(fs string) (tool, found string) {
	for _, try := range []string{"ext4", "xfs", "btrfs"} {
		if fs != "" && fs != try {
			continue
		}
		for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
			if p := filepath.Join(dir, "mkfs."+try); unix.Access(p, unix.X_OK) == nil {
				return p, try
			}
		}
		if p, err := exec.LookPath("mkfs." + try); err == nil {
			return p, try // where it is not in the usual places, as on NixOS
		}
	}
	return "", ""
}

// attach binds a free loop device to a file without a name, so that neither the
// file nor the device can be left behind (loop(4): LO_FLAGS_AUTOCLEAR).
func (d *disk) attach(s *Stage) error {
	back, err := backingFile(s.disks)
	if err != nil {
		return err
	}
	defer back.Close()
	if err := back.Truncate(d.size); err != nil {
		return err
	}
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer ctl.Close()
	for range loopTries {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return err
		}
		dev := "/dev/loop" + strconv.Itoa(n)
		loop, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		cfg := unix.LoopConfig{Fd: uint32(back.Fd())}
		cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &cfg)
		if err == nil {
			d.loop, d.dev = loop, dev
			return nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return errors.New("every free one was taken by somebody else")
}

// backingFile makes a file without a name in dir; where O_TMPFILE is not
// supported (open(2)) one whose name is removed at once.
func backingFile(dir *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "disk"), nil
	}
	const name = "disk"
	fd, err = unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "disk"), nil
}

func (d *disk) format(mkfs string) error {
	argv := []string{"-q", d.dev}
	if d.fs == "ext4" {
		// Nothing has to be zeroed or discarded on a fresh sparse file.
		argv = []string{"-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", d.dev}
	}
	if out, err := exec.Command(mkfs, argv...).CombinedOutput(); err != nil {
		return &problem.Problem{Op: "make a filesystem with " + mkfs, Subject: d.dev, Kind: problem.Unavailable,
			Err: fmt.Errorf("%w: %s", err, out)}
	}
	return nil
}

// mount brings the disk up; after a power cut the filesystem replays its journal here.
func (d *disk) mount() error {
	if d.there {
		return nil
	}
	var err error
	switch d.fs {
	case "tmpfs":
		err = unix.Mount("revolve-disk", d.root, "tmpfs", unix.MS_NODEV, fmt.Sprintf("mode=0755,size=%d", d.size))
	case "ext4":
		err = unix.Mount(d.dev, d.root, "ext4", unix.MS_NODEV, "noinit_itable")
	default:
		err = unix.Mount(d.dev, d.root, d.fs, unix.MS_NODEV, "")
	}
	if err != nil {
		return &problem.Problem{Op: "mount " + d.fs, Subject: d.root, Kind: problem.Unavailable, Err: err}
	}
	d.there = true
	return nil
}

// cutPower stops the filesystem without writing its log. False: this filesystem
// cannot, and keeps everything.
func (d *disk) cutPower() (bool, error) {
	if d.fs == "tmpfs" || d.fs == "btrfs" || !d.there {
		return false, nil
	}
	dir, err := os.Open(d.root)
	if err != nil {
		return false, &problem.Problem{Op: "open", Subject: d.root, Kind: problem.Internal, Err: err}
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), ioctlShutdown, noLogFlush); err != nil {
		return false, &problem.Problem{Op: "shut down filesystem", Subject: d.root, Kind: problem.Unavailable, Err: err}
	}
	return true, nil
}

// unmount takes the disk away and waits until the kernel let go of it, which it
// does only when nobody has a file, a directory or a mount of it left.
func (d *disk) unmount() error {
	if !d.there || d.fs == "tmpfs" {
		return nil
	}
	deadline := time.Now().Add(unmountWait)
	for {
		err := unix.Unmount(d.root, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return &problem.Problem{Op: "unmount", Subject: d.root, Kind: problem.Conflict, Err: err,
				Hint: "close every shell and program that looks into " + d.root}
		}
		time.Sleep(unmountPoll)
	}
	d.there = false
	for {
		// A block device opens exclusively only when no filesystem holds it (open(2), O_EXCL).
		fd, err := unix.Open(d.dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
			return nil
		}
		if time.Now().After(deadline) {
			return &problem.Problem{Op: "release disk", Subject: d.root, Kind: problem.Conflict, Err: err,
				Hint: "close every shell and program that looks into " + d.root}
		}
		time.Sleep(unmountPoll)
	}
}

// remove takes the disk away for good. Nobody will read it again, so what is
// still in memory is not written first.
func (d *disk) remove() error {
	if _, err := d.cutPower(); err != nil {
		return err
	}
	if d.fs == "tmpfs" && d.there {
		_ = unix.Unmount(d.root, unix.MNT_DETACH)
		d.there = false
	}
	err := d.unmount()
	if d.loop != nil {
		d.loop.Close()
	}
	return err
}
