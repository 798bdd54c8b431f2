package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/failover/clients"
	"revolve/internal/failover/silence"
	"revolve/internal/failover/vip"
)

const (
	// leaseWithin is the longest that the kernel may take to remove an address that is not refreshed (promise P2: 1.3 s).
	leaseWithin = 1300 * time.Millisecond
	// leaseGiveUp is when the doctor takes it away itself.
	leaseGiveUp = 3 * time.Second
	leasePoll   = 10 * time.Millisecond
	// arpWithin is how long an answer to "who has this address" may take on a local network.
	arpWithin = 300 * time.Millisecond
	// arpAsks is how often it is asked meanwhile: one frame can be lost (RFC 5227 section 1.1 has three, too).
	arpAsks = 3
)

// addresses looks at what the floating addresses need of this machine.
func (e *examination) addresses(ctx context.Context) {
	if len(e.Config.VIPs) == 0 || !e.self.Candidate {
		return
	}
	for _, v := range e.Config.VIPs {
		i := e.cardOf(v)
		if i == nil {
			continue
		}
		key := "net/ipv6/conf/" + i.Name + "/disable_ipv6"
		if v.Prefix.Addr().Is6() && sysctl(key) == 1 {
			e.add(Critical, "vip "+v.Prefix.Addr().String(), "IPv6 is off on "+i.Name, "this node cannot hold it", "sysctl -w "+strings.ReplaceAll(key, "/", ".")+"=0")
		}
	}
	e.lifetime(ctx)
	e.silence()
	if err := clients.CanEnd(); err != nil {
		e.add(Info, "kernel", "does not end what clients had open when the addresses leave: "+err.Error(), "daemons keep files and locks of those clients until their own timeouts, also when the addresses come back", "a kernel with CONFIG_INET_DIAG_DESTROY, as Debian's is")
	}
	e.managers()
}

// cardOf is this node's interface for a floating address, or nil.
func (e *examination) cardOf(v config.VIP) *net.Interface {
	for _, l := range e.self.Links {
		if l.Name == v.Link {
			return card(l.Addr)
		}
	}
	return nil
}

// trialAddresses are ones that nobody uses: of the loopback network (RFC 6890: it
// never leaves the machine) and, if the cluster has IPv6, unique local (RFC 4193).
func (e *examination) trialAddresses() []netip.Prefix {
	list := []netip.Prefix{netip.MustParsePrefix("127.213.73.73/32")}
	if slices.ContainsFunc(e.Config.VIPs, func(v config.VIP) bool { return v.Prefix.Addr().Is6() }) {
		list = append(list, netip.MustParsePrefix("fd73:7373:d0c7::73/128"))
	}
	return list
}

// lifetime lets the kernel remove an address by itself: the promise that a dead node loses its addresses stands on it.
func (e *examination) lifetime(ctx context.Context) {
	const subject = "kernel"
	c, err := vip.Dial()
	if err != nil {
		return
	}
	defer c.Close()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return
	}
	for _, p := range e.trialAddresses() {
		took, err := expiry(ctx, c, vip.NewLease(p, lo.Index, true))
		if err != nil {
			e.add(Info, subject, "whether it removes addresses by itself was not tried: "+err.Error(), "", "run the doctor as the agent's user (sudo)")
			continue
		}
		e.expired(p, took)
	}
}

// silence tries whether the kernel can be told to fall silent before that.
func (e *examination) silence() {
	const subject = "kernel"
	err := trySilence()
	if err == nil {
		e.add(OK, subject, "falls silent for the floating addresses as soon as a frozen or killed master is late", "", "")
		return
	}
	e.add(Info, subject, "does not fall silent for the floating addresses before they are removed: "+err.Error(), "a frozen or killed master costs clients a second and more, where it could be less than half of one", "give the agent the capabilities of the unit that comes with the package, and look for an ingress qdisc: tc qdisc show")
}

func trySilence() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	s, err := silence.New()
	if err != nil {
		return err
	}
	defer s.Close()
	g, err := s.Guard("doctor", lo.Index, []netip.Addr{netip.MustParseAddr("127.213.73.73")})
	g.Close()
	return err
}

// lapse says when an address that nobody refreshed went: it was there at the look
// that began after so long, and not at the one that ended after so long. On a busy
// machine the doctor may look late, for which the kernel is not to be blamed.
type lapse struct {
	there, gone time.Duration // gone is 0 if it stayed
}

// tells reports whether the looks were close enough to judge the kernel.
func (l lapse) tells() bool { return l.gone <= leaseWithin || l.there > leaseWithin }

// leaseTries bounds how often it is tried until the doctor looks in time.
const leaseTries = 3

// expiry lets an address expire, several times if need be.
func expiry(ctx context.Context, c *vip.Conn, l *vip.Lease) (took lapse, err error) {
	for range leaseTries {
		if err := c.Hold(l); err != nil {
			return took, err
		}
		if took = watchLapse(ctx, l.Prefix.Addr()); took.gone == 0 {
			_ = c.Drop(l)
		}
		if took.tells() {
			break
		}
	}
	return took, nil
}

// watchLapse waits until the kernel has removed the address.
func watchLapse(ctx context.Context, a netip.Addr) (l lapse) {
	began := time.Now()
	for time.Since(began) < leaseGiveUp && ctx.Err() == nil {
		asked := time.Since(began)
		if card(a) == nil {
			l.gone = time.Since(began)
			return l
		}
		l.there = asked
		time.Sleep(leasePoll)
	}
	return l
}

// expired judges it.
func (e *examination) expired(p netip.Prefix, took lapse) {
	const subject = "kernel"
	family := "IPv4"
	if p.Addr().Is6() {
		family = "IPv6"
	}
	switch {
	case took.gone == 0:
		e.add(Critical, subject, "does not remove an "+family+" address that nobody refreshes", "a dead node keeps the floating addresses", "use a Linux kernel of at least 6.1")
	case took.gone <= leaseWithin:
		e.add(OK, subject, fmt.Sprintf("removes an %s address that nobody refreshes (after %d ms)", family, took.gone.Milliseconds()), "", "")
	case took.there > leaseWithin:
		e.add(Warning, subject, fmt.Sprintf("removes an %s address that nobody refreshes after %d ms", family, took.gone.Milliseconds()), fmt.Sprintf("a dead node keeps the floating addresses for longer than %d ms", leaseWithin.Milliseconds()), "look at this machine's load, and run the doctor again; Linux 6.13 and later (for IPv6: 5.18) remove addresses only when the processor that set them is awake: the kernel parameter nohz=off keeps it so")
	default:
		e.add(Info, subject, fmt.Sprintf("removes an %s address that nobody refreshes, after %d to %d ms", family, took.there.Milliseconds(), took.gone.Milliseconds()), "this machine is too busy for a closer look", "run the doctor again when it is quieter")
	}
}

// manager is a program that thinks the addresses of an interface its own.
type manager struct {
	comm, name, why, fix string // comm: its name in /proc/PID/comm, at most 15 bytes
}

// fighters are those that were seen to take floating addresses away
// (acassen/keepalived#836 and others; systemd/systemd#12050, KeepConfiguration in systemd.network(5)).
func fighters(device string) []manager {
	return []manager{
		{"NetworkManager", "NetworkManager", "a new configuration of " + device + " takes the floating addresses away; they come back within 200 ms",
			fmt.Sprintf("printf '[keyfile]\\nunmanaged-devices=interface-name:%s\\n' > /etc/NetworkManager/conf.d/revolve.conf, configure %[1]s elsewhere, systemctl reload NetworkManager", device)},
		{"systemd-network", "systemd-networkd", "a restart of it takes the floating addresses away; they come back within 200 ms",
			"in the .network file of " + device + ": [Network] KeepConfiguration=static (DHCP: yes), then networkctl reload"},
		{"dhcpcd", "dhcpcd", "a new lease may take the floating addresses away; they come back within 200 ms", "denyinterfaces " + device + " in /etc/dhcpcd.conf, and a fixed address"},
		{"connmand", "ConnMan", "a new configuration of " + device + " takes the floating addresses away; they come back within 200 ms", "NetworkInterfaceBlacklist=" + device + " in /etc/connman/main.conf"},
	}
}

// managers looks for them among the running programs of this network namespace.
func (e *examination) managers() {
	own, _ := os.Readlink("/proc/self/ns/net")
	procs, _ := os.ReadDir("/proc")
	running := map[string]bool{}
	for _, p := range procs {
		if p.Name()[0] < '0' || p.Name()[0] > '9' {
			continue
		}
		comm, err := os.ReadFile("/proc/" + p.Name() + "/comm")
		if ns, err2 := os.Readlink("/proc/" + p.Name() + "/ns/net"); err == nil && (err2 != nil || ns == own) {
			running[strings.TrimSpace(string(comm))] = true
		}
	}
	told := map[string]bool{}
	for _, v := range e.Config.VIPs {
		i := e.cardOf(v)
		if i == nil || told[i.Name] {
			continue
		}
		told[i.Name] = true
		for _, m := range fighters(i.Name) {
			if running[m.comm] {
				e.add(Info, "link "+string(v.Link), m.name+" runs and may manage "+i.Name, m.why, m.fix)
			}
		}
	}
}

// routing looks for settings of the kernel that keep a floating address from being found.
func (e *examination) routing(subject string, i *net.Interface, l config.Link) {
	if !slices.ContainsFunc(e.Config.VIPs, func(v config.VIP) bool { return v.Link == l.Name && v.Prefix.Addr().Is4() }) {
		return
	}
	setting := func(name string) int { // the kernel takes the larger one (ip-sysctl)
		return max(sysctl("net/ipv4/conf/all/"+name), sysctl("net/ipv4/conf/"+i.Name+"/"+name))
	}
	if n := setting("arp_ignore"); n > 2 {
		e.add(Critical, subject, fmt.Sprintf("arp_ignore is %d on %s", n, i.Name), "it may not answer for the floating addresses", fmt.Sprintf("sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.%s.arp_ignore=0", i.Name))
	}
	if setting("rp_filter") == 1 && e.twice(l) {
		e.add(Warning, subject, "rp_filter is strict, and another interface is in the same network", "answers may come in on the one and be dropped", fmt.Sprintf("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.%s.rp_filter=2", i.Name))
	}
	if setting("promote_secondaries") == 0 && e.secondary(i, l) {
		e.add(Info, subject, "promote_secondaries is off on "+i.Name, "when its own address is taken away (a new DHCP lease), floating addresses of the same network go too; they come back within 200 ms", fmt.Sprintf("sysctl -w net.ipv4.conf.%s.promote_secondaries=1", i.Name))
	}
}

// networks are the IPv4 networks of an interface.
func networks(i *net.Interface) (list []netip.Prefix) {
	addrs, _ := i.Addrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			list = append(list, p.Masked())
		}
	}
	return list
}

// twice reports whether another of this machine's interfaces is in the link's network.
func (e *examination) twice(l config.Link) bool {
	own := card(l.Addr)
	all, _ := net.Interfaces()
	return slices.ContainsFunc(all, func(i net.Interface) bool {
		return i.Index != own.Index && slices.ContainsFunc(networks(&i), func(p netip.Prefix) bool { return p.Contains(l.Addr) })
	})
}

// secondary reports whether a floating address of the link is in the network of its interface.
func (e *examination) secondary(i *net.Interface, l config.Link) bool {
	return slices.ContainsFunc(e.Config.VIPs, func(v config.VIP) bool {
		return v.Link == l.Name && slices.Contains(networks(i), v.Prefix.Masked())
	})
}

// address6 is an IPv6 address of the interface, its zero value if there is none.
func address6(i *net.Interface) netip.Addr {
	addrs, _ := i.Addrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// holders asks each link who has the floating addresses: a node, or a stranger.
func (e *examination) holders() {
	known := map[string]string{} // card -> node, as the kernel met them when their ports were tried
	for _, n := range e.Config.Nodes {
		for _, l := range n.Links {
			if mac := neighbour(l.Addr); mac != "" {
				known[mac] = string(n.Name)
			}
		}
	}
	for _, v := range e.Config.VIPs {
		i := e.cardOf(v)
		a := v.Prefix.Addr()
		if i == nil || !a.Is4() || card(a) != nil || len(i.HardwareAddr) != 6 {
			continue
		}
		subject := "vip " + a.String()
		mac, err := whoHas(i, a)
		switch {
		case err != nil:
			e.add(Info, subject, "who has it was not asked: "+err.Error(), "", "run the doctor as the agent's user (sudo)")
		case mac == "":
			e.add(OK, subject, "nobody answers for it"+unlessReigned(e), "", "")
		case known[mac] != "":
			e.add(OK, subject, "node "+known[mac]+" has it", "", "")
		case e.unmet(v.Link):
			e.add(Info, subject, fmt.Sprintf("the card %s answers for it; whether it is a node's was not to be found out", mac), "a stranger with this address would take the cluster's clients", "ip neigh shows whose card it is")
		default:
			e.add(Critical, subject, fmt.Sprintf("the card %s answers for it, and is no node's that this one knows", mac), "clients reach that machine instead of the cluster", "find the machine with this card and take the address away there, or choose another one in vips:")
		}
	}
}

// unmet reports whether a node's card on the link may be one that this machine
// has not met: the kernel only learns those of IPv4 addresses that answer.
func (e *examination) unmet(link cluster.LinkID) bool {
	return slices.ContainsFunc(e.Config.Nodes, func(n config.Node) bool {
		return n.Name != e.Node && slices.ContainsFunc(n.Links, func(l config.Link) bool { return l.Name == link && !l.Addr.Is4() })
	})
}

// unlessReigned says when silence is a sign of trouble.
func unlessReigned(e *examination) string {
	if e.status != nil && e.status.Master != "none" && e.status.Master != "unknown" {
		return ", although " + e.status.Master + " is master: run the doctor there"
	}
	return ": it is free"
}

// neighbour is the card that the kernel has found for an address ("" if none), of proc_net(5), arp.
func neighbour(a netip.Addr) string {
	b, _ := os.ReadFile("/proc/net/arp")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[0] == a.String() && f[3] != "00:00:00:00:00:00" {
			return f[3]
		}
	}
	return ""
}

// WhoHas asks the whole link of a network interface for the card that has an
// address, "" if none answers. It needs CAP_NET_RAW.
func WhoHas(device string, a netip.Addr) (string, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return "", err
	}
	return whoHas(i, a)
}

// whoHas asks the whole link for the card that has an address (RFC 5227 section
// 2.1.1: a probe without a sender, which nobody remembers; IPv6 needs one).
func whoHas(i *net.Interface, a netip.Addr) (string, error) {
	w, err := vip.OpenWire(i.Index, a.Is6())
	if err != nil {
		return "", err
	}
	defer w.Close()
	own, source := vip.MAC(i.HardwareAddr), netip.Addr{}
	if a.Is6() {
		source = address6(i)
	}
	question := vip.Question(a, source, own)
	if question == nil {
		return "", errors.New(i.Name + " has no IPv6 address to ask from")
	}
	buf := make([]byte, 256)
	began, asked := time.Now(), 0
	for took := time.Duration(0); took < arpWithin; took = time.Since(began) {
		if took >= time.Duration(asked)*arpWithin/arpAsks { // a question that nobody may answer is lost in silence
			if err := w.Send(question); err != nil {
				return "", err
			}
			asked++
		}
		if f, ok := w.Read(buf); ok {
			if h, ok := vip.ParseHolder(f); ok && h.Addr == a && h.MAC != own {
				return net.HardwareAddr(h.MAC[:]).String(), nil
			}
			continue
		}
		fds := []unix.PollFd{{Fd: int32(w.FD()), Events: unix.POLLIN}}
		next := min(time.Duration(asked)*arpWithin/arpAsks, arpWithin)
		_, _ = unix.Poll(fds, int(max(0, next-time.Since(began)).Milliseconds())+1)
	}
	return "", nil
}
