package outsider

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onlooker is a machine of its own on the link. It asks all others who has the addresses, and sees what clients meet:
// whoever answers counts, also a node that is frozen; one that has an address and is silent does not.
type onlooker struct {
	name       string // of its namespace and its end at the bridge
	cards      map[card]string
	quit, done chan struct{}

	mu   sync.Mutex
	four asked
	six  asked
}

type card [6]byte

// asked is who answered for one address.
type asked struct {
	at       time.Time // the newest question
	who      []card    // that answered it
	answered int       // questions that somebody answered
	both     []both
}

// both is a time in which two cards answered the same questions.
type both struct {
	from, to time.Time
	who      []card
}

func (b both) length() time.Duration { return b.to.Sub(b.from) + lookEvery }

const (
	// bothRest is how long no two may have answered, for the next time to be another one.
	bothRest = 100 * time.Millisecond
	// bothAtMost is P1's: T_dead and two heartbeats after they have a path.
	bothAtMost = 300 * time.Millisecond

	// Of Ethernet, ARP (RFC 826), IPv6 (RFC 8200) and its neighbours (RFC 4861).
	typeARP, typeIPv6 = 0x0806, 0x86dd
	sizeARP, sizeNS   = 42, 86
	icmp6, ns, na     = 58, 135, 136
)

// watchLink sets the onlooker up.
func watchLink(l *lab) *onlooker {
	o := &onlooker{name: "outsider-eyes", cards: map[card]string{}, quit: make(chan struct{}), done: make(chan struct{})}
	for _, n := range l.nodes {
		o.cards[n.eyes.card] = n.name
	}
	l.ip("netns", "add", o.name)
	l.ip("link", "add", o.name, "type", "veth", "peer", "name", device, "netns", o.name)
	l.ip("link", "set", o.name, "master", bridge, "up")
	l.ip("-n", o.name, "link", "set", device, "up")
	ready := make(chan error)
	go func() {
		defer close(o.done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := enter(o.name)
		var dev *net.Interface
		var fds [2]int
		if err == nil {
			dev, err = net.InterfaceByName(device)
		}
		for i, kind := range []uint16{typeARP, typeIPv6} {
			if err == nil {
				fds[i], err = openLink(dev.Index, kind)
			}
		}
		ready <- err
		if err == nil {
			o.ask(card(dev.HardwareAddr), fds)
		}
	}()
	must(l.t, <-ready)
	return o
}

func openLink(index int, kind uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: kind>>8 | kind<<8, Ifindex: index})
	}
	return fd, err
}

// ask asks, and reads the answers until the next time.
func (o *onlooker) ask(own card, fds [2]int) {
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	questions := [2][]byte{whoHas4(own), whoHas6(own)}
	buf := make([]byte, 2048)
	for {
		next := time.Now().Add(lookEvery)
		for i, a := range []*asked{&o.four, &o.six} {
			at := time.Now()
			if _, err := unix.Write(fds[i], questions[i]); err == nil {
				o.mu.Lock()
				a.at, a.who = at, nil
				o.mu.Unlock()
			}
		}
		for left := time.Until(next); left > 0; left = time.Until(next) {
			wait := unix.NsecToTimespec(int64(left))
			_, _ = unix.Ppoll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}, {Fd: int32(fds[1]), Events: unix.POLLIN}}, &wait, nil)
			o.read(own, fds, buf)
		}
		select {
		case <-o.quit:
			return
		default:
		}
	}
}

func (o *onlooker) read(own card, fds [2]int, buf []byte) {
	for i, a := range []*asked{&o.four, &o.six} {
		for {
			n, err := unix.Read(fds[i], buf)
			if err != nil {
				break
			}
			f := buf[:n]
			if who, ok := answers(f, own); ok {
				o.mu.Lock()
				a.note(who)
				o.mu.Unlock()
			}
		}
	}
}

// answers reads an answer to a question of own for one of the addresses.
func answers(f []byte, own card) (who card, ok bool) {
	switch {
	case len(f) < sizeARP || card(f[:6]) != own:
		return who, false
	case binary.BigEndian.Uint16(f[12:]) == typeARP:
		return card(f[22:28]), binary.BigEndian.Uint16(f[20:]) == 2 && netip.AddrFrom4([4]byte(f[28:32])) == netip.MustParseAddr(vip4)
	case len(f) < 78 || f[20] != icmp6 || f[54] != na:
		return who, false
	}
	return card(f[6:12]), netip.AddrFrom16([16]byte(f[62:78])) == netip.MustParseAddr(vip6)
}

func (a *asked) note(who card) {
	if a.at.IsZero() || slices.Contains(a.who, who) {
		return
	}
	a.who = append(a.who, who)
	if len(a.who) == 1 {
		a.answered++
		return
	}
	if n := len(a.both); n == 0 || a.at.Sub(a.both[n-1].to) > bothRest {
		a.both = append(a.both, both{from: a.at})
	}
	b := &a.both[len(a.both)-1]
	b.to = a.at
	for _, w := range a.who {
		if !slices.Contains(b.who, w) {
			b.who = append(b.who, w)
		}
	}
}

// longest is the longest time since then in which two answered.
func (o *onlooker) longest(since time.Time) (d time.Duration, said string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for addr, a := range map[string]*asked{vip4: &o.four, vip6: &o.six} {
		for _, b := range a.both {
			if b.to.After(since) && b.length() > d {
				var names []string
				for _, w := range b.who {
					names = append(names, o.cards[w])
				}
				slices.Sort(names)
				d, said = b.length(), fmt.Sprintf("%s: for %v %s answered for %s", b.from.Format("15:04:05.000"), b.length().Round(time.Millisecond), strings.Join(names, " and "), addr)
			}
		}
	}
	return d, said
}

func (o *onlooker) stop(t *testing.T) {
	close(o.quit)
	<-o.done
	_ = exec.Command("ip", "netns", "delete", o.name).Run() // its end at the bridge goes with it
	if d, said := o.longest(time.Time{}); d > bothAtMost {
		t.Errorf("two cards answered at once: %s", said)
	} else {
		t.Logf("two cards answered at once for at most %v", d)
	}
	if o.four.answered == 0 || o.six.answered == 0 {
		t.Errorf("of what was asked on the link %d questions by IPv4 and %d by IPv6 were answered: nothing was judged", o.four.answered, o.six.answered)
	}
}

// whoHas4 is a probe without a sender: whoever has the address answers, and nobody learns anything (RFC 5227 section 2.1.1).
func whoHas4(own card) []byte {
	f := make([]byte, 0, sizeARP)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, own[:]...)
	f = append(f, typeARP>>8, typeARP&0xff, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(f, own[:]...)
	f = append(f, make([]byte, 4+6)...)
	return append(f, netip.MustParseAddr(vip4).AsSlice()...)
}

// whoHas6 is a neighbour solicitation to the address's group, from a link-local address that no interface has.
func whoHas6(own card) []byte {
	to := netip.MustParseAddr(vip6).As16()
	f := make([]byte, 0, sizeNS)
	f = append(f, 0x33, 0x33, 0xff, to[13], to[14], to[15])
	f = append(f, own[:]...)
	f = append(f, typeIPv6>>8, typeIPv6&0xff)
	f = append(f, 0x60, 0, 0, 0, 0, 32, icmp6, 255)
	f = append(f, netip.MustParseAddr("fe80::90").AsSlice()...)
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(group[13:], to[13:])
	f = append(f, group[:]...)
	f = append(f, ns, 0, 0, 0, 0, 0, 0, 0)
	f = append(f, to[:]...)
	f = append(f, 1, 1) // the option with the asker's card
	f = append(f, own[:]...)
	sum := uint32(32 + icmp6) // RFC 4443 section 2.3
	for i := 22; i < len(f); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(f[56:], ^uint16(sum+sum>>16))
	return f
}

// Two that answer the same questions are seen, and not two of which one comes after the other.
func TestTwoAnswer(t *testing.T) {
	o := &onlooker{cards: map[card]string{{1}: "a", {2}: "b"}}
	at := time.Now()
	for i, who := range [][]card{{{1}}, {{1}, {1}}, {{2}}, {{2}, {1}}, {{1}}, {{1}, {2}}} {
		o.six.at, o.six.who = at.Add(time.Duration(i)*lookEvery), nil
		for _, w := range who {
			o.six.note(w)
		}
		d, said := o.longest(at.Add(-time.Second))
		want := []time.Duration{0, 0, 0, lookEvery, lookEvery, 3 * lookEvery}[i]
		if d != want || (d > 0) != strings.Contains(said, "a and b answered for "+vip6) {
			t.Errorf("question %d: %v, %q; want %v", i, d, said, want)
		}
	}
	if d, _ := o.longest(at.Add(time.Hour)); d != 0 || o.six.answered != 6 {
		t.Errorf("%v afterwards; %d answered", d, o.six.answered)
	}
}
