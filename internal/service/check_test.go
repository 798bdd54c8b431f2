package service

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"revolve/internal/config"
)

// server answers DNS questions until the test ends: with the given bytes made from each question.
func server(t *testing.T, answer func(q dnsmessage.Message) [][]byte) string {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromUDP(b)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if err := q.Unpack(b[:n]); err != nil {
				t.Error(err)
				return
			}
			for _, a := range answer(q) {
				_, _ = conn.WriteToUDP(a, from)
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().String()
}

func pack(t *testing.T, m dnsmessage.Message) []byte {
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// reply is the answer with so many records.
func reply(q dnsmessage.Message, code dnsmessage.RCode, records int) dnsmessage.Message {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RCode: code}, Questions: q.Questions}
	for range records {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET},
			Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}}})
	}
	return m
}

const testTimeout = 2 * time.Second

func wants(t *testing.T, c config.Check, want string) {
	t.Helper()
	err := ask(t.Context(), c, testTimeout, nil)
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", c.Text, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %v, want %q", c.Text, err, want)
	}
}

func TestDNSCheck(t *testing.T) {
	check := func(addr string) config.Check {
		return config.Check{Kind: config.CheckDNS, Text: "dns", Address: addr, Name: "www.example.lan.", Type: "A"}
	}
	for _, c := range []struct {
		name, want string
		answer     func(q dnsmessage.Message) [][]byte
	}{
		{"well", "", func(q dnsmessage.Message) [][]byte { return [][]byte{pack(t, reply(q, dnsmessage.RCodeSuccess, 1))} }},
		{"no such name", "knows no such name", func(q dnsmessage.Message) [][]byte { return [][]byte{pack(t, reply(q, dnsmessage.RCodeNameError, 0))} }},
		{"no record", "no record of type A", func(q dnsmessage.Message) [][]byte { return [][]byte{pack(t, reply(q, dnsmessage.RCodeSuccess, 0))} }},
		{"refused", "Refused", func(q dnsmessage.Message) [][]byte {
			m := reply(q, dnsmessage.RCodeRefused, 0)
			m.Questions = nil
			return [][]byte{pack(t, m)}
		}},
		{"failure", "ServerFailure", func(q dnsmessage.Message) [][]byte {
			return [][]byte{pack(t, reply(q, dnsmessage.RCodeServerFailure, 0))}
		}},
		{"others' answers before it", "", func(q dnsmessage.Message) [][]byte {
			other, name := reply(q, dnsmessage.RCodeNameError, 0), reply(q, dnsmessage.RCodeNameError, 0)
			other.ID++
			name.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName("other."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
			return [][]byte{{}, {1, 2, 3}, pack(t, q), pack(t, other), pack(t, name), pack(t, reply(q, dnsmessage.RCodeSuccess, 1))}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { wants(t, check(server(t, c.answer)), c.want) })
	}
	silent := server(t, func(dnsmessage.Message) [][]byte { return nil })
	if err := ask(t.Context(), check(silent), 50*time.Millisecond, nil); err == nil || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("silence: %v", err)
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	wants(t, check(conn.LocalAddr().String()), "refused")
}

// FuzzJudge: whatever comes from the network, no panic; and only an answer to our question is ours.
func FuzzJudge(f *testing.F) {
	q, wire, err := question(7, config.Check{Name: "www.example.lan.", Type: "A"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	var m dnsmessage.Message
	if err := m.Unpack(wire); err != nil {
		f.Fatal(err)
	}
	for _, r := range []dnsmessage.Message{reply(m, dnsmessage.RCodeSuccess, 1), reply(m, dnsmessage.RCodeNameError, 0), reply(m, dnsmessage.RCodeRefused, 0)} {
		b, err := r.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, err := judge(b, 7, q)
		if (ours || err != nil) && (len(b) < 12 || b[0] != 0 || b[1] != 7 || b[2]&0x80 == 0) {
			t.Errorf("%x is taken for our answer (%v)", b, err)
		}
	})
}

func TestTCPAndHTTPChecks(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/there":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/ill":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/teapot":
			w.WriteHeader(http.StatusTeapot)
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	web := func(url string, status int) config.Check {
		return config.Check{Kind: config.CheckHTTP, Text: url, Status: status}
	}
	wants(t, web(plain.URL, 0), "")
	wants(t, web(secure.URL, 0), "")
	wants(t, web(plain.URL+"/there", 0), "")
	wants(t, web(plain.URL+"/ill", 0), "it answers 503")
	wants(t, web(plain.URL+"/teapot", 0), "it answers 418")
	wants(t, web(plain.URL+"/teapot", 418), "")
	wants(t, web(plain.URL, 204), "it answers 200")
	addr := plain.Listener.Addr().String()
	wants(t, config.Check{Kind: config.CheckTCP, Text: "tcp", Address: addr}, "")
	plain.Close()
	wants(t, config.Check{Kind: config.CheckTCP, Text: "tcp", Address: addr}, "refused")
	wants(t, web("http://"+addr, 0), "refused")
}

func TestExecCheck(t *testing.T) {
	exec := func(command string) config.Check {
		return config.Check{Kind: config.CheckExec, Text: "exec:" + command, Command: command}
	}
	wants(t, exec("true"), "")
	wants(t, exec("echo the zone is old >&2; exit 3"), "exit status 3: the zone is old")
	if err := ask(t.Context(), exec("sleep 100 & wait"), 50*time.Millisecond, nil); err == nil || !strings.Contains(err.Error(), "50ms") {
		t.Errorf("a command that hangs: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ask(ctx, exec("true"), testTimeout, nil); err == nil {
		t.Error("a check after the end is good")
	}
}
