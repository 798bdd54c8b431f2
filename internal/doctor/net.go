package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/election"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

const (
	// reachWithin bounds the wait for another node's port.
	reachWithin = time.Second
	// clockApart is how far clocks may be apart: what is kept is named by them, and a person compares them.
	clockApart = time.Second
	// headers is the difference between the MTU and TCP's segment size: IPv4 20 or IPv6 40, TCP 20, timestamps 12 (RFC 7323).
	headers4, headers6 = 52, 72
)

// agentWithin bounds the question to a running agent.
const agentWithin = time.Second

// agent asks the running agent, if there is one: it hears what a doctor cannot.
func (e *examination) agent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, agentWithin)
	defer cancel()
	s, err := control.Dial(e.State).Status(ctx)
	switch {
	case err == nil && s.Node == e.Node:
		e.status = &s
		e.add(OK, "agent", fmt.Sprintf("runs; its verdict is %s", s.Verdict), "", "")
	case err == nil:
		e.add(Critical, "agent", fmt.Sprintf("the one of %s is node %s", e.State, s.Node), "", "name this node's own --state")
	case problem.KindOf(err) == problem.NotFound:
		e.add(Info, "agent", "does not run with "+e.State, "what only it hears is not told here", "revolve agent --config FILE --node "+string(e.Node)+" --state "+e.State)
	default:
		e.add(Info, "agent", "does not answer: "+err.Error(), "what only it hears is not told here", problem.HintOf(err))
	}
}

// card is the interface that has the address, or nil.
func card(a netip.Addr) *net.Interface {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		if slices.ContainsFunc(addrs, func(x net.Addr) bool {
			p, err := netip.ParsePrefix(x.String())
			return err == nil && p.Addr().Unmap() == a
		}) {
			return &i
		}
	}
	return nil
}

// links: this node's addresses must be on its interfaces, the port free or the agent's, and open.
func (e *examination) links() {
	mtus := map[int]string{}
	for _, l := range e.self.Links {
		subject := "link " + string(l.Name)
		i := card(l.Addr)
		if i == nil {
			e.add(Critical, subject, l.Addr.String()+" is on no interface of this machine", "heartbeats and files cannot take this link", "give the interface this address, or correct nodes."+string(e.Node)+".links")
			continue
		}
		if i.Flags&net.FlagRunning == 0 {
			e.add(Warning, subject, i.Name+" has no carrier", "nothing goes over this link", "look at the cable and the switch; ip link set "+i.Name+" up")
		}
		e.add(OK, subject, fmt.Sprintf("%s is on %s (MTU %d)", l.Addr, i.Name, i.MTU), "", "")
		mtus[i.MTU] += " " + string(l.Name)
		e.port(subject, l.Addr)
		e.routing(subject, i, l)
	}
	if len(mtus) > 1 {
		var text []string
		for mtu, names := range mtus {
			text = append(text, fmt.Sprintf("%d on%s", mtu, names))
		}
		slices.Sort(text)
		e.add(Info, "links", "their MTUs differ: "+strings.Join(text, ", "), "fine if it is meant so and the same on every node", "")
	}
}

// port tries the one port, TCP and UDP, from this machine to itself.
func (e *examination) port(subject string, a netip.Addr) {
	at := netip.AddrPortFrom(a, e.Config.Port)
	l, err := net.Listen("tcp", at.String())
	if err == nil {
		defer l.Close()
	} else if !errors.Is(err, unix.EADDRINUSE) {
		e.add(Critical, subject, fmt.Sprintf("TCP port %d cannot be used: %v", at.Port(), err), "no other node gets through", "run the doctor as the agent's user, or choose another port: in the configuration")
		return
	} else if e.status == nil {
		e.add(Critical, subject, fmt.Sprintf("TCP port %d is in use, and not by this node's agent", at.Port()), "the agent cannot start", fmt.Sprintf("see who has it: ss -ltnp 'sport = :%d'; end it, or choose another port: in the configuration", at.Port()))
		return
	}
	d := net.Dialer{Timeout: reachWithin}
	c, err := d.Dial("tcp", at.String())
	if err == nil {
		c.Close()
		err = e.udp(at)
	}
	if err != nil {
		e.add(Critical, subject, fmt.Sprintf("port %d does not answer to this machine itself: %v", at.Port(), err), "a firewall stands before it", fmt.Sprintf("let TCP and UDP port %[1]d in: nft add rule inet filter input meta l4proto { tcp, udp } th dport %[1]d accept", at.Port()))
		return
	}
	e.add(OK, subject, fmt.Sprintf("port %d answers to this machine", at.Port()), "", "")
}

// udp sends a datagram to the port and waits for it, unless the agent has the port.
func (e *examination) udp(at netip.AddrPort) error {
	in, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if errors.Is(err, unix.EADDRINUSE) && e.status != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = in.WriteToUDPAddrPort([]byte("doctor"), at)
	buf := make([]byte, 16)
	err = errors.Join(err, in.SetReadDeadline(time.Now().Add(reachWithin)))
	if err == nil {
		_, err = in.Read(buf)
	}
	return err
}

// others asks every other node's port, its segment size and its clock.
func (e *examination) others(ctx context.Context) {
	id, _ := peer.LoadIdentity(e.State) // its absence was told already
	for _, n := range e.Config.Nodes {
		if n.Name == e.Node {
			continue
		}
		for _, p := range peer.Paths(e.Config, e.Node, n.Name) {
			e.reach(ctx, n, p)
		}
		if id != nil && e.answers(n) {
			e.clockOf(ctx, id, n)
		}
	}
	e.holders()
}

func nodeSubject(n config.Node, p peer.Path) string {
	return fmt.Sprintf("node %s over %s", n.Name, p.Link)
}

// answers reports whether some path to the node was found open.
func (e *examination) answers(n config.Node) bool {
	return slices.ContainsFunc(e.report.Findings, func(f Finding) bool {
		return f.Level == OK && strings.HasPrefix(f.Subject, "node "+string(n.Name)+" over ") && strings.HasPrefix(f.Found, "answers at ")
	})
}

func (e *examination) reach(ctx context.Context, n config.Node, p peer.Path) {
	subject := nodeSubject(n, p)
	d := net.Dialer{Timeout: reachWithin}
	if p.Local.IsValid() && card(p.Local) != nil {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.Local, 0))
	}
	began := time.Now()
	c, err := d.DialContext(ctx, "tcp", p.Remote.String())
	switch {
	case err == nil:
		defer c.Close()
		e.add(OK, subject, fmt.Sprintf("answers at %s after %.1f ms", p.Remote, float64(time.Since(began).Microseconds())/1000), "", "")
		e.segment(subject, c, p)
		e.heartbeats(subject, n, p)
	case n.Power.Mode == config.PowerOnDemand:
		e.add(OK, subject, "is off, or does not answer; it is on demand", "", "")
	default:
		e.add(Warning, subject, fmt.Sprintf("does not answer at %s: %s", p.Remote, cause(err)), "it is off, its agent does not run, or a firewall stands between", fmt.Sprintf("start its agent; let TCP and UDP port %d through", e.Config.Port))
	}
}

// segment compares the MTUs of both ends: each tells the other the largest
// segment that it takes (RFC 9293 section 3.7.1).
func (e *examination) segment(subject string, c net.Conn, p peer.Path) {
	tcp, ok := c.(*net.TCPConn)
	i := card(p.Local)
	if !ok || i == nil {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	there := 0
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			there = int(info.Snd_mss) + headers4
			if p.Remote.Addr().Is6() {
				there = int(info.Snd_mss) + headers6
			}
		}
	})
	if there > headers6 && there < i.MTU {
		e.add(Warning, subject, fmt.Sprintf("its MTU is about %d, and %d here (%s)", there, i.MTU, i.Name), "large packets may vanish on the way, which looks like a link that hangs", fmt.Sprintf("give both ends the same: ip link set %s mtu %d", i.Name, there))
	}
}

// heartbeats compares what the agent hears with what TCP reaches.
func (e *examination) heartbeats(subject string, n config.Node, p peer.Path) {
	if e.status == nil {
		return
	}
	for _, s := range e.status.Nodes {
		for _, l := range s.Links {
			if s.Name == n.Name && l.Name == p.Link && l.Up == control.No {
				e.add(Warning, subject, "TCP gets through, and heartbeats do not, in one direction or both", "the election takes this link for dead", fmt.Sprintf("let UDP port %d through on both machines", e.Config.Port))
			}
		}
	}
}

// clockOf asks the node for its time over the encrypted connection.
func (e *examination) clockOf(ctx context.Context, id *peer.Identity, n config.Node) {
	subject := "node " + string(n.Name)
	c, err := peer.Dial(ctx, id, n.Name, peer.Paths(e.Config, e.Node, n.Name), peer.ServiceClock)
	if err != nil {
		e.add(Warning, subject, "its port answers, and it does not talk to this node: "+err.Error(), "nothing is mirrored between the two", cmp.Or(problem.HintOf(err), "look at the log of its agent"))
		return
	}
	defer c.Close()
	ahead, within, err := peer.AskTime(c)
	switch {
	case err != nil:
		e.add(Info, subject, "does not tell its time: "+err.Error(), "its revolve may be older", "")
	case ahead.Abs() > clockApart+within:
		e.add(Warning, subject, fmt.Sprintf("its clock is %v apart from this one", ahead.Abs().Round(time.Millisecond)), "files and what is kept carry times that mislead", "on both: apt install chrony")
	default:
		e.add(OK, subject, fmt.Sprintf("its clock is at most %v apart from this one", (ahead.Abs()+within).Round(100*time.Microsecond)), "", "")
	}
}

// fastHeard is how many heartbeats of a link say something about its rare gaps.
const fastHeard = 600

// fast says whether the profile `fast` would be safe here, from what the agent
// measured: by how much heartbeats and the own loop came late does not depend on
// the profile in force.
func (e *examination) fast() {
	if e.status == nil || e.status.Beat.Every <= 0 {
		return
	}
	timers, _ := election.Profile(config.ProfileFast)
	late, where, loss, heard := 0.0, "", 0.0, uint64(0)
	for _, n := range e.status.Nodes {
		for _, l := range n.Links {
			q := l.Quality
			if q == nil || q.Heard < fastHeard {
				continue
			}
			heard += q.Heard
			loss = max(loss, q.Loss)
			if over := lateBy(q.GapMax, e.status.Beat.Every); over >= late {
				late, where = over, fmt.Sprintf("%s on %s", n.Name, l.Name)
			}
		}
	}
	if heard == 0 {
		return // the agent has not run for long enough
	}
	patience := float64(timers.Dead-timers.Heartbeat) / float64(election.Millisecond)
	fence := float64(timers.Fence) / float64(election.Millisecond)
	found := fmt.Sprintf("heartbeats came up to %.1f ms late (%s), loss %.2f %%; the beat process was up to %.1f ms late", late, where, 100*loss, e.status.Beat.LateMax)
	var against []string
	if late > patience/2 {
		against = append(against, fmt.Sprintf("fast bears %.0f ms", patience))
	}
	if e.status.Beat.LateMax > fence/2 {
		against = append(against, fmt.Sprintf("a master fences itself when it is %.0f ms late", fence))
	}
	if loss > fastLoss {
		against = append(against, "the loss is too high for it")
	}
	if !e.status.Beat.RealTime {
		against = append(against, "the beat process has no real-time priority")
	}
	if len(against) == 0 {
		e.add(OK, "profile fast", "would be safe here: "+found, "", "")
		return
	}
	e.add(Info, "profile fast", "is not for this machine: "+found, strings.Join(against, "; "), "")
}

// lateBy is how late the longest gap's end was. A gap of several intervals held lost
// heartbeats, which are counted as such: only what goes beyond them is lateness.
func lateBy(gap, every float64) float64 { return max(0, gap-every*max(1, math.Floor(gap/every))) }

// fastLoss is the share of lost heartbeats up to which four in a row are lost less than once in a year: 0.01^4 at 100 a second on one link alone.
const fastLoss = 0.001
