package demo

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"net/netip"

	"revolve/internal/testbed"
)

const msec = instant(time.Millisecond)

func TestHolders(t *testing.T) {
	h := newHolders(netip.MustParseAddr("10.77.0.200"))
	base := now()
	at := func(i instant) instant { return base + i*msec }
	h.set(h.held, "a", true, at(0))
	h.set(h.held, "a", true, at(50)) // a refresh
	if who, _ := h.current(); !slices.Equal(who, []string{"a"}) {
		t.Fatalf("held by %v", who)
	}
	_, bell := h.current()
	h.set(h.held, "b", true, at(100))
	select {
	case <-bell:
	default:
		t.Error("the bell did not ring")
	}
	h.set(h.held, "a", false, at(130))
	if got := h.lostAt("a", at(60)); got != at(130) {
		t.Errorf("lost after %v", got.sub(base))
	}
	if got := h.lostAt("b", at(60)); got != 0 {
		t.Error("b lost what it has")
	}
	if who, got := h.gainedAt("a", at(60)); who != "b" || got != at(100) {
		t.Errorf("gained by %s at %v", who, got.sub(base))
	}
	if left, came := h.moved("a", at(60), at(200)); left != 1 || came != 1 {
		t.Errorf("left %d, came %d", left, came)
	}
	if left, came := h.moved("a", at(200), at(300)); left != 0 || came != 0 {
		t.Errorf("left %d, came %d while nothing happened", left, came)
	}
	if got := h.overlap(at(500)); got != 30*time.Millisecond {
		t.Errorf("two at once for %v", got)
	}
	h.set(h.apart, "a", true, at(110))
	h.set(h.apart, "a", false, at(125))
	if got := h.overlap(at(500)); got != 10*time.Millisecond {
		t.Errorf("two at once for %v while they could hear each other", got)
	}
	h.note("c", testbed.AddressChange{At: time.Now(), Addr: netip.MustParseAddr("10.77.0.13")})
	if who, _ := h.current(); len(who) != 1 {
		t.Errorf("another address counted: %v", who)
	}
	h.note("c", testbed.AddressChange{At: time.Now(), Addr: h.vip})
	if got := h.overlap(now().add(time.Hour)); got < time.Hour-time.Second {
		t.Errorf("two holders for an hour count as %v", got)
	}
}

// feed makes what the client would have reported.
func feed(t *testing.T, list ...answer) *answers {
	t.Helper()
	var b []byte
	for _, a := range list {
		b = a.encode(b)
	}
	var got answers
	if err := got.read(bytes.NewReader(append(b, 1, 2, 3))); err != nil { // an end in the middle, as of a killed client
		t.Fatal(err)
	}
	return &got
}

// A time seems never earlier than it was, whatever the machine does between the two clocks.
func TestConvert(t *testing.T) {
	fault := now()
	seen := time.Now()
	slow := func() instant { defer time.Sleep(20 * time.Millisecond); return now() }
	if got := convert(seen, slow); got < fault {
		t.Errorf("what was seen after the fault seems to be %v before it", fault.sub(got))
	}
}

func TestAnswers(t *testing.T) {
	var list []answer
	for i := instant(1); i <= 100; i++ {
		if i <= 40 || i > 60 {
			node := byte('a')
			if i > 60 {
				node = 'b'
			}
			list = append(list, answer{sent: i * 5 * msec, answered: i*5*msec + msec, node: node, serial: 7})
		} else {
			list = append(list, answer{sent: i * 5 * msec})
		}
	}
	list = append(list, answer{sent: 100 * msec, answered: 120 * msec, six: true, node: 'a'})
	a := feed(t, list...)
	g := a.longest(false, 150*msec, 400*msec)
	if g.open || g.node != 'b' || g.length() != 105*time.Millisecond {
		t.Errorf("gap %+v of %v", g, g.length())
	}
	if g := a.longest(false, 150*msec, 250*msec); !g.open || g.length() != 49*time.Millisecond {
		t.Errorf("open gap %+v of %v", g, g.length())
	}
	if g := a.longest(false, 350*msec, 450*msec); g.length() != 5*time.Millisecond {
		t.Errorf("quiet gap %v", g.length())
	}
	if n := a.lostBetween(false, 0, instant(time.Hour)); n != 20 {
		t.Errorf("%d lost", n)
	}
	if n := a.lostBetween(true, 0, instant(time.Hour)); n != 0 {
		t.Errorf("%d lost by IPv6", n)
	}
	if f, ok := a.firstAfter(100*msec, 'b'); !ok || f.sent != 61*5*msec {
		t.Errorf("first of b: %+v, %v", f, ok)
	}
	if f, node, ok := a.firstOf([]gain{{"c", 10 * msec}, {"b", 110 * msec}}); !ok || node != "b" || f.sent != 61*5*msec {
		t.Errorf("c took the address and gave way, b answered: %+v of %q", f, node)
	}
	if _, _, ok := a.firstOf([]gain{{"c", 10 * msec}}); ok {
		t.Error("an answer of one that never gave any")
	}
	if _, ok := a.firstAfter(501*msec, 0); ok {
		t.Error("an answer after the last one")
	}
	if n := a.count(0, 102*msec); n != 20 {
		t.Errorf("%d answers", n)
	}
}

func TestEntries(t *testing.T) {
	for text, want := range map[string]int{
		`[]`: 0, `[{"path":"x"},{"path":"y"}]`: 2, `{"divergent":[{"path":"x"}]}`: 1,
		"{\"path\":\"x\"}\n{\"path\":\"y\"}\n": 2, `{"none":0}`: 0, `{"divergent":[]}`: 0,
	} {
		if got := entries([]byte(text)); got != want {
			t.Errorf("%s has %d entries, not %d", text, got, want)
		}
	}
}

func TestUnless(t *testing.T) {
	s := &story{report: &Report{Events: []Event{{Name: "return"}}}}
	s.report.Events[0].breaks("P8", "%d files", 3)
	if s.unless("P8", "fine") != "" || s.unless("P4", "fine") != "fine" {
		t.Error("a broken promise is called fine, or a held one broken")
	}
	if s.report.Events[0].Held() {
		t.Error("a broken event held")
	}
}
