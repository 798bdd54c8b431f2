package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

const (
	listenForm = `^([0-9.]*|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$`
	siteForm   = `^[A-Za-z0-9]([A-Za-z0-9-]{0,62}\.?){0,8}$`

	listenHint = `write ":8480" for all addresses, or "127.0.0.1:8480", or "[fd77::200]:8480"`
)

// web reads where the status page is served; port is the cluster's own.
func (c *checker) web(port uint16) (w Web) {
	at := "web.listen"
	if c.ok(at) {
		c.count(at, "addresses of the status page", len(c.doc.Web.Listen), MaxListen)
		if len(c.doc.Web.Listen) == 0 {
			c.add(at, at+" is empty", "remove web, or "+listenHint)
		}
	}
	for i, text := range c.doc.Web.Listen {
		if at := fmt.Sprintf("web.listen[%d]", i); c.ok(at) {
			if addr, fine := c.listen(at, string(text), port, w.Listen); fine {
				w.Listen = append(w.Listen, addr)
			}
		}
	}
	if at := "web.names"; c.ok(at) {
		c.count(at, "names of the status page", len(c.doc.Web.Names), MaxSites)
	}
	for i, text := range c.doc.Web.Names {
		at := fmt.Sprintf("web.names[%d]", i)
		if !c.ok(at) {
			continue
		}
		if !regexp.MustCompile(siteForm).MatchString(string(text)) {
			c.add(at, fmt.Sprintf("%q is not a DNS name", text), "write the name alone: status.example.org")
		}
		w.Names = append(w.Names, strings.ToLower(strings.TrimSuffix(string(text), ".")))
	}
	return w
}

func (c *checker) listen(at, text string, port uint16, before []netip.AddrPort) (addr netip.AddrPort, fine bool) {
	full := text
	if strings.HasPrefix(text, ":") {
		full = "[::]" + text
	}
	addr, err := netip.ParseAddrPort(full)
	switch {
	case err != nil || !regexp.MustCompile(listenForm).MatchString(text):
		c.add(at, fmt.Sprintf("%q is no address with a port", text), listenHint)
	case addr.Port() == 0:
		c.add(at, "port 0 does not exist", listenHint)
	case addr.Port() == port:
		c.add(at, fmt.Sprintf("port %d is the one the nodes talk over", port), "choose another, such as 8480")
	case slices.Contains(before, addr):
		c.add(at, text+" is listed twice", "remove one of the two")
	default:
		return addr, true
	}
	return addr, false
}
