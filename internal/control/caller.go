package control

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// callerKey is where a request's context has its caller.
type callerKey struct{}

// Caller is the user of this machine who gave the order whose request has this
// context: as the kernel says, not as the command does. It is "" where that is not known.
func Caller(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}

// AsCaller gives a context a caller who is known otherwise than by a connection to the socket.
func AsCaller(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, callerKey{}, who)
}

// withCaller asks the kernel who is at the other end of a connection (unix(7): SO_PEERCRED).
func withCaller(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, callerName(cred.Uid, loginOf(cred.Pid)))
}

// noLogin is the login of what nobody logged in for: (uid_t)-1.
const noLogin = 1<<32 - 1

// loginOf is the user who logged in, also behind sudo(8), if the kernel keeps that (pam_loginuid(8)).
func loginOf(pid int32) uint32 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", pid))
	if err != nil {
		return noLogin
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return noLogin
	}
	return uint32(n)
}

// callerName is "root", or "alice as root".
func callerName(uid, login uint32) string {
	if login != noLogin && login != uid {
		return userName(login) + " as " + userName(uid)
	}
	return userName(uid)
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil && u.Username != "" {
		return u.Username
	}
	return "uid " + id
}
