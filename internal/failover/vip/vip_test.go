package vip

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	macA = MAC{2, 0, 0, 0, 0, 0xa}
	macB = MAC{2, 0, 0, 0, 0, 0xb}
	vip4 = netip.MustParseAddr("10.77.0.200")
	vip6 = netip.MustParseAddr("fd77::200")
	own4 = netip.MustParseAddr("10.77.0.11")
	own6 = netip.MustParseAddr("fe80::11")
)

// The frames, byte by byte: RFC 826 and RFC 4861 laid out by hand.
func TestFramesGolden(t *testing.T) {
	arp4 := Announcement(vip4, macA)
	na := Announcement(vip6, macA)
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"announce request", arp4[0], "ffffffffffff02000000000a0806" + "0001080006040001" + "02000000000a0a4d00c8" + "0000000000000a4d00c8"},
		{"announce reply", arp4[1], "ffffffffffff02000000000a0806" + "0001080006040002" + "02000000000a0a4d00c8" + "02000000000a0a4d00c8"},
		{"probe", Probe(vip4, own4, macB, macA), "02000000000a02000000000b0806" + "0001080006040001" + "02000000000b0a4d000b" + "0000000000000a4d00c8"},
		{"probe without source", Probe(vip4, netip.Addr{}, macB, macA), "02000000000a02000000000b0806" + "0001080006040001" + "02000000000b00000000" + "0000000000000a4d00c8"},
		{"advertisement", na[0], "33330000000102000000000a86dd" + "6000000000203aff" + "fd770000000000000000000000000200" +
			"ff020000000000000000000000000001" + "880055a620000000" + "fd770000000000000000000000000200" + "020102000000000a"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	if Probe(vip6, own4, macB, macA) != nil {
		t.Error("a v6 probe without a v6 source")
	}
}

func TestParseHolder(t *testing.T) {
	for name, f := range map[string][]byte{"arp": Announcement(vip4, macA)[1], "na": Announcement(vip6, macA)[0]} {
		h, ok := ParseHolder(f)
		if want := map[string]netip.Addr{"arp": vip4, "na": vip6}[name]; !ok || h.Addr != want || h.MAC != macA {
			t.Errorf("%s: %v %v", name, h, ok)
		}
		for n := range f {
			if h, ok := ParseHolder(f[:n]); ok {
				t.Errorf("%s cut to %d bytes gave %v", name, n, h)
			}
		}
	}
	// Linux leaves the option out when it answers a unicast solicitation; then the frame's source counts.
	na := Announcement(vip6, macA)[0]
	short := append([]byte{}, na[:len(na)-8]...)
	short[ethHeader+5] = 24
	short[ethHeader+ip6Header+2], short[ethHeader+ip6Header+3] = 0, 0
	sum := checksum6(short[ethHeader:])
	short[ethHeader+ip6Header+2], short[ethHeader+ip6Header+3] = byte(sum>>8), byte(sum)
	if h, ok := ParseHolder(short); !ok || h.MAC != macA {
		t.Errorf("answer without option: %v %v", h, ok)
	}
	na[len(na)-1] ^= 1
	if _, ok := ParseHolder(na); ok {
		t.Error("a damaged advertisement passed its checksum")
	}
	for name, f := range map[string][]byte{"arp probe": Probe(vip4, netip.Addr{}, macB, macA), "solicitation": Probe(vip6, own6, macB, macA)} {
		if h, ok := ParseHolder(f); ok {
			t.Errorf("%s counts as holder %v", name, h)
		}
	}
}

// An answer is what is sent to whoever asked; announcements and questions of others prove only that they are heard.
func TestAnswersTo(t *testing.T) {
	q := Question(vip4, own4, macB)
	if MAC(q[:6]) != broadcast || !bytes.Equal(q[28:32], own4.AsSlice()) {
		t.Errorf("the question %x", q)
	}
	if Question(vip6, own4, macB) != nil || Question(vip6, own6, macB) == nil {
		t.Error("a question for an IPv6 address needs one to ask from, and no more")
	}
	reply := arp(macB, macA, arpReply, vip4, macB, own4)
	na := neigh(macB, macA, vip6, own6, icmpNA, vip6, optTarget)
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"reply": {reply, true}, "advertisement": {na, true}, "a request to this card": {arp(macB, macA, arpRequest, vip4, MAC{}, own4), false},
		"announced request": {Announcement(vip4, macA)[0], false}, "announced reply": {Announcement(vip4, macA)[1], false}, "announced advertisement": {Announcement(vip6, macA)[0], false},
		"a reply to another": {arp(macA, macA, arpReply, vip4, macA, own4), false},
	} {
		if h, ok := ParseHolder(c.frame); !ok || h.MAC != macA || AnswersTo(c.frame, macB) != c.want {
			t.Errorf("%s: %v %v, answers %v", name, h, ok, AnswersTo(c.frame, macB))
		}
	}
}

func FuzzParseHolder(f *testing.F) {
	for _, b := range append(Announcement(vip4, macA), Announcement(vip6, macA)...) {
		f.Add(b)
	}
	f.Add(Probe(vip6, own6, macB, macA))
	f.Fuzz(func(t *testing.T, b []byte) {
		keep := bytes.Clone(b)
		if h, ok := ParseHolder(b); ok && (!h.Addr.IsValid() || h.Addr.IsUnspecified() && h.Addr.Is4()) {
			t.Errorf("accepted %v", h)
		}
		if !bytes.Equal(keep, b) {
			t.Error("the frame was changed")
		}
	})
}

func FuzzNetlink(f *testing.F) {
	l4, l6 := NewLease(netip.PrefixFrom(vip4, 24), 3, true), NewLease(netip.PrefixFrom(vip6, 64), 3, false)
	f.Add(l4.add)
	f.Add(append(append([]byte{}, l6.add...), l6.del...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range parseChanges(nil, b) {
			if (c.Kind == AddrAdded || c.Kind == AddrRemoved) && !c.Addr.IsValid() {
				t.Errorf("change without address: %+v", c)
			}
		}
	})
}

func TestLeaseReadsBack(t *testing.T) {
	for _, p := range []string{"10.77.0.200/24", "fd77::200/64"} {
		l := NewLease(netip.MustParsePrefix(p), 7, true)
		got := parseChanges(nil, append(append([]byte{}, l.add...), l.del...))
		want := []Change{{Kind: AddrAdded, Index: 7, Addr: l.Prefix.Addr()}, {Kind: AddrRemoved, Index: 7, Addr: l.Prefix.Addr()}}
		if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("%s: %+v", p, got)
		}
		m, _, _ := nextMessage(l.add)
		if f := attr(m.body, addrHeader, unix.IFA_FLAGS); native.Uint32(f)&unix.IFA_F_NOPREFIXROUTE == 0 {
			t.Errorf("%s: a covered address brings a route", p)
		}
		info := attr(m.body, addrHeader, unix.IFA_CACHEINFO)
		if native.Uint32(info[4:]) != LifetimeSeconds {
			t.Errorf("%s: valid lifetime %d", p, native.Uint32(info[4:]))
		}
	}
}

func TestCovered(t *testing.T) {
	held := []Held{{Prefix: netip.MustParsePrefix("10.77.0.11/24"), Index: 2}, {Prefix: netip.MustParsePrefix("10.77.0.201/24"), Index: 3}}
	vips := []netip.Addr{vip4, netip.MustParseAddr("10.77.0.201")}
	if !Covered(held, 2, vip4, vips) || Covered(held, 3, vip4, vips) || Covered(held, 2, vip6, vips) {
		t.Error("wrong cover")
	}
}

func TestSchedule(t *testing.T) {
	var s Schedule
	if _, ok := s.Next(); ok {
		t.Fatal("due before the start")
	}
	s.Start(time.Second)
	var at []time.Duration
	for range 9 {
		n, _ := s.Next()
		if s.Due(n - 1) {
			t.Fatalf("due before %v", n)
		}
		if !s.Due(n) {
			t.Fatalf("not due at %v", n)
		}
		at = append(at, (n-time.Second)/time.Millisecond)
	}
	want := []time.Duration{0, 50, 150, 400, 1100, 2200, 5000, 35000, 65000}
	for i := range want {
		if at[i] != want[i] {
			t.Errorf("announcement %d at %d ms, want %d", i, at[i], want[i])
		}
	}
	if !s.Due(time.Hour) || s.Due(time.Hour) {
		t.Error("after a pause it is due once")
	}
	s.Stop()
	if s.Due(2 * time.Hour) {
		t.Error("due after Stop")
	}
}
