package demo

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/errgroup"

	"revolve/internal/problem"
)

// How the client asks: every 5 ms by IPv4, ten times less often by IPv6, and a
// query without an answer after a second is lost. flushEvery bounds how late the
// story hears of an answer.
const (
	askEvery4  = 5 * time.Millisecond
	askEvery6  = 50 * time.Millisecond
	lostAfter  = time.Second
	flushEvery = 20 * time.Millisecond
)

// askName is what the client asks for.
const askName = "www.demo.lan."

// answer is one query and what became of it, as it travels from the client to
// the story: answerSize bytes, big endian.
type answer struct {
	sent     instant
	answered instant // 0: lost
	six      bool
	node     byte   // first byte of the answering node's name
	serial   uint32 // of the zone that it answered from
}

const answerSize = 8 + 8 + 1 + 1 + 4

func (a answer) encode(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(a.sent))
	b = binary.BigEndian.AppendUint64(b, uint64(a.answered))
	six := byte(0)
	if a.six {
		six = 1
	}
	b = append(b, six, a.node)
	return binary.BigEndian.AppendUint32(b, a.serial)
}

func decodeAnswer(b *[answerSize]byte) answer {
	return answer{
		sent:     instant(binary.BigEndian.Uint64(b[0:])),
		answered: instant(binary.BigEndian.Uint64(b[8:])),
		six:      b[16] != 0,
		node:     b[17],
		serial:   binary.BigEndian.Uint32(b[18:]),
	}
}

// Ask asks the servers for a name again and again and writes every answer to out
// in the form that the story reads, until ctx ends. It is an ordinary client: the
// kernel's neighbour table finds the server, nothing retries.
func Ask(ctx context.Context, servers []netip.Addr, out io.Writer) error {
	log := &answerLog{w: bufio.NewWriterSize(out, 64<<10)}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range servers {
		every := askEvery4
		if s.Is6() {
			every = askEvery6
		}
		c, err := net.Dial("udp", netip.AddrPortFrom(s, portDNS).String())
		if err != nil {
			return &problem.Problem{Op: "ask", Subject: s.String(), Kind: problem.Unavailable, Err: err}
		}
		defer c.Close()
		a := &asker{conn: c, six: s.Is6(), log: log}
		g.Go(func() error { return a.send(ctx, every) })
		g.Go(func() error { return a.receive(ctx) })
	}
	g.Go(func() error { return log.flush(ctx) })
	return g.Wait()
}

// answerLog collects answers and hands them on in batches.
type answerLog struct {
	mu  sync.Mutex
	w   *bufio.Writer
	buf []byte
}

func (l *answerLog) add(a answer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = a.encode(l.buf[:0])
	_, err := l.w.Write(l.buf)
	return err
}

func (l *answerLog) flush(ctx context.Context) error {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		l.mu.Lock()
		err := l.w.Flush()
		l.mu.Unlock()
		if err != nil {
			return &problem.Problem{Op: "write answers", Kind: problem.Unavailable, Err: err}
		}
	}
}

// asker asks one server. A query's ID is its number, so the 65536 places of the
// ring last far longer than lostAfter.
type asker struct {
	conn net.Conn
	six  bool
	log  *answerLog

	mu   sync.Mutex
	sent [1 << 16]instant // by ID; 0 = answered, lost or never asked
}

func (a *asker) send(ctx context.Context, every time.Duration) error {
	query, err := makeQuery()
	if err != nil {
		return err
	}
	t := time.NewTicker(every)
	defer t.Stop()
	behind := int(lostAfter / every)
	for id := uint16(1); ; id++ {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		at := now()
		a.mu.Lock()
		old := id - uint16(behind)
		lost := a.sent[old]
		a.sent[old], a.sent[id] = 0, at
		a.mu.Unlock()
		if lost != 0 {
			if err := a.log.add(answer{sent: lost, six: a.six}); err != nil {
				return &problem.Problem{Op: "write answers", Kind: problem.Unavailable, Err: err}
			}
		}
		binary.BigEndian.PutUint16(query, id) // RFC 1035, 4.1.1: the ID comes first
		_, _ = a.conn.Write(query)            // "host unreachable" is a lost query, no end
	}
}

func makeQuery() ([]byte, error) {
	name, err := dnsmessage.NewName(askName)
	if err != nil {
		return nil, &problem.Problem{Op: "make a query", Kind: problem.Internal, Err: err}
	}
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		return nil, &problem.Problem{Op: "make a query", Kind: problem.Internal, Err: err}
	}
	return b, nil
}

func (a *asker) receive(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = a.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxMessage)
	for {
		n, err := a.conn.Read(buf)
		at := now()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return &problem.Problem{Op: "read answers", Kind: problem.Internal, Err: err}
		case err != nil:
			continue // an ICMP error for an earlier query (udp(7)); that one is lost
		}
		got, id, err := readReply(buf[:n])
		if err != nil {
			continue
		}
		a.mu.Lock()
		got.sent = a.sent[id]
		a.sent[id] = 0
		a.mu.Unlock()
		if got.sent == 0 {
			continue // later than lostAfter, or twice
		}
		got.answered, got.six = at, a.six
		if err := a.log.add(got); err != nil {
			return &problem.Problem{Op: "write answers", Kind: problem.Unavailable, Err: err}
		}
	}
}

// readReply takes who answered, and from which serial, out of a reply. A reply
// without an address is none: that server does not have the zone.
func readReply(b []byte) (answer, uint16, error) {
	var a answer
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		return a, 0, err
	}
	if !m.Response || m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) == 0 || len(m.Additionals) == 0 {
		return a, 0, errors.New("not the answer")
	}
	who, ok := m.Additionals[0].Body.(*dnsmessage.TXTResource)
	if !ok || len(who.TXT) != 2 || who.TXT[0] == "" {
		return a, 0, errors.New("nobody's answer")
	}
	a.node = who.TXT[0][0]
	_, err := fmt.Sscan(who.TXT[1], &a.serial)
	return a, m.ID, err
}
