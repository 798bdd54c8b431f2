package beat

import (
	"bytes"
	"encoding/hex"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"

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
	want := packet{nonce: 11, echo: 22, echo2: 33, seq: 44, beacon: testBeacon(), macs: testMACs}
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
			copy(b[len(b)-sumSize:], c.sign(b[:len(b)-sumSize]))
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
