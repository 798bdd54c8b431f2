package web

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// door knows by which addresses orders may be asked for.
type door struct {
	vips   []netip.Addr     // they move: a tunnel to one of them ends at another node then, and a cookie with it
	listen []netip.AddrPort // of the configuration
}

// near reports whether what is said in this request stays on this machine, or came over TLS to a proxy on it.
// Both ends have the same address then. What has another machine's never comes in under one's own: IPv4 drops such packets
// (ip-sysctl: martians); IPv6 takes them in, but answers itself, so that no connection comes about.
func (d *door) near(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	here, err := netip.ParseAddrPort(local.String())
	there, err2 := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || err2 != nil {
		return false
	}
	a, b := here.Addr().Unmap().WithZone(""), there.Addr().Unmap().WithZone("")
	if a != b && !(a.IsLoopback() && b.IsLoopback()) || d.moves(a) {
		return false
	}
	return !isProxied(r) || overTLS(r)
}

func (d *door) moves(a netip.Addr) bool { return slices.Contains(d.vips, a) }

// isProxied reports whether a proxy has passed a request on. Proxies say so in many words, and an empty one counts, too.
func isProxied(r *http.Request) bool {
	for name := range r.Header { // in its canonical form
		if name == "Forwarded" || name == "Via" || strings.HasPrefix(name, "X-Forwarded") || strings.HasSuffix(name, "-Ip") { // X-Real-Ip, X-Client-Ip, ...
			return true
		}
	}
	return false
}

// overTLS is what a proxy on this machine says of its client; what was said twice was said by two.
func overTLS(r *http.Request) bool {
	said := r.Header["X-Forwarded-Proto"]
	return len(said) == 1 && said[0] == "https"
}

// whereToAsk is the address that was asked, as a tunnel to this node names it, or another one that does not move;
// "" if the page is served at none.
func (d *door) whereToAsk(r *http.Request) string {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if at, err := netip.ParseAddrPort(local.String()); err == nil && !d.moves(at.Addr().Unmap()) {
			return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()
		}
	}
	for _, l := range d.listen {
		switch a := l.Addr().Unmap(); {
		case a.IsLoopback():
			return l.String()
		case a.IsUnspecified():
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), l.Port()).String()
		}
	}
	return ""
}
