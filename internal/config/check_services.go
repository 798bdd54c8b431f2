package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The forms of a service's values, shared with the schema.
const (
	spanForm  = `^[0-9]{1,5}(ms|s|m)$`
	checkForm = `^(dns://|tcp://|https?://|exec:).`
	unitForm  = `^[A-Za-z0-9:_.\\@-]{1,240}\.(service|socket|target|mount|path|timer)$`
)

// Bounds of a service's values.
const (
	minInterval = 200 * time.Millisecond // below, checks are a load of their own
	maxInterval = 10 * time.Minute       // beyond, nobody would know in time
	minTimeout  = 50 * time.Millisecond
	maxTimeout  = time.Minute
	maxCount    = 20 // of checks in a row
	minStatus   = 100
	maxStatus   = 599
)

// DNSTypes are what a dns:// check may ask for.
func DNSTypes() []string {
	return []string{"A", "AAAA", "NS", "SOA", "MX", "TXT", "PTR", "CNAME", "SRV"}
}

const checkHint = "write dns://HOST:PORT/NAME, tcp://HOST:PORT, http://HOST:PORT/PATH, https://HOST:PORT/PATH or exec:COMMAND"

func (c *checker) serviceList() []Service {
	names := c.order["services"]
	c.count("services", "services", len(names), MaxServices)
	var services []Service
	for _, name := range names {
		place := join("services", name)
		c.name(place, name)
		if c.ok(place) {
			services = append(services, c.service(place, name))
		}
	}
	return services
}

func (c *checker) service(place, name string) Service {
	d := c.doc.Services[name]
	s := Service{Name: name, Required: d.Required, Interval: DefaultInterval, Timeout: DefaultTimeout, Rise: DefaultRise, Fall: DefaultFall}
	if at := join(place, "unit"); c.ok(at) {
		if s.Unit = d.Unit; !regexp.MustCompile(unitForm).MatchString(d.Unit) {
			c.add(at, fmt.Sprintf("%q is not the name of a unit", d.Unit), fmt.Sprintf("write %q, as `systemctl list-units` shows it", strings.TrimSuffix(strings.TrimSpace(d.Unit), ".service")+".service"))
		}
	}
	if at := join(place, "exec"); c.ok(at) {
		if s.Exec = d.Exec; strings.TrimSpace(d.Exec) == "" {
			c.add(at, "the command is empty", "remove the line, or name a command that stays in the foreground, such as named -f")
		}
	}
	if at := join(place, "check"); c.ok(at) {
		s.Check = c.check(at, string(d.Check))
	}
	if at := join(place, "status"); c.ok(at) {
		s.Check.Status = d.Status
		switch {
		case s.Check.Kind != CheckHTTP:
			c.add(at, "a status goes with http:// and https:// only", "remove the line")
		case d.Status < minStatus || d.Status > maxStatus:
			c.add(at, fmt.Sprintf("status %d does not exist", d.Status), fmt.Sprintf("choose one from %d to %d", minStatus, maxStatus))
		}
	}
	_, unit := c.lines[join(place, "unit")]
	_, exec := c.lines[join(place, "exec")]
	_, check := c.lines[join(place, "check")]
	if !unit && !exec && !check {
		c.add(place, place+" has neither unit, exec nor check", "name what the agent starts (unit or exec), or at least how to ask whether it is well (check)")
	}
	c.span(join(place, "interval"), string(d.Interval), &s.Interval, minInterval, maxInterval)
	c.span(join(place, "timeout"), string(d.Timeout), &s.Timeout, minTimeout, maxTimeout)
	c.inARow(join(place, "rise"), "rise", d.Rise, &s.Rise)
	c.inARow(join(place, "fall"), "fall", d.Fall, &s.Fall)
	return s
}

func (c *checker) inARow(at, word string, value int, into *int) {
	if !c.ok(at) {
		return
	}
	if *into = value; value < 1 || value > maxCount {
		c.add(at, fmt.Sprintf("%s %d is out of range", word, value), fmt.Sprintf("choose one from 1 to %d", maxCount))
	}
}

// span reads a short time into into, if the file has one.
func (c *checker) span(at, text string, into *time.Duration, least, most time.Duration) {
	if !c.ok(at) {
		return
	}
	if !regexp.MustCompile(spanForm).MatchString(text) {
		c.add(at, fmt.Sprintf("%q is not a time", text), "write 500ms, 2s or 1m")
		return
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		c.add(at, text+" is out of range", fmt.Sprintf("choose between %s and %s", short(least), short(most)))
	}
	*into = d
}

// short is a duration as the file spells it.
func short(d time.Duration) string {
	switch {
	case d%time.Minute == 0:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d%time.Second == 0:
		return strconv.Itoa(int(d/time.Second)) + "s"
	}
	return strconv.Itoa(int(d/time.Millisecond)) + "ms"
}

// check reads how a service is asked.
func (c *checker) check(at, text string) Check {
	out := Check{Text: text}
	if command, ok := strings.CutPrefix(text, "exec:"); ok {
		out.Kind, out.Command = CheckExec, strings.TrimSpace(command)
		if out.Command == "" {
			c.add(at, "the command is empty", "write exec:COMMAND; it is well if the command ends with 0")
		}
		return out
	}
	u, err := url.Parse(text)
	if err != nil || !regexp.MustCompile(checkForm).MatchString(text) {
		c.add(at, fmt.Sprintf("%q is not a check", text), checkHint)
		return out
	}
	switch u.Scheme {
	case "http", "https":
		out.Kind = CheckHTTP
	case "tcp":
		out.Kind, out.Address = CheckTCP, u.Host
	case "dns":
		out.Kind, out.Address = CheckDNS, u.Host
		c.question(at, u, &out)
	}
	c.checkHost(at, text, u, out.Kind)
	return out
}

// checkHost wants a literal address: a name would be asked of the very DNS that may be ill.
func (c *checker) checkHost(at, text string, u *url.URL, kind string) {
	_, err := netip.ParseAddr(u.Hostname())
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case err != nil && u.Hostname() != "localhost":
		c.add(at, fmt.Sprintf("check %q has the host %q", text, u.Hostname()), "write a literal address such as 127.0.0.1: a check must not depend on a DNS")
	case u.Port() == "" && kind != CheckHTTP:
		c.add(at, fmt.Sprintf("check %q has no port", text), "add it, such as "+net.JoinHostPort(u.Hostname(), "53"))
	case u.Port() != "" && (portErr != nil || port == 0):
		c.add(at, fmt.Sprintf("port %s of check %q does not exist", u.Port(), text), "choose one from 1 to 65535")
	}
}

// maxName is the longest name of the DNS as text (RFC 1035, 2.3.4: 255 bytes on the wire).
const maxName = 253

func (c *checker) question(at string, u *url.URL, out *Check) {
	name := strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), ".")
	long := slices.ContainsFunc(strings.Split(name, "."), func(l string) bool { return len(l) == 0 || len(l) > 63 })
	switch {
	case name == "":
		c.add(at, fmt.Sprintf("check %q asks for no name", out.Text), "add one that the server knows, such as /www.example.lan")
	case long || len(name) > maxName:
		c.add(at, fmt.Sprintf("%q is not a name of the DNS", name), "labels have 1 to 63 letters, the whole at most 253")
	}
	out.Name, out.Type = name+".", "A"
	for key, values := range u.Query() {
		if key != "type" {
			c.add(at, fmt.Sprintf("check %q has the unknown parameter %q", out.Text, key), "only type= is known")
			continue
		}
		out.Type = strings.ToUpper(values[0])
		if !slices.Contains(DNSTypes(), out.Type) {
			c.add(at, fmt.Sprintf("check %q asks for the type %q", out.Text, values[0]), didYouMean(out.Type, DNSTypes()))
		}
	}
}
