package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

const (
	// maxPerPeer is two connections for each of 64 volumes, and as many again
	// that the peer has given up and this side has not yet noticed.
	maxPerPeer = 256
	// maxConns is maxPerPeer for a few peers at once. A connection costs 128 KiB
	// of buffers, and as much as its largest frame.
	maxConns = 1024
	// maxUnproven bounds what strangers can occupy: sockets in their handshake.
	maxUnproven = 64
	// acceptPause is the rest after a failed accept (out of descriptors), so
	// that a lasting cause does not become a busy loop.
	acceptPause = 50 * time.Millisecond
	// lingerTime is how long a refused peer has to fetch the refusal.
	lingerTime = time.Second
)

// Listener accepts connections of known nodes.
type Listener struct {
	id        *Identity
	known     func(cluster.NodeID) bool
	log       *slog.Logger
	strangers *strangers
	sockets   []net.Listener
	newcomer  func(ctx context.Context, c *tls.Conn) error

	mu       sync.Mutex
	unproven int
	joining  int
	total    int
	perPeer  map[cluster.NodeID]int
}

// Listen binds addrs; an address that does not exist yet is no error. An address
// in use is problem.Conflict. known says which nodes are in the configuration;
// it is asked at every connection. The caller must call Serve or Close.
func Listen(ctx context.Context, id *Identity, known func(cluster.NodeID) bool, addrs []netip.AddrPort, log *slog.Logger) (*Listener, error) {
	l := &Listener{id: id, known: known, log: log, strangers: newStrangers(), perPeer: map[cluster.NodeID]int{}}
	lc := net.ListenConfig{
		KeepAliveConfig: keepAlive(),
		Control:         func(network, address string, raw syscall.RawConn) error { return freeBind(ctx, network, address, raw) },
	}
	lc.SetMultipathTCP(false) // TCP_USER_TIMEOUT is what we rely on
	for _, addr := range addrs {
		socket, err := lc.Listen(ctx, network(addr.Addr()), addr.String())
		if err != nil {
			l.Close()
			return nil, listenProblem(addr, err)
		}
		l.sockets = append(l.sockets, socket)
	}
	return l, nil
}

func listenProblem(addr netip.AddrPort, err error) error {
	p := &problem.Problem{Op: "listen on", Kind: problem.Unavailable, Subject: addr.String(), Err: plain(err)}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		p.Kind = problem.Conflict
		p.Hint = "stop what holds the port, or choose another with the key port in the configuration"
		if who := holder(addr); who != "" {
			p.Err = fmt.Errorf("%w by %s", p.Err, who)
		}
	case errors.Is(err, syscall.EACCES):
		p.Kind = problem.Permission
		p.Hint = "ports below 1024 need privilege; choose another with the key port in the configuration"
	}
	return p
}

// Addrs are the bound addresses, in the order given to Listen (port 0 resolved).
func (l *Listener) Addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, len(l.sockets))
	for i, s := range l.sockets {
		addrs[i] = s.Addr().(*net.TCPAddr).AddrPort()
	}
	return addrs
}

// Close releases the addresses if Serve was never called.
func (l *Listener) Close() error {
	var errs []error
	for _, s := range l.sockets {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Serve runs handle, each in its own goroutine, for every connection that proved
// itself; it closes the connection when handle returns. When ctx ends, Serve
// closes the listener and every connection, waits for all handlers, and returns nil.
func (l *Listener) Serve(ctx context.Context, handle func(ctx context.Context, c *Conn)) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for _, socket := range l.sockets {
		group.Go(func() error {
			l.accept(ctx, group, socket, handle)
			return nil
		})
	}
	return group.Wait()
}

func (l *Listener) accept(ctx context.Context, group *errgroup.Group, socket net.Listener, handle func(context.Context, *Conn)) {
	for ctx.Err() == nil {
		raw, err := socket.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			l.refuse(socket.Addr(), "", fmt.Errorf("accept: %w", plain(err)))
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if !l.enter() {
			l.refuse(raw.RemoteAddr(), "", errors.New("too many connections that have not proved themselves"))
			raw.Close()
			continue
		}
		group.Go(func() error {
			l.serve(ctx, raw, handle)
			return nil
		})
	}
}

// serve takes one connection from its first byte to its end.
func (l *Listener) serve(ctx context.Context, raw net.Conn, handle func(context.Context, *Conn)) {
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	stream, err := l.handshake(raw)
	if err == nil && stream.ConnectionState().NegotiatedProtocol == JoinProtocol {
		l.join(ctx, raw, stream)
		l.leave("")
		return
	}
	var c *Conn
	if err == nil {
		c, err = l.prove(raw, stream)
	}
	if err != nil {
		var peer cluster.NodeID
		if c != nil {
			peer = c.peer
		}
		if ctx.Err() == nil {
			l.refuse(raw.RemoteAddr(), peer, err)
			linger(raw)
		}
		l.leave("")
		return
	}
	l.leave("")
	defer l.leave(c.peer)
	defer c.Close()
	handle(ctx, c)
}

func (l *Listener) handshake(raw net.Conn) (*tls.Conn, error) {
	if err := raw.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	sc, err := raw.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := setDeadAfter(sc); err != nil {
		return nil, err
	}
	stream := tls.Server(newRecords(raw), l.config())
	if err := stream.Handshake(); err != nil {
		return nil, judged(err)
	}
	return stream, nil
}

// prove reads the hello and answers it. On success the connection counts as its peer's.
func (l *Listener) prove(raw net.Conn, stream *tls.Conn) (*Conn, error) {
	c := newConn(raw, stream)
	c.cert = stream.ConnectionState().PeerCertificates[0]
	c.peer = cluster.NodeID(c.cert.Subject.CommonName)
	kind, payload, err := c.in.next()
	if err != nil {
		return c, judged(err)
	}
	h, err := decodeHello(payload)
	a := answer{}
	switch {
	case kind != kindHello || err != nil:
		a = answer{refused: true, kind: problem.Corrupt, reason: "not a hello that this node understands"}
	case l.unwelcome(c, &a):
	case !l.admit(c.peer):
		a = answer{refused: true, kind: problem.Unavailable, reason: fmt.Sprintf("too many connections (%d from one node, %d in all)", maxPerPeer, maxConns)}
	}
	c.service, c.link = h.service, h.link
	err = c.Write(kindAnswer, a.encode())
	if err == nil {
		err = c.Flush()
	}
	if a.refused {
		return c, errors.New(a.reason)
	}
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err == nil {
		err = l.id.enter(c)
	}
	if err != nil {
		l.leave(c.peer)
		return c, err
	}
	return c, nil
}

// unwelcome says why a node of our CA gets nothing: it is not in the
// configuration, not any more, or its time is over.
func (l *Listener) unwelcome(c *Conn, a *answer) bool {
	why, err := WhyOther, error(nil)
	var r *Refused
	switch {
	case !l.known(c.peer):
		why, err = WhyUnknown, fmt.Errorf("node %s is not in the configuration here", c.peer)
	default:
		err = l.id.judge(c.peer, c.cert)
		if errors.As(err, &r) {
			why = r.Why
		} else if err == nil {
			why, err = WhyExpired, l.id.timely(c.cert, time.Now())
		}
	}
	if err == nil {
		return false
	}
	*a = answer{refused: true, kind: problem.Permission, why: why, generation: l.id.generation(), reason: err.Error()}
	return true
}

// judged says in our words what a failed handshake means.
func judged(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return fmt.Errorf("it does not accept our certificate: %w", op.Err)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("it went away before it proved itself")
	}
	return err
}

// linger lets a refused peer read why before the connection ends. Closing with
// bytes unread would send a reset, which discards what the peer has not read yet
// (RFC 1122 section 4.2.2.13).
func linger(raw net.Conn) {
	tcp := raw.(*net.TCPConn)
	if tcp.CloseWrite() == nil && tcp.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, tcp, 1<<16) // ends with the peer's close or the deadline
	}
}

// serverConfig proves us to a dialler, and accepts any node of our cluster.
func (id *Identity) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		GetCertificate:              func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.current(), nil },
		ClientAuth:                  tls.RequireAnyClientCert, // VerifyConnection judges it, with a reason to log
		SessionTicketsDisabled:      true,                     // every connection proves itself anew
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := id.genuine(cs.PeerCertificates[0], x509.ExtKeyUsageClientAuth)
			return err // the rest is judged where the reason can be said
		},
	}
}

// enter counts a connection that has yet to prove itself.
func (l *Listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unproven >= maxUnproven {
		return false
	}
	l.unproven++
	return true
}

// admit counts a proven connection.
func (l *Listener) admit(peer cluster.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.perPeer[peer] >= maxPerPeer {
		return false
	}
	l.total++
	l.perPeer[peer]++
	return true
}

// leave uncounts a proven connection of peer, or an unproven one ("").
func (l *Listener) leave(peer cluster.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if peer == "" {
		l.unproven--
		return
	}
	l.total--
	if l.perPeer[peer]--; l.perPeer[peer] == 0 {
		delete(l.perPeer, peer)
	}
}

// refuse logs why a connection ended before it began, at a bounded rate.
func (l *Listener) refuse(remote net.Addr, peer cluster.NodeID, reason error) {
	host := remote.String()
	if tcp, ok := remote.(*net.TCPAddr); ok {
		host = tcp.AddrPort().Addr().String()
	}
	if omitted, say := l.strangers.say(host, time.Now()); say {
		l.log.Warn("connection refused", "remote", remote.String(), "peer", string(peer), "reason", reason.Error(), "omitted", omitted)
	}
}
