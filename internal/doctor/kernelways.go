package doctor

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file is the ways to change a file that Go has no words for.

// throughAnotherMount writes to d/f through a private second mount of the same
// directory (open_tree(2)): it has no place in any tree of mounts, and goes with its descriptor.
func throughAnotherMount(d string) error {
	mount, err := unix.OpenTree(unix.AT_FDCWD, d, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	return writeAt(mount, "f")
}

func writeAt(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("x"))
	return errors.Join(err, unix.Close(fd))
}

// throughOverlay writes through a private overlay whose upper layer is in d.
func throughOverlay(d string) (func() error, error) {
	config, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(config)
	for _, o := range [][2]string{{"lowerdir", d + "/lower"}, {"upperdir", d + "/upper"}, {"workdir", d + "/work"}} {
		if err := unix.FsconfigSetString(config, o[0], o[1]); err != nil {
			return nil, err
		}
	}
	if err := unix.FsconfigCreate(config); err != nil {
		return nil, err
	}
	mount, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return done, errors.Join(writeAt(mount, "f"), unix.Close(mount))
}

// btrfsSubvolCreate is BTRFS_IOC_SUBVOL_CREATE: _IOW(0x94, 14, struct btrfs_ioctl_vol_args) of linux/btrfs.h.
const btrfsSubvolCreate = 0x5000940e

// subvolume makes the subvolume d/s; an empty one goes with rmdir(2) (since Linux 4.18).
func subvolume(d string) error {
	dir, err := os.Open(d)
	if err != nil {
		return err
	}
	defer dir.Close()
	var args struct {
		_    int64
		name [4088]byte
	}
	copy(args.name[:], "s")
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), btrfsSubvolCreate, uintptr(unsafe.Pointer(&args))); e != 0 {
		return e
	}
	return nil
}

// iocb is struct iocb of linux/aio_abi.h.
type iocb struct {
	_      uint64 // data
	_      [2]uint32
	opcode uint16
	_      int16 // priority
	fd     uint32
	buf    uint64
	nbytes uint64
	_      int64 // offset
	_      [2]uint64
}

// aioWrite writes data at offset 0 with io_submit(2) and waits until it is done.
func aioWrite(fd int, data []byte) error {
	const pwrite = 1 // IOCB_CMD_PWRITE
	var ring uint64
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&ring)), 0); e != 0 {
		return e
	}
	defer func() { _, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, uintptr(ring), 0, 0) }()
	var pin runtime.Pinner // the kernel is told addresses as numbers
	defer pin.Unpin()
	pin.Pin(&data[0])
	cb := &iocb{opcode: pwrite, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&data[0]))), nbytes: uint64(len(data))}
	if _, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, uintptr(ring), 1, uintptr(unsafe.Pointer(&cb))); e != 0 {
		return e
	}
	var event [4]uint64 // struct io_event: data, obj, res, res2
	if _, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(ring), 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0); e != 0 {
		return e
	}
	if n := int64(event[2]); n != int64(len(data)) {
		return unix.Errno(-min(n, 0))
	}
	return nil
}
