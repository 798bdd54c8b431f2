package demo

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/testbed"
)

func TestMain(m *testing.M) {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case "serve":
			err = Serve(context.Background(), ServeOptions{Zone: os.Args[2], Node: os.Args[3], Log: slog.New(slog.DiscardHandler)})
		case "ask":
			err = Ask(context.Background(), []netip.Addr{netip.MustParseAddr(os.Args[2]), netip.MustParseAddr(os.Args[3])}, os.Stdout)
		default:
			os.Exit(m.Run())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// pair is a server with an address of its own and a second one, and a client.
func pair(t *testing.T, s *testbed.Stage) (server, client *testbed.Node) {
	t.Helper()
	bed, err := testbed.NewBed(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := bed.AddLink("lan"); err != nil {
		t.Fatal(err)
	}
	node := func(id string, addrs ...string) *testbed.Node {
		at := testbed.Attachment{Link: "lan"}
		for _, a := range addrs {
			at.Addrs = append(at.Addrs, netip.MustParsePrefix(a))
		}
		n, err := bed.AddNode(testbed.NodeSpec{ID: cluster.NodeID(id), Links: []testbed.Attachment{at}, Disk: testbed.Disk{None: true}})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return node("a", "10.77.0.11/24", "fd77::11/64", "10.77.0.200/24", "fd77::200/64"), node("client", "10.77.0.100/24", "fd77::100/64")
}

// wait polls cond, with a deadline far beyond any expectation.
func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	if err := until(t.Context(), 20*time.Second, 10*time.Millisecond, what, cond); err != nil {
		t.Fatal(err)
	}
}

// The client asks the second address; an answer counts only if it comes from
// there, because its socket is connected.
func TestServeAndAsk(t *testing.T) {
	testbed.OnStage(t, testbed.AsNobody, func(s *testbed.Stage) {
		server, client := pair(t, s)
		zone := filepath.Join(s.Dir, zoneFile)
		if _, err := server.Start(testbed.Command{Argv: []string{"/proc/self/exe", "serve", zone, "a"}, Stderr: os.Stderr}); err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Start(testbed.Command{Argv: []string{"/proc/self/exe", "ask", "10.77.0.200", "fd77::200"}, Stdout: w, Stderr: os.Stderr}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		var got answers
		ended := make(chan error, 1)
		go func() { ended <- got.read(r) }()

		// Without a zone there are answers, but not the address.
		wait(t, "lost queries", func() bool { return got.lostBetween(false, 0, now()) > 10 })
		if _, ok := got.firstAfter(0, 0); ok {
			t.Error("an answer without a zone")
		}
		last := func() answer {
			got.mu.Lock()
			defer got.mu.Unlock()
			if len(got.got) == 0 {
				return answer{}
			}
			return got.got[len(got.got)-1]
		}
		for _, serial := range []uint32{1, 2} {
			if err := os.WriteFile(zone, []byte(zoneText(serial)), 0o644); err != nil {
				t.Fatal(err)
			}
			wait(t, fmt.Sprintf("serial %d", serial), func() bool { a := last(); return a.node == 'a' && a.serial == serial })
		}
		wait(t, "answers by IPv6", func() bool { return got.longest(true, now().add(-time.Second), now()).node == 'a' })

		// A zone that makes no sense changes nothing.
		if err := os.WriteFile(zone, []byte("nonsense\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		from := now()
		if err := server.Cut("lan"); err != nil {
			t.Fatal(err)
		}
		wait(t, "lost queries on a cut link", func() bool { return got.lostBetween(false, from, now()) > 10 })
		if err := server.Mend("lan"); err != nil {
			t.Fatal(err)
		}
		mended := now()
		wait(t, "answers again", func() bool { a, ok := got.firstAfter(mended, 'a'); return ok && a.serial == 2 })
		if g := got.longest(false, from, now()); g.length() < mended.sub(from)/2 {
			t.Errorf("the longest gap is %v, the cut lasted %v", g.length(), mended.sub(from))
		}
		if _, err := client.PowerOff(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.Close()
	})
}

func TestZone(t *testing.T) {
	z, err := parseZone([]byte(zoneText(42)))
	if err != nil || z.serial != "42" || z.a[askName] != [4]byte{10, 77, 0, 80} {
		t.Errorf("%+v, %v", z, err)
	}
	for _, bad := range []string{"x", "x A", "x A fd77::1", "x MX y", "x TXT"} {
		if _, err := parseZone([]byte(bad)); err == nil {
			t.Errorf("%q is a zone", bad)
		}
	}
}

func FuzzParseZone(f *testing.F) {
	f.Add([]byte(zoneText(1)))
	f.Add([]byte("; only a comment"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if z, err := parseZone(b); err == nil && z == nil {
			t.Error("neither a zone nor an error")
		}
	})
}

func FuzzAnswer(f *testing.F) {
	query, err := makeQuery()
	if err != nil {
		f.Fatal(err)
	}
	z, err := parseZone([]byte(zoneText(9)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(query)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &server{o: ServeOptions{Node: "a", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, zone: z, checked: time.Now().Add(time.Hour)}
		reply, ok := s.answer(b, make([]byte, 0, maxMessage))
		if !ok {
			return
		}
		a, _, err := readReply(reply)
		if string(b) == string(query) && (err != nil || a.serial != 9 || a.node != 'a') {
			t.Errorf("the reply says %+v, %v", a, err)
		}
	})
}
