package beat

import (
	"bytes"
	"encoding/hex"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/failover/vip"
)

var update = flag.Bool("update", false, "write the golden packet anew")

func testCodec(self uint8, key byte, nodes ...cluster.NodeID) *codec {
	return newCodec(newNames("test", self, nodes, []cluster.LinkID{"fast", "lan"}), [32]byte{key})
}

func testBeacon() election.Beacon {
	b := election.Beacon{From: 0, Role: cluster.Master, Class: cluster.InSync, Quality: 3, Good: 2, Successor: 2, Flags: election.HandingOver | election.Held,
		Priority: 100, FenceMs: 140, ReignAge: 7, Reign: election.Reign{Term: 42, Owner: 0}, SeenTerm: 43, ClaimTerm: 44, GrantTerm: 45,
		Fresh: cluster.Position{Term: 42, Seq: 1 << 40}}
	b.Hears[0], b.Hears[1] = 0b110, 0b010
	return b
}

var testMACs = [election.MaxLinks]vip.MAC{1: {2, 0, 0, 0, 0, 0xa}}

func sealed(c *codec) []byte {
	b := testBeacon()
	return c.seal(make([]byte, 0, maxPacket), head{to: 1, link: 1, nonce: 11, echo: 22, echo2: 33, seq: 44}, &b, &testMACs)
}

// TestGoldenPacket pins the wire: a changed byte breaks rolling upgrades.
func TestGoldenPacket(t *testing.T) {
	got := hex.EncodeToString(sealed(testCodec(0, 1, "a", "b", "c")))
	const name = "testdata/packet.hex"
	if *update {
		if err := os.WriteFile(name, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != strings.TrimSpace(string(want)) {
		t.Errorf("packet differs:\n got %s\nwant %s", got, want)
	}
	if len(got)/2 > maxOwn {
		t.Errorf("packet of %d bytes", len(got)/2)
	}
}

func TestOpen(t *testing.T) {
	p := sealed(testCodec(0, 1, "a", "b", "c"))
	var got packet
	if v := testCodec(1, 1, "a", "b", "c").open(p, 1, &got); v != heard {
		t.Fatal(v)
	}
	want := packet{nonce: 11, echo: 22, echo2: 33, seq: 44, beacon: testBeacon(), macs: testMACs, from: hash4("a")}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(packet{})); d != "" {
		t.Error(d)
	}
	for name, c := range map[string]struct {
		codec *codec
		link  uint8
		want  verdict
	}{
		"other key":      {testCodec(1, 2, "a", "b", "c"), 1, badMAC},
		"other receiver": {testCodec(2, 1, "a", "b", "c"), 1, foreign},
		"other link":     {testCodec(1, 1, "a", "b", "c"), 0, foreign},
		"own packet":     {testCodec(0, 1, "a", "b", "c"), 1, foreign},
		"no such sender": {testCodec(0, 1, "b", "c"), 1, unknown},
		"other cluster":  {newCodec(newNames("prod", 1, []cluster.NodeID{"a", "b"}, []cluster.LinkID{"fast", "lan"}), [32]byte{1}), 1, foreign},
	} {
		if v := c.codec.open(p, c.link, &got); v != c.want {
			t.Errorf("%s: %v, want %v", name, v, c.want)
		}
	}
	c := testCodec(1, 1, "a", "b", "c")
	for i := range p {
		q := bytes.Clone(p)
		q[i] ^= 0x40
		if v := c.open(q, 1, &got); v == heard {
			t.Errorf("byte %d changed, and still heard", i)
		}
		if v := c.open(p[:i], 1, &got); v == heard {
			t.Errorf("cut to %d bytes, and still heard", i)
		}
	}
}

// TestOpenOtherConfiguration: a sender that knows one node more is understood in our own indices.
func TestOpenOtherConfiguration(t *testing.T) {
	b := testBeacon() // successor 2 = b, hears {a2, b}: see the order below
	sender := testCodec(0, 1, "a", "a2", "b", "c")
	p := sender.seal(make([]byte, 0, maxPacket), head{to: 2, link: 1, nonce: 11, echo: 22, seq: 44}, &b, &testMACs)
	var got packet
	if v := testCodec(1, 1, "a", "b", "c").open(p, 1, &got); v != heard {
		t.Fatal(v)
	}
	if got.beacon.Successor != 1 || got.beacon.Hears[0] != 0b010 || got.beacon.Hears[1] != 0 || got.beacon.Good != 2 || got.macs != testMACs {
		t.Errorf("%+v", got.beacon)
	}
}

func TestProve(t *testing.T) {
	const own = 1000
	var f proof
	for i, c := range []struct {
		nonce, echo, echo2, seq uint64
		link                    uint8
		want                    verdict
	}{
		{1, 0, 0, 1, 0, unechoed},   // knows nothing of us
		{1, 999, 0, 2, 0, unechoed}, // recorded in an earlier life of ours
		{1, own, 0, 3, 0, heard},    // proven
		{1, own, 0, 3, 0, replayed}, // the same again
		{1, own, 0, 2, 0, replayed}, // an older one
		{1, own, 0, 2, 1, heard},    // another link counts for itself
		{2, 0, 0, 1, 0, unechoed},   // it restarted
		{1, own, 0, 4, 0, heard},    // a recording of a restart cannot silence the living
		{2, 0, own, 2, 0, heard},    // proven by the pending echo
		{1, own, 0, 9, 0, replayed}, // its former life is over
		{1, 0, 0, 9, 0, replayed},   // and cannot even become pending
		{2, own, 0, 3, 0, heard},
	} {
		p := packet{nonce: c.nonce, echo: c.echo, echo2: c.echo2, seq: c.seq}
		if v := f.prove(&p, c.link, own); v != c.want {
			t.Errorf("packet %d: %v, want %v", i, v, c.want)
		}
	}
}

// TestHandshake: two nodes that know nothing prove themselves to each other within two exchanges.
func TestHandshake(t *testing.T) {
	var a, b proof // what a knows of b, and b of a
	var seqA, seqB uint64
	heardA, heardB := false, false
	for range 2 {
		seqA++
		heardB = b.prove(&packet{nonce: 5, echo: a.current, echo2: a.pending, seq: seqA}, 0, 6) == heard
		seqB++
		heardA = a.prove(&packet{nonce: 6, echo: b.current, echo2: b.pending, seq: seqB}, 0, 5) == heard
	}
	if !heardA || !heardB {
		t.Errorf("a hears %v, b hears %v", heardA, heardB)
	}
}

func FuzzOpen(f *testing.F) {
	c := testCodec(1, 1, "a", "b", "c")
	f.Add(sealed(testCodec(0, 1, "a", "b", "c")), true)
	f.Add([]byte("RVB\x01"), false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign && len(b) > sumSize { // let the fuzzer behind the key
			copy(b[len(b)-sumSize:], c.sign(0, b[:len(b)-sumSize]))
		}
		var p packet
		if c.open(b, 1, &p) == heard && (p.beacon.From == 1 || p.beacon.From > 2 || p.beacon.Role > cluster.Limbo) {
			t.Errorf("accepted %+v", p)
		}
	})
}

func FuzzReadWord(f *testing.F) {
	y := &layout{nodes: []cluster.NodeID{"a", "b"}}
	w := Word{Class: cluster.InSync, Fresh: cluster.Position{Term: 3, Seq: 4}, Reserved: 5, Ill: true, Maintenance: true, Hold: true,
		Switch: SwitchOrder{6, "b"}, Flushed: 7}
	f.Add(y.appendWord(nil, &w))
	got, ok := readWord(y.appendWord(nil, &w))
	want := election.Word{Class: cluster.InSync, Fresh: w.Fresh, Reserved: 5, Ill: true, Maintenance: true, Hold: true, Switch: election.Switch{ID: 6, To: 1}, Flushed: 7}
	if !ok || got != want {
		f.Errorf("%+v %v, want %+v", got, ok, want)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, ok := readWord(b); ok && w.Class > cluster.InSync {
			t.Errorf("%+v", w)
		}
	})
}

func TestLayoutRefuses(t *testing.T) {
	timers, _ := election.Profile("default")
	good := Config{Self: "a", Timers: timers, Nodes: []Node{{ID: "a", Links: []Link{{"lan", netip.MustParseAddr("10.0.0.1")}}}}}
	if _, err := newLayout(&good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(c *Config){
		"unknown self": func(c *Config) { c.Self = "x" },
		"twice":        func(c *Config) { c.Nodes = append(c.Nodes, c.Nodes[0]) },
		"no nodes":     func(c *Config) { c.Nodes = nil },
		"timers":       func(c *Config) { c.Timers.Dead = 1 },
		"VIP link":     func(c *Config) { c.VIPs = []VIP{{netip.MustParsePrefix("10.0.0.9/24"), "nowhere"}} },
	} {
		c := good
		change(&c)
		if _, err := newLayout(&c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestSteadyStateAllocatesNothing: sealing, opening, proving and stepping are all that a quiet cluster does.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	a, b := testCodec(0, 1, "a", "b", "c"), testCodec(1, 1, "a", "b", "c")
	timers, _ := election.Profile("default")
	st := election.New(election.Config{Self: 1, Count: 3, Timers: timers}, election.Boot{}, 0)
	beacon, buf, now, seq := testBeacon(), make([]byte, maxPacket), election.Time(0), uint64(0)
	var p packet
	f := proof{current: 11}
	n := testing.AllocsPerRun(1000, func() {
		seq++
		now += 50 * election.Millisecond
		out := a.seal(buf, head{to: 1, link: 1, nonce: 11, echo: 22, seq: seq}, &beacon, &testMACs)
		if b.open(out, 1, &p) != heard || f.prove(&p, 1, 22) != heard {
			t.Fatal("not heard")
		}
		st.Step(election.Event{Kind: election.Heard, Now: now, Link: 1, Beacon: &p.beacon})
		st.Step(election.Event{Kind: election.Tick, Now: now})
		beacon = st.Beacon()
		beacon.From = 0
	})
	if n != 0 {
		t.Errorf("%v allocations per heartbeat", n)
	}
}

// TestStrangersAreRecognised: what a packet tells of its sender's list, and who
// is answered instead of heard.
func TestStrangersAreRecognised(t *testing.T) {
	old, now := [32]byte{1}, [32]byte{2}
	links := []cluster.LinkID{"fast", "lan"}
	keyed := func(self uint8, s Stamp, keys, retired [][32]byte, nodes ...cluster.NodeID) *codec {
		return newKeyedCodec(newNames("test", self, nodes, links), s, keys, retired)
	}
	send := func(c *codec, to string, key int) []byte {
		b := election.Beacon{Successor: election.Nobody, Reign: election.Reign{Owner: election.Nobody}}
		return bytes.Clone(c.sealFor(make([]byte, 0, maxPacket), hash4(to), key, head{link: 1, nonce: 11, seq: 1}, &b, &testMACs))
	}
	var p packet
	b := keyed(1, Stamp{1, 7}, [][32]byte{now}, [][32]byte{old}, "a", "b")
	tests := []struct {
		name  string
		bytes []byte
		want  verdict
		check func() bool
	}{
		{"a newcomer", send(keyed(2, Stamp{2, 9}, [][32]byte{now}, nil, "a", "b", "c"), "b", 0), unknown,
			func() bool { return p.from == hash4("c") && p.stamp == Stamp{2, 9} && p.nonce == 11 && p.key == 0 }},
		{"a member with a longer list", send(keyed(0, Stamp{2, 9}, [][32]byte{now}, nil, "a", "b", "c"), "b", 0), heard,
			func() bool { return !p.beacon.Without && !p.unknown }},
		{"a member whose list lacks us", send(keyed(0, Stamp{2, 9}, [][32]byte{now}, nil, "a", "c"), "b", 0), heard,
			func() bool { return p.beacon.Without }},
		{"a member with the same list", send(keyed(0, Stamp{1, 7}, [][32]byte{now}, nil, "a", "b"), "b", 0), heard,
			func() bool { return !p.beacon.Without && !p.unknown }},
		{"a member with a retired key", send(keyed(0, Stamp{}, [][32]byte{old}, nil, "a", "b"), "b", 0), unknown,
			func() bool { return p.key == 1 && p.from == hash4("a") }},
		{"a foreign key", send(keyed(0, Stamp{}, [][32]byte{{3}}, nil, "a", "b"), "b", 0), badMAC, func() bool { return true }},
		{"one that bears our name", send(keyed(1, Stamp{}, [][32]byte{now}, nil, "a", "b"), "b", 0), foreign, func() bool { return true }},
	}
	for _, tt := range tests {
		if v := b.open(tt.bytes, 1, &p); v != tt.want || !tt.check() {
			t.Errorf("%s: %v, %+v", tt.name, v, p)
		}
	}
	// The answer to a retired key is understood by its holder, and says that there is a newer list.
	a := keyed(0, Stamp{}, [][32]byte{old}, nil, "a", "b")
	if v := a.open(send(b, "a", 1), 1, &p); v != heard || !p.stamp.Newer(Stamp{}) {
		t.Errorf("answer: %v, %+v", v, p.stamp)
	}
}

func TestStrangersAreAnsweredOnceInAHeartbeat(t *testing.T) {
	var s strangers
	const beat = 50 * time.Millisecond
	if !s.may(1, 0, 0, beat) || s.may(1, 0, beat/2, beat) || !s.may(1, 0, beat, beat) {
		t.Error("not once in a heartbeat")
	}
	if !s.may(1, 1, beat, beat) || s.may(1, 1, beat+1, beat) {
		t.Error("not once in a heartbeat on another link")
	}
	for i := range uint32(maxStrangers - 1) {
		if !s.may(10+i, 0, beat, beat) {
			t.Errorf("stranger %d is not answered", i)
		}
	}
	if s.may(99, 0, beat, beat) {
		t.Error("more strangers than the bound are answered")
	}
	if !s.may(99, 0, beat+strangerLast+1, beat) {
		t.Error("a place is never free again")
	}
}

func TestStampsAreOrdered(t *testing.T) {
	if !(Stamp{2, 0}).Newer(Stamp{1, 9}) || !(Stamp{1, 2}).Newer(Stamp{1, 1}) || (Stamp{1, 1}).Newer(Stamp{1, 1}) || (Stamp{}).Newer(Stamp{1, 0}) {
		t.Error("order of stamps")
	}
}
