package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// Anybody stands for whatever node of the cluster answers at an address.
const Anybody cluster.NodeID = ""

// lenient lets anybody of the cluster be anybody, also a node that is not in this
// node's configuration; revoked it may not be.
func lenient(to cluster.NodeID, err error) error {
	var r *Refused
	if to == Anybody && errors.As(err, &r) && r.Why == WhyUnknown {
		return nil
	}
	return err
}

// Dial connects to a node for a service (at most 64 bytes), over the first of
// paths that works; a path over which no connection comes at once is not waited for alone. problem.Permission: it refused us, or is not who we dialled.
// problem.Unavailable or problem.Timeout: no path leads there now.
func Dial(ctx context.Context, id *Identity, to cluster.NodeID, paths []Path, service string) (*Conn, error) {
	const op = "connect to"
	if len(service) > maxWord {
		return nil, &problem.Problem{Op: op, Kind: problem.Internal, Subject: string(to), Err: fmt.Errorf("service name of %d bytes", len(service))}
	}
	if len(paths) == 0 {
		return nil, &problem.Problem{Op: op, Kind: problem.Invalid, Subject: string(to), Err: errors.New("no link in common"),
			Hint: "give both nodes an address on the same link"}
	}
	result := &problem.Problem{Op: op, Kind: problem.Timeout, Subject: string(to)}
	var causes []string
	var refused *Refused
	race := newRace(ctx, len(paths), func(ctx context.Context, i int) (net.Conn, error) { return connect(ctx, paths[i]) })
	defer race.end()
	for i, raw, err, more := race.next(); more; i, raw, err, more = race.next() {
		var c *Conn
		if err == nil {
			c, err = greetOver(ctx, id, to, paths[i], raw, service)
		}
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, &problem.Problem{Op: op, Kind: problem.Unavailable, Subject: string(to), Err: ctx.Err()}
		}
		causes = append(causes, fmt.Sprintf("%s %s: %v", paths[i].Link, paths[i].Remote, err))
		// What a person must correct is worth more than what may pass.
		switch kind := kindOf(err); {
		case kind == problem.Permission && result.Kind != problem.Permission:
			result.Kind, result.Hint = kind, problem.HintOf(err)
		case kind != problem.Timeout && result.Kind == problem.Timeout:
			result.Kind, result.Hint = kind, problem.HintOf(err)
		}
		if refused == nil {
			errors.As(err, &refused)
		}
	}
	result.Err = errors.New(strings.Join(causes, "; "))
	if refused != nil { // a program may have to know why; a person reads all of it
		refused.Reason = result.Err.Error()
		result.Err = refused
	}
	return nil, result
}

// kindOf classifies what can go wrong on a path.
func kindOf(err error) problem.Kind {
	var p *problem.Problem
	var timeout net.Error
	switch {
	case errors.As(err, &p):
		return p.Kind
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return problem.Timeout
	}
	return problem.Unavailable
}

func connect(ctx context.Context, path Path) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: keepAlive()}
	if path.Local.IsValid() {
		dialer.LocalAddr = &net.TCPAddr{IP: path.Local.AsSlice()}
	}
	raw, err := dialer.DialContext(ctx, network(path.Remote.Addr()), path.Remote.String())
	if err != nil {
		return nil, plain(err)
	}
	return raw, nil
}

// greetOver makes a connection of the service out of one that nobody has greeted.
func greetOver(ctx context.Context, id *Identity, to cluster.NodeID, path Path, raw net.Conn, service string) (*Conn, error) {
	if sc, err := raw.(*net.TCPConn).SyscallConn(); err == nil {
		err = setDeadAfter(sc)
		if err != nil {
			raw.Close()
			return nil, err
		}
	}
	// A handshake that outlives its caller's patience is cut by closing the socket.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	c, err := greet(id, to, path.Link, raw, service)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// greet does the handshake and the hello, within handshakeTimeout.
func greet(id *Identity, to cluster.NodeID, link cluster.LinkID, raw net.Conn, service string) (*Conn, error) {
	if err := raw.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	stream := tls.Client(newRecords(raw), id.clientConfig(to))
	if err := stream.Handshake(); err != nil {
		return nil, refusal(err)
	}
	c := newConn(raw, stream)
	cert := stream.ConnectionState().PeerCertificates[0]
	c.peer, c.service, c.link, c.cert = cluster.NodeID(cert.Subject.CommonName), service, link, cert
	// A listener that refused us may have closed already; then the write fails,
	// but the reason waits to be read.
	sent := c.Write(kindHello, hello{service, link}.encode())
	if sent == nil {
		sent = c.Flush()
	}
	kind, payload, err := c.in.next()
	if err != nil {
		return nil, refusal(errors.Join(err, sent))
	}
	a, err := decodeAnswer(payload)
	if kind != kindAnswer || err != nil {
		return nil, &problem.Problem{Op: "greet", Kind: problem.Corrupt, Subject: string(to), Err: errors.New("its answer is not one of ours")}
	}
	if a.refused {
		return nil, &problem.Problem{Op: "refused by", Kind: a.kind, Subject: string(c.peer), Err: &Refused{a.why, a.generation, a.reason}, Hint: a.why.hint(c.peer, id.Node)}
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return c, lenient(to, id.enter(c))
}

// refusal names an alert of the other side for what it is. Go hands a received
// alert out as a net.OpError with this operation (crypto/tls, Conn.readRecord).
func refusal(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return &problem.Problem{Op: "refused by the other side", Kind: problem.Permission, Err: op.Err,
			Hint: "its log says why; if this identity is of another cluster, issue one where the cluster's init was done"}
	}
	return err
}

// clientConfig proves us to a listener, and accepts only the node that we dialled.
func (id *Identity) clientConfig(to cluster.NodeID) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		GetClientCertificate:        func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.current(), nil },
		InsecureSkipVerify:          true, // VerifyConnection does it: our CA, our names, our words
		DynamicRecordSizingDisabled: true, // whole records from the start; this is no web page
		VerifyConnection: func(cs tls.ConnectionState) error {
			node, err := id.verify(cs.PeerCertificates[0], x509.ExtKeyUsageServerAuth)
			if err == nil && node != to && to != Anybody {
				err = fmt.Errorf("it is %s, not %s", node, to)
			}
			if err == nil {
				err = lenient(to, id.judge(node, cs.PeerCertificates[0]))
			}
			if err != nil {
				return &problem.Problem{Op: "check", Kind: problem.Permission, Subject: "its certificate", Err: err,
					Hint: "see whether another machine has this address, or which cluster the identity is of"}
			}
			return nil
		},
	}
}

// plain removes from a network error what the caller says already.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}
