package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"revolve/internal/cluster"
	"revolve/internal/peer"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const text = "cluster: homelab\nnodes:\n  a: { links: { lan: 127.0.0.1 } }\n  e: { links: { lan: 127.0.0.5 } }\n"

// house is a node that holds the CA and listens.
type house struct {
	state string
	addr  netip.AddrPort
	auth  *Authority
	log   *bytes.Buffer
	mu    sync.Mutex // of log and raised
	low   map[cluster.NodeID]uint32
}

func (h *house) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

func (h *house) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.String()
}

func (h *house) epoch(n cluster.NodeID) uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.low[n]
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{state: t.TempDir(), log: &bytes.Buffer{}, low: map[cluster.NodeID]uint32{}}
	if err := peer.Init(h.state, "homelab", "a"); err != nil {
		t.Fatal(err)
	}
	h.serve(t, h.state, nil)
	return h
}

// serve listens with the identity of a state directory until the test ends.
func (h *house) serve(t *testing.T, state string, elsewhere []Elsewhere) {
	t.Helper()
	id, err := peer.LoadIdentity(state)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(h, nil))
	l, err := peer.Listen(t.Context(), id, func(cluster.NodeID) bool { return true }, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, log)
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addrs()[0]
	h.auth = &Authority{
		State: state, Node: id.Node, Log: log, Epoch: h.epoch,
		Key:   func() [32]byte { return id.HeartbeatKey },
		Now:   func() roster.Roster { return roster.Roster{Generation: 4, Config: text} },
		Known: func(n cluster.NodeID) bool { return n == "a" || n == "e" },
		Raise: func(_ context.Context, n cluster.NodeID, e uint32) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.low[n] = e
			return nil
		},
		Elsewhere: func(context.Context) []Elsewhere { return elsewhere },
	}
	l.Newcomers(h.auth.Serve)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, func(context.Context, *peer.Conn) {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (h *house) token(t *testing.T, node cluster.NodeID, expires time.Duration) *Token {
	t.Helper()
	tok, err := Make(h.state, node, Terms{Expires: expires, Life: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func (h *house) join(t *testing.T, tok *Token, node cluster.NodeID, state string) (*Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return Join(ctx, Options{Addr: h.addr, Token: tok, Node: node, State: state})
}

// wants checks that an error is a problem of that kind that says something and what to do.
func wants(t *testing.T, what string, err error, kind problem.Kind, words string) {
	t.Helper()
	if problem.KindOf(err) != kind || !strings.Contains(err.Error(), words) || problem.HintOf(err) == "" {
		t.Errorf("%s: %v (%v); hint %q", what, err, problem.KindOf(err), problem.HintOf(err))
	}
}

func TestAMachineJoins(t *testing.T) {
	h := newHouse(t)
	tok, state := h.token(t, "e", time.Hour), t.TempDir()
	r, err := h.join(t, tok, "e", state)
	if err != nil {
		t.Fatal(err)
	}
	if r.Cluster != "homelab" || r.By != "a" || r.Roster.Generation != 4 {
		t.Errorf("%+v", r)
	}
	id, err := peer.LoadIdentity(state)
	if err != nil || id.Node != "e" || peer.HasCA(state) {
		t.Fatalf("%v, %v, CA %v", id, err, peer.HasCA(state))
	}
	owner, err := peer.LoadIdentity(h.state)
	if err != nil || owner.HeartbeatKey != id.HeartbeatKey {
		t.Errorf("another heartbeat key came: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(state, "joining")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pending key stays: %v", err)
	}
	_, err = h.join(t, tok, "e", state)
	wants(t, "a second time with the same state", err, problem.Conflict, "there is an identity already")
	_, err = h.join(t, tok, "e", t.TempDir())
	wants(t, "another key", err, problem.Conflict, "was used already")
	if log := h.logged(); strings.Contains(log, tok.Text()) || strings.Contains(log, tokenPrefix) || !strings.Contains(log, "a node joined") {
		t.Errorf("log:\n%s", log)
	}
	files, err := filepath.Glob(filepath.Join(h.state, dirName, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, tok.secret[:]) || strings.Contains(string(b), tok.Text()) || strings.Contains(string(b), hexOf(tok.secret[:])) {
			t.Errorf("the secret is in %s", f)
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, x := range b {
		s.WriteByte(digits[x>>4])
		s.WriteByte(digits[x&15])
	}
	return s.String()
}

// TestALostAnswerIsRepeated: the token is spent, the newcomer knows nothing of it.
func TestALostAnswerIsRepeated(t *testing.T) {
	h := newHouse(t)
	tok, state := h.token(t, "e", time.Hour), t.TempDir()
	key, err := peer.PendingKey(state)
	if err != nil {
		t.Fatal(err)
	}
	_, first, _, err := ask(t.Context(), Options{Token: tok, Node: "e"}, h.addr, key)
	if err != nil || first.Refused != nil {
		t.Fatalf("%v %+v", err, first)
	}
	_, err = h.join(t, tok, "e", t.TempDir())
	wants(t, "another machine meanwhile", err, problem.Conflict, "was used already")
	if _, err := h.join(t, tok, "e", state); err != nil {
		t.Fatal(err)
	}
	id, err := peer.LoadIdentity(state)
	if err != nil || !bytes.Equal(id.Leaf().Raw, first.Cert) {
		t.Errorf("another certificate came the second time: %v", err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	h := newHouse(t)
	tok := h.token(t, "e", time.Hour)
	errs := make(chan error, 4)
	for range cap(errs) {
		state := t.TempDir()
		go func() { _, err := h.join(t, tok, "e", state); errs <- err }()
	}
	won := 0
	for range cap(errs) {
		if err := <-errs; err == nil {
			won++
		} else if problem.KindOf(err) != problem.Conflict {
			t.Errorf("%v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d machines joined with one token", won)
	}
}

func TestRefusals(t *testing.T) {
	h := newHouse(t)
	late := h.token(t, "e", time.Nanosecond)
	_, err := h.join(t, late, "e", t.TempDir())
	wants(t, "expired", err, problem.Permission, "expired at")

	_, err = h.join(t, h.token(t, "e", time.Hour), "a", t.TempDir())
	wants(t, "another name", err, problem.Permission, "the token is for node e")

	wrong := *h.token(t, "e", time.Hour)
	wrong.secret[0] ^= 1
	_, err = h.join(t, &wrong, "e", t.TempDir())
	wants(t, "wrong secret", err, problem.Permission, "not known here")

	gone := h.token(t, "z", time.Hour)
	_, err = h.join(t, gone, "z", t.TempDir())
	wants(t, "not in the configuration any more", err, problem.NotFound, "not in the configuration")

	other := newHouse(t)
	_, err = other.join(t, h.token(t, "e", time.Hour), "e", t.TempDir())
	wants(t, "another cluster's node", err, problem.Permission, "not of the cluster that made the token")
}

// TestAReplacementRaisesTheEpoch: the second identity of a name makes the first one void.
func TestAReplacementRaisesTheEpoch(t *testing.T) {
	h := newHouse(t)
	first, second := t.TempDir(), t.TempDir()
	if _, err := h.join(t, h.token(t, "e", time.Hour), "e", first); err != nil {
		t.Fatal(err)
	}
	if h.epoch("e") != 0 {
		t.Error("the first identity of a node raised its epoch")
	}
	if _, err := h.join(t, h.token(t, "e", time.Hour), "e", second); err != nil {
		t.Fatal(err)
	}
	old, err := peer.LoadIdentity(first)
	if err != nil {
		t.Fatal(err)
	}
	now, err := peer.LoadIdentity(second)
	if err != nil {
		t.Fatal(err)
	}
	if low := h.epoch("e"); peer.Epoch(old.Leaf()) >= low || peer.Epoch(now.Leaf()) < low {
		t.Errorf("lowest epoch %d; old certificate %d, new one %d", low, peer.Epoch(old.Leaf()), peer.Epoch(now.Leaf()))
	}
}

// TestACAThatWasCarriedReplacesToo: the CA's node died, its key came to another
// node, which does not know what was issued. A token for d makes d's former
// certificate void there as well.
func TestACAThatWasCarriedReplacesToo(t *testing.T) {
	h := newHouse(t)
	first, second, b := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "b")
	if _, err := h.join(t, h.token(t, "e", time.Hour), "e", first); err != nil {
		t.Fatal(err)
	}
	if err := peer.Issue(h.state, "b", 0, peer.DefaultLife, b); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(h.state, "identity", "ca.key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(b, "identity", "ca.key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	heir := &house{state: b, log: &bytes.Buffer{}, low: map[cluster.NodeID]uint32{}}
	heir.serve(t, b, nil)
	if _, err := heir.join(t, heir.token(t, "e", time.Hour), "e", second); err != nil {
		t.Fatal(err)
	}
	old, err := peer.LoadIdentity(first)
	if err != nil {
		t.Fatal(err)
	}
	now, err := peer.LoadIdentity(second)
	if err != nil {
		t.Fatal(err)
	}
	if low := heir.epoch("e"); peer.Epoch(old.Leaf()) >= low || peer.Epoch(now.Leaf()) < low {
		t.Errorf("lowest epoch %d; old certificate %d, new one %d", low, peer.Epoch(old.Leaf()), peer.Epoch(now.Leaf()))
	}
}

// TestANodeWithoutTheCA names the one that has it, and never sees the secret.
func TestANodeWithoutTheCA(t *testing.T) {
	h := newHouse(t)
	b := filepath.Join(t.TempDir(), "b")
	if err := peer.Issue(h.state, "b", 0, peer.DefaultLife, b); err != nil {
		t.Fatal(err)
	}
	relay := &house{log: &bytes.Buffer{}, low: h.low}
	relay.serve(t, b, []Elsewhere{{Node: "a", Addrs: []string{"nonsense", h.addr.String()}}})
	if _, err := relay.join(t, h.token(t, "e", time.Hour), "e", t.TempDir()); err != nil {
		t.Errorf("by way of b: %v", err)
	}
	lost := &house{log: &bytes.Buffer{}, low: h.low}
	lost.serve(t, b, nil)
	_, err := lost.join(t, h.token(t, "e", time.Hour), "e", t.TempDir())
	wants(t, "nobody has the CA", err, problem.Unavailable, "knows no node that has it")
}

// TestOneWhoOnlyClaimsToHaveTheCA: a member without the CA's key gets no secret.
func TestOneWhoOnlyClaimsToHaveTheCA(t *testing.T) {
	h := newHouse(t)
	b := filepath.Join(t.TempDir(), "b")
	if err := peer.Issue(h.state, "b", 0, peer.DefaultLife, b); err != nil {
		t.Fatal(err)
	}
	liar := &house{log: &bytes.Buffer{}}
	id, err := peer.LoadIdentity(b)
	if err != nil {
		t.Fatal(err)
	}
	l, err := peer.Listen(t.Context(), id, func(cluster.NodeID) bool { return true }, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, slog.New(slog.NewTextHandler(liar, nil)))
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan int, 1)
	l.Newcomers(func(_ context.Context, c *tls.Conn) error {
		if err := write(c, Offer{Node: "b", Here: true, Proof: make([]byte, 64)}, maxOffer); err != nil {
			return err
		}
		n, _ := io.Copy(io.Discard, c)
		heard <- int(n)
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, func(context.Context, *peer.Conn) {}) }()
	defer func() { cancel(); <-done }()
	liar.addr = l.Addrs()[0]
	_, err = liar.join(t, h.token(t, "e", time.Hour), "e", t.TempDir())
	wants(t, "a liar", err, problem.Permission, "says that it has the CA, and has not")
	if n := <-heard; n != 0 {
		t.Errorf("the liar got %d bytes", n)
	}
}

func TestAThousandGuesses(t *testing.T) {
	h := newHouse(t)
	tok, state := h.token(t, "e", time.Hour), t.TempDir()
	key, err := peer.PendingKey(state)
	if err != nil {
		t.Fatal(err)
	}
	tries, unavailable := 1000, 0
	if testing.Short() {
		tries = 100 // more of the same tell the race detector nothing
	}
	for i := range tries {
		if i == 1 { // the window has begun, and does not end while a slow machine guesses
			h.auth.mu.Lock()
			h.auth.guesses.since = time.Now().Add(time.Hour)
			h.auth.mu.Unlock()
		}
		guess := *tok
		binary.BigEndian.PutUint64(guess.secret[:], uint64(i))
		_, answer, _, err := ask(t.Context(), Options{Token: &guess, Node: "e"}, h.addr, key)
		switch {
		case err != nil:
			t.Fatalf("guess %d: %v", i, err)
		case answer.Refused == nil:
			t.Fatalf("guess %d succeeded", i)
		case answer.Refused.Kind == problem.Unavailable:
			unavailable++
		}
	}
	if unavailable < tries-maxGuesses {
		t.Errorf("only %d guesses were not even looked at", unavailable)
	}
	if lines := strings.Count(h.logged(), "\n"); lines > 5 {
		t.Errorf("%d lines in the log", lines)
	}
	h.auth.mu.Lock()
	h.auth.guesses.since = time.Now().Add(-guessWindow)
	h.auth.mu.Unlock()
	if _, err := h.join(t, tok, "e", state); err != nil {
		t.Errorf("after the window: %v", err)
	}
}

// stranger speaks TLS with the join protocol, and then whatever the test wants.
func (h *house) stranger(t *testing.T) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", h.addr.String(), &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{peer.JoinProtocol}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestHostileNewcomers(t *testing.T) {
	h := newHouse(t)
	t.Run("oversize", func(t *testing.T) {
		c := h.stranger(t)
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, 1<<31)); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the listener goes on reading")
		}
	})
	t.Run("garbage", func(t *testing.T) {
		c := h.stranger(t)
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, 100), bytes.Repeat([]byte{0xff}, 100)...)); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the listener does not hang up")
		}
	})
	t.Run("slow ones do not keep others out for ever", func(t *testing.T) {
		for range 8 {
			h.stranger(t) // says nothing; more of them than are talked to at once
		}
		tok, state := h.token(t, "e", time.Hour), t.TempDir()
		for end := time.Now().Add(40 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			_, err := h.join(t, tok, "e", state)
			if err == nil {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("nobody can join: %v", err)
			}
		}
	})
}
