package block

import (
	"encoding/hex"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Stamp is the identity of a file whose bytes are not to change: two equal
// stamps, taken at different times, are of the same file with the same bytes.
// What writes to it, replaces it or restores it under its name changes the stamp;
// so does a rename, harmlessly.
type Stamp struct {
	FS         string `json:"fs"` // the filesystem's UUID
	Inode      uint64 `json:"inode"`
	Generation uint32 `json:"generation"` // inode numbers are given again; this tells them apart
	Size       int64  `json:"size"`
	CTime      int64  `json:"ctime"` // nanoseconds
}

// StampOf takes the stamp of an open file.
func StampOf(f *os.File) (Stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Stamp{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	s := Stamp{FS: fsUUID(f, st.Dev), Inode: st.Ino, Size: st.Size, CTime: st.Ctim.Nano()}
	if g, err := unix.IoctlGetInt(int(f.Fd()), ioctlGeneration); err == nil {
		s.Generation = uint32(g)
	}
	return s, nil
}

// Ways to a filesystem's UUID (include/uapi/linux/fs.h, since Linux 6.9; fs/xfs/libxfs/xfs_fs.h), and to an inode's generation.
const (
	ioctlGeneration = 0x80087601 // FS_IOC_GETVERSION
	ioctlFSUUID     = 0x80111500 // FS_IOC_GETFSUUID: a length, 16 bytes
	ioctlXFSGeom    = 0x80705864 // XFS_IOC_FSGEOMETRY_V1: 112 bytes
	geomUUID        = 64         // where it is there
	uuidLength      = 16
)

// fsUUID names the filesystem that a file is on. Where none of the ways exists it
// is the device's number, which another boot may change: then a stamp does not
// match, and the file is read where it need not have been.
func fsUUID(f *os.File, dev uint64) string {
	var id [1 + uuidLength]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlFSUUID, uintptr(unsafe.Pointer(&id[0]))); errno == 0 && id[0] == uuidLength {
		return hex.EncodeToString(id[1:])
	}
	var geom [112]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlXFSGeom, uintptr(unsafe.Pointer(&geom[0]))); errno == 0 {
		return hex.EncodeToString(geom[geomUUID : geomUUID+uuidLength])
	}
	return "device " + strconv.FormatUint(dev, 16)
}
