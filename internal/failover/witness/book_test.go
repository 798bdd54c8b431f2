package witness

import (
	"bytes"
	"fmt"
	"testing"

	"revolve/internal/failover/election"
)

const ms = election.Millisecond

// asker is a node's side of the conversation, with a lease of 200 ms.
type asker struct {
	t    *testing.T
	book *Book
	q    Packet
	key  Key
	got  Packet
}

var testKey = Key{1}

func testBook(keys ...Key) *Book {
	n := uint64(1000)
	return NewBook(0, keys, func() uint64 { n++; return n })
}

func newAsker(t *testing.T, b *Book, node string, life uint64) *asker {
	return &asker{t: t, book: b, key: testKey, q: Packet{Dead: 200 * ms, Cluster: NameOf("lab"), Node: NameOf(node), Life: life}}
}

// sealed is the next question as it would be sent.
func (a *asker) sealed(k Kind) []byte {
	a.q.Kind = k
	a.q.Seq++
	return NewCodec(a.key).Seal(make([]byte, 0, Size), 0, &a.q)
}

// say sends a question, answers a demand for proof, and returns what became of it.
func (a *asker) say(k Kind, now election.Time) Reply {
	a.t.Helper()
	r := a.hand(a.sealed(k), now)
	if r.What == Unproven && a.got.Kind == Prove {
		a.q.Challenge = a.got.Challenge
		r = a.hand(a.sealed(k), now)
	}
	return r
}

func (a *asker) hand(packet []byte, now election.Time) Reply {
	a.t.Helper()
	r := a.book.Answer(now, packet, make([]byte, 0, Size))
	a.got = Packet{}
	if r.Packet != nil {
		var q Packet
		NewCodec(a.key).Open(packet, &q)
		if _, ok := NewCodec(a.key).Open(r.Packet, &a.got); !ok || !a.got.Answers(&q) {
			a.t.Errorf("the answer %+v is none to %+v", a.got, q)
		}
	}
	return r
}

// may asks whether the node may lead.
func (a *asker) may(now election.Time) bool {
	a.t.Helper()
	a.say(Ask, now)
	return a.got.Kind == Granted
}

func TestOneLeads(t *testing.T) {
	book := testBook(testKey)
	a, b := newAsker(t, book, "a", 11), newAsker(t, book, "b", 22)
	if a.may(100 * ms) {
		t.Error("a may lead before T_dead has passed since the witness' start")
	}
	if r := b.say(Ask, 199*ms); r.What != Early || a.got.Kind != Refused {
		t.Errorf("just after the start: %v", r.What)
	}
	if !a.may(200*ms) || b.may(390*ms) || b.got.Holder != NameOf("a") {
		t.Errorf("a has asked first; the lease is with %v", b.got.Holder)
	}
	if !a.may(399*ms) || b.may(598*ms) || !b.may(599*ms) || a.may(600*ms) {
		t.Error("the lease does not last for T_dead after the last question")
	}
	if r := a.say(Peek, 700*ms); r.What != Answered || a.got.Kind != Refused || a.got.Holder != NameOf("b") {
		t.Errorf("a look: %v %v, held by %v", r.What, a.got.Kind, a.got.Holder)
	}
	if a.say(Peek, 799*ms); a.got.Kind != Granted || a.got.Holder != (Name{}) {
		t.Errorf("a look at a free lease: %v, held by %v", a.got.Kind, a.got.Holder)
	}
	if !b.may(800 * ms) {
		t.Error("a look took the lease")
	}
	if r := b.say(Give, 801*ms); r.What != Given || r.Packet != nil {
		t.Errorf("given back: %v", r.What)
	}
	if !a.may(802 * ms) {
		t.Error("a lease that was given back is not free")
	}
}

// A witness that restarts believes the first one that says that it leads.
func TestRestart(t *testing.T) {
	book := testBook(testKey)
	a, b := newAsker(t, book, "a", 11), newAsker(t, book, "b", 22)
	a.q.Leads = true
	if b.may(10*ms) || !a.may(11*ms) || b.may(199*ms) || b.may(210*ms) {
		t.Error("a leads, says so, and is not believed")
	}
	b.q.Leads = true
	if b.may(202 * ms) {
		t.Error("two are believed")
	}
}

// A recording changes nothing: not of this life, not of an earlier one, not of one before the witness' restart.
func TestRecordings(t *testing.T) {
	book := testBook(testKey)
	a, b := newAsker(t, book, "a", 11), newAsker(t, book, "b", 22)
	a.may(200 * ms)
	old := a.sealed(Ask)
	if r := a.hand(old, 210*ms); r.What != Answered {
		t.Fatalf("the original: %v", r.What)
	}
	now := 600 * ms
	if r := a.hand(old, now); r.What != Unproven || book.trials[0].lease.Holder(now) != election.Nobody {
		t.Errorf("the recording: %v", r.What)
	}
	b.may(now)
	farewell := b.sealed(Give)
	b.hand(farewell, now)
	b.may(now + 1)
	if r := b.hand(farewell, now+2); r.What != Unproven || book.trials[0].lease.Holder(now+2) != 1 {
		t.Errorf("a recorded farewell: %v", r.What)
	}
	again := newAsker(t, book, "a", 12) // a restarts
	again.say(Ask, 2000*ms)
	if r := a.hand(old, 3000*ms); r.What != Unproven {
		t.Errorf("a recording of the life before: %v", r.What)
	}
	if r := a.hand(a.sealed(Ask), 3000*ms); r.What != Unproven || book.trials[0].lease.Holder(3000*ms) != election.Nobody {
		t.Errorf("a question of the life before, with the challenge that it used: %v", r.What)
	}
	fresh := NewBook(0, []Key{testKey}, func() uint64 { return 77 })
	a.book = fresh
	if r := a.hand(old, 1000*ms); r.What != Unproven || fresh.trials[0].lease.Holder(1000*ms) != election.Nobody {
		t.Errorf("a recording from before the witness' restart: %v", r.What)
	}
	answers := 0
	for range 10 * provesPerSecond {
		if r := a.hand(old, 1500*ms); r.Packet != nil {
			answers++
		}
	}
	if answers > provesPerSecond {
		t.Errorf("%d answers to recordings in a second", answers)
	}
	if a.hand(old, 2500*ms); a.got.Kind != Prove {
		t.Error("a second later it is not told how to prove itself")
	}
}

// Whoever has no key gets nothing, whatever he sends; nor does an answer that comes back.
func TestStrangers(t *testing.T) {
	book := testBook(testKey)
	a := newAsker(t, book, "a", 11)
	a.may(200 * ms)
	good := bytes.Clone(a.sealed(Ask))
	for bit := range 8 * Size {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if r := book.Answer(210*ms, bad, make([]byte, 0, Size)); r.Packet != nil || r.What > Stranger {
			t.Fatalf("bit %d flipped: %v", bit, r.What)
		}
	}
	for n := range good {
		if r := book.Answer(210*ms, good[:n], nil); r.What != Junk {
			t.Fatalf("cut to %d bytes: %v", n, r.What)
		}
	}
	thief := newAsker(t, book, "a", 99)
	thief.key = Key{2}
	if r := thief.hand(thief.sealed(Ask), 210*ms); r.What != Stranger || r.Packet != nil {
		t.Errorf("with another key: %v", r.What)
	}
	r := book.Answer(210*ms, good, make([]byte, 0, Size))
	if back := book.Answer(211*ms, r.Packet, nil); back.What != Junk || back.Packet != nil {
		t.Errorf("its own answer, sent back: %v", back.What)
	}
	for _, dead := range []election.Time{0, 65 * election.Second} {
		a.q.Dead = dead
		if r := a.hand(a.sealed(Ask), 220*ms); r.What != Misused || r.Packet != nil {
			t.Errorf("a lease of %v: %v", dead, r.What)
		}
	}
}

// What it remembers is bounded, and who was silent for long makes room.
func TestBounds(t *testing.T) {
	book := testBook(testKey)
	for i := range election.MaxNodes {
		newAsker(t, book, fmt.Sprintf("n%d", i), 5).may(200 * ms)
	}
	late := newAsker(t, book, "late", 5)
	if r := late.say(Ask, idleAfter); r.What != Full || r.Packet != nil {
		t.Errorf("a node too many: %v", r.What)
	}
	newAsker(t, book, "n0", 6).may(idleAfter)
	if r := late.say(Ask, idleAfter+201*ms); r.What != Taken {
		t.Errorf("a node in the place of a silent one: %v", r.What)
	}
	for i := range maxClusters - 1 {
		c := newAsker(t, book, "a", 5)
		c.q.Cluster = NameOf(fmt.Sprintf("c%d", i))
		if !c.may(idleAfter + 300*ms) {
			t.Errorf("cluster %d has no lease of its own", i)
		}
	}
	other := newAsker(t, book, "a", 5)
	other.q.Cluster = NameOf("other")
	if r := other.say(Ask, idleAfter+301*ms); r.What != Full {
		t.Errorf("a cluster too many: %v", r.What)
	}
	if !other.may(3 * idleAfter) {
		t.Error("a cluster in the place of a silent one is refused")
	}
}

// Keys can be changed without a moment at which nobody is understood.
func TestTwoKeys(t *testing.T) {
	next := Key{2}
	book := testBook(testKey, next)
	a, b := newAsker(t, book, "a", 11), newAsker(t, book, "b", 22)
	b.key = next
	if !a.may(200*ms) || b.may(201*ms) || b.got.Kind != Refused {
		t.Error("two nodes with different keys of the witness do not share the lease")
	}
}

func TestNothingAllocates(t *testing.T) {
	book := testBook(testKey)
	a := newAsker(t, book, "a", 11)
	a.may(200 * ms)
	codec, in, out, now := NewCodec(testKey), make([]byte, 0, Size), make([]byte, 0, Size), 200*ms
	var p Packet
	if n := testing.AllocsPerRun(100, func() {
		a.q.Kind = Ask
		a.q.Seq++
		now += ms
		r := book.Answer(now, codec.Seal(in, 0, &a.q), out)
		if _, ok := codec.Open(r.Packet, &p); !ok || p.Kind != Granted {
			t.Fatal(p.Kind)
		}
	}); n != 0 {
		t.Errorf("a question and its answer allocate %v times", n)
	}
}

func FuzzAnswer(f *testing.F) {
	a := newAsker(&testing.T{}, testBook(testKey), "a", 11)
	for _, k := range []Kind{Ask, Peek, Give, Granted} {
		f.Add(a.sealed(k))
	}
	f.Add([]byte("RVW"))
	f.Fuzz(func(t *testing.T, b []byte) {
		keep := bytes.Clone(b)
		book := testBook(testKey)
		// Sealed by us, so that what follows the check is tried as well.
		if len(b) >= bodySize {
			c := NewCodec(testKey)
			b = append(b[:bodySize:bodySize], c.sign(0, b[:bodySize])...)
			r := book.Answer(200*ms, b, make([]byte, 0, Size))
			if r.Packet != nil && len(r.Packet) != Size {
				t.Errorf("an answer of %d bytes", len(r.Packet))
			}
		}
		if r := testBook(Key{9}).Answer(200*ms, keep, nil); r.Packet != nil {
			t.Error("somebody without a key was answered")
		}
	})
}
