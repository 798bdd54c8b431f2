package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"

	"revolve/internal/problem"
)

// Limits of the little DNS service. A zone is a few lines; a message fits the
// classic 512 bytes (RFC 1035, 4.2.1); the file is looked at ten times a second.
const (
	maxZone     = 64 << 10
	maxMessage  = 512
	zoneTTL     = 1 // seconds
	zoneRecheck = 100 * time.Millisecond
	portDNS     = 53
)

// serialName is the name whose text record is the zone's serial.
const serialName = "serial.demo.lan."

// zone is what a zone file says: one `name A address` or `name TXT text` per line.
type zone struct {
	a      map[string][4]byte
	txt    map[string]string
	serial string
}

// parseZone reads a zone. Every line must make sense.
func parseZone(data []byte) (*zone, error) {
	z := &zone{a: map[string][4]byte{}, txt: map[string]string{}}
	if len(data) > maxZone {
		return nil, &problem.Problem{Op: "read zone", Kind: problem.Invalid, Err: fmt.Errorf("more than %d bytes", maxZone)}
	}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, ";") {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		kind, value, _ := strings.Cut(strings.TrimSpace(rest), " ")
		name, value = strings.ToLower(strings.TrimSuffix(name, ".")+"."), strings.TrimSpace(value)
		addr, err := netip.ParseAddr(value)
		switch {
		case kind == "A" && err == nil && addr.Is4():
			z.a[name] = addr.As4()
		case kind == "TXT" && value != "" && len(value) < 256: // one character-string (RFC 1035, 3.3)
			z.txt[name] = value
		default:
			return nil, &problem.Problem{Op: "read zone", Kind: problem.Invalid, Err: fmt.Errorf("line %d: %q", n, line)}
		}
	}
	z.serial = z.txt[serialName]
	return z, sc.Err()
}

// ServeOptions says what the DNS service serves.
type ServeOptions struct {
	Zone string // file, read again when it changes
	Node string // named in every answer
	Log  *slog.Logger
}

// Serve answers on port 53 of every address, IPv4 and IPv6, until ctx ends.
func Serve(ctx context.Context, o ServeOptions) error {
	s := &server{o: o, zone: &zone{}}
	g, ctx := errgroup.WithContext(ctx)
	c4, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", portDNS))
	if err != nil {
		return &problem.Problem{Op: "listen", Subject: "udp4 port 53", Kind: problem.Conflict, Err: err}
	}
	c6, err := net.ListenPacket("udp6", fmt.Sprintf("[::]:%d", portDNS))
	if err != nil {
		c4.Close()
		return &problem.Problem{Op: "listen", Subject: "udp6 port 53", Kind: problem.Conflict, Err: err}
	}
	g.Go(func() error { return s.serve4(ctx, ipv4.NewPacketConn(c4)) })
	g.Go(func() error { return s.serve6(ctx, ipv6.NewPacketConn(c6)) })
	stop := context.AfterFunc(ctx, func() { c4.Close(); c6.Close() })
	defer stop()
	return g.Wait()
}

type server struct {
	o ServeOptions

	mu      sync.Mutex
	zone    *zone
	checked time.Time
	changed time.Time
}

// current is the zone as the file says now, looked at no more often than zoneRecheck.
func (s *server) current() *zone {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.checked) < zoneRecheck {
		return s.zone
	}
	s.checked = time.Now()
	st, err := os.Stat(s.o.Zone)
	if err != nil || st.ModTime().Equal(s.changed) {
		return s.zone // not mirrored yet, or as it was
	}
	data, err := os.ReadFile(s.o.Zone)
	if err != nil {
		return s.zone
	}
	z, err := parseZone(data)
	if err != nil {
		s.o.Log.Warn("the zone stays as it was", "error", err)
		return s.zone
	}
	s.zone, s.changed = z, st.ModTime()
	return s.zone
}

// serve4 answers from the address that was asked (IP_PKTINFO, ip(7)): an answer
// from the node's own address is not an answer of the VIP.
func (s *server) serve4(ctx context.Context, c *ipv4.PacketConn) error {
	if err := c.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true); err != nil {
		return &problem.Problem{Op: "ask for packet information", Kind: problem.Internal, Err: err}
	}
	in, out := make([]byte, maxMessage), make([]byte, 0, maxMessage)
	for {
		n, cm, from, err := c.ReadFrom(in)
		if stop, err := readEnd(ctx, err); stop {
			return err
		}
		if err != nil || cm == nil {
			continue
		}
		if msg, ok := s.answer(in[:n], out); ok {
			_, _ = c.WriteTo(msg, &ipv4.ControlMessage{Src: cm.Dst}, from) // the client asks again
		}
	}
}

func (s *server) serve6(ctx context.Context, c *ipv6.PacketConn) error {
	if err := c.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true); err != nil {
		return &problem.Problem{Op: "ask for packet information", Kind: problem.Internal, Err: err}
	}
	in, out := make([]byte, maxMessage), make([]byte, 0, maxMessage)
	for {
		n, cm, from, err := c.ReadFrom(in)
		if stop, err := readEnd(ctx, err); stop {
			return err
		}
		if err != nil || cm == nil {
			continue
		}
		if msg, ok := s.answer(in[:n], out); ok {
			_, _ = c.WriteTo(msg, &ipv6.ControlMessage{Src: cm.Dst}, from)
		}
	}
}

// readEnd tells an ended service from a passing error (an ICMP message of a
// client that is gone comes back as one, udp(7)).
func readEnd(ctx context.Context, err error) (bool, error) {
	switch {
	case ctx.Err() != nil:
		return true, nil
	case errors.Is(err, net.ErrClosed):
		return true, &problem.Problem{Op: "serve DNS", Kind: problem.Internal, Err: err}
	}
	return false, nil
}

// answer makes the reply to one query: the records of the name, and as an
// additional text record who answers from which serial.
func (s *server) answer(query, out []byte) ([]byte, bool) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil, false
	}
	q, err := p.Question()
	if err != nil {
		return nil, false
	}
	z := s.current()
	name := strings.ToLower(q.Name.String())
	addr, hasA := z.a[name]
	text, hasTXT := z.txt[name]
	reply := dnsmessage.Header{ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired}
	if !hasA && !hasTXT {
		reply.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(out, reply)
	b.EnableCompression()
	rh := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: zoneTTL}
	steps := []func() error{b.StartQuestions, func() error { return b.Question(q) }, b.StartAnswers}
	if hasA && q.Type == dnsmessage.TypeA {
		steps = append(steps, func() error { return b.AResource(rh, dnsmessage.AResource{A: addr}) })
	}
	if hasTXT && q.Type == dnsmessage.TypeTXT {
		steps = append(steps, func() error { return b.TXTResource(rh, dnsmessage.TXTResource{TXT: []string{text}}) })
	}
	who := dnsmessage.TXTResource{TXT: []string{s.o.Node, z.serial}}
	steps = append(steps, b.StartAdditionals, func() error { return b.TXTResource(rh, who) })
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, false
		}
	}
	msg, err := b.Finish()
	return msg, err == nil
}
