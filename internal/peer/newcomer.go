package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// JoinProtocol is what a machine without an identity asks for in its TLS hello
// (ALPN, RFC 7301). It is all that a stranger may ask.
const JoinProtocol = "revolve-join/1"

const (
	// maxJoining bounds the strangers that are talked to at once; a join takes milliseconds.
	maxJoining = 4
	// joinTimeout bounds one conversation as a whole, whatever the stranger does.
	joinTimeout = 15 * time.Second
)

// Newcomers makes the listener serve machines without an identity with handle,
// within bounds of number and time. What handle returns is logged at a bounded
// rate. Call it before Serve.
func (l *Listener) Newcomers(handle func(ctx context.Context, c *tls.Conn) error) {
	l.newcomer = handle
}

// config is that of the handshake: of nodes, or of a newcomer.
func (l *Listener) config() *tls.Config {
	nodes := l.id.serverConfig()
	if l.newcomer == nil {
		return nodes
	}
	nodes.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Contains(h.SupportedProtos, JoinProtocol) {
			return nil, nil
		}
		c := l.id.current()
		return &tls.Config{
			MinVersion: tls.VersionTLS13,
			// With the CA's own certificate: the newcomer knows only its fingerprint.
			Certificates:           []tls.Certificate{{Certificate: [][]byte{c.Certificate[0], l.id.ca.Raw}, PrivateKey: c.PrivateKey}},
			NextProtos:             []string{JoinProtocol},
			SessionTicketsDisabled: true,
		}, nil
	}
	return nodes
}

// join talks to a newcomer.
func (l *Listener) join(ctx context.Context, raw net.Conn, stream *tls.Conn) {
	l.mu.Lock()
	full := l.joining >= maxJoining
	if !full {
		l.joining++
	}
	l.mu.Unlock()
	if full {
		l.refuse(raw.RemoteAddr(), "", errors.New("too many machines want to join at once"))
		return
	}
	defer func() {
		l.mu.Lock()
		l.joining--
		l.mu.Unlock()
	}()
	err := raw.SetDeadline(time.Now().Add(joinTimeout))
	if err == nil {
		err = l.newcomer(ctx, stream)
	}
	if err != nil && ctx.Err() == nil {
		l.refuse(raw.RemoteAddr(), "", err)
		linger(raw)
	}
}

// Fingerprint is how a token names a CA: SHA-256 of its certificate.
func Fingerprint(ca *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(ca.Raw) }

// DialJoin connects a machine without an identity to a node, and proves that the
// node is of the cluster whose CA has that fingerprint. The whole conversation
// must end within joinTimeout.
func DialJoin(ctx context.Context, addr netip.AddrPort, ca [sha256.Size]byte) (*tls.Conn, *Identity, error) {
	const op = "connect to"
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: keepAlive()}
	raw, err := dialer.DialContext(ctx, network(addr.Addr()), addr.String())
	if err != nil {
		return nil, nil, &problem.Problem{Op: op, Kind: kindOf(err), Subject: addr.String(), Err: plain(err),
			Hint: "see whether an agent runs there, and whether the address and port are right"}
	}
	fail := func(err error) (*tls.Conn, *Identity, error) {
		raw.Close()
		var p *problem.Problem
		if errors.As(err, &p) {
			return nil, nil, p
		}
		return nil, nil, &problem.Problem{Op: op, Kind: kindOf(err), Subject: addr.String(), Err: refusal(err)}
	}
	if err := raw.SetDeadline(time.Now().Add(joinTimeout)); err != nil {
		return fail(err)
	}
	seen := &Identity{roots: x509.NewCertPool(), live: &live{}}
	stream := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{JoinProtocol}, InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(cs tls.ConnectionState) error { return seen.learn(addr, cs, ca) },
	})
	if err := stream.HandshakeContext(ctx); err != nil {
		return fail(err)
	}
	if stream.ConnectionState().NegotiatedProtocol != JoinProtocol {
		return fail(&problem.Problem{Op: op, Kind: problem.Unavailable, Subject: addr.String(), Err: errors.New("this node lets nobody join"), Hint: "ask another node of the cluster"})
	}
	return stream, seen, nil
}

// learn checks a node's certificates by the fingerprint of its CA.
func (id *Identity) learn(addr netip.AddrPort, cs tls.ConnectionState, ca [sha256.Size]byte) error {
	stranger := func(why string) error {
		return &problem.Problem{Op: "check", Kind: problem.Permission, Subject: addr.String(), Err: errors.New(why),
			Hint: "the token is for another cluster, or another machine has this address; nothing was sent to it"}
	}
	certs := cs.PeerCertificates
	if len(certs) != 2 || Fingerprint(certs[1]) != ca {
		return stranger("it is not of the cluster that made the token")
	}
	id.ca, id.leaf = certs[1], certs[0]
	id.roots.AddCert(id.ca)
	if len(id.leaf.Subject.Organization) == 1 {
		id.Cluster = id.leaf.Subject.Organization[0]
	}
	node, err := id.verify(id.leaf, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return stranger(err.Error())
	}
	id.Node = node
	return nil
}

// pendingDir keeps the key of a join that has not ended yet, in the state directory.
const pendingDir = "joining"

// PendingKey is the key that this machine joins with: made at the first try and
// kept until the join is done, so that an interrupted one can be repeated.
func PendingKey(state string) (ed25519.PrivateKey, error) {
	fail := func(err error) (ed25519.PrivateKey, error) {
		p := &problem.Problem{Op: "make key", Kind: problem.Unavailable, Subject: state, Err: err}
		if errors.Is(err, fs.ErrPermission) {
			p.Kind, p.Hint = problem.Permission, "choose a directory that this user may write with --state"
		}
		return nil, p
	}
	if _, err := os.Lstat(filepath.Join(state, dirName)); err == nil {
		return nil, &problem.Problem{Op: "make key", Kind: problem.Conflict, Subject: state, Err: errors.New("there is an identity already"),
			Hint: "nothing was changed; to join anew, move " + filepath.Join(state, dirName) + " away first"}
	}
	dir := filepath.Join(state, pendingDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	path := filepath.Join(dir, nodeKeyFile)
	data, err := readIdentityFile(path)
	if err == nil {
		key, err := parseKey(data)
		if err != nil {
			return nil, corrupt(path, err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	text, err := keyPEM(key)
	if err == nil {
		err = ReplaceDurably(dir, nodeKeyFile, text, 0o600)
	}
	if err != nil {
		return fail(err)
	}
	return key, nil
}

// Place makes the identity directory of a joined node, as a whole, from its
// certificate, the pending key and the heartbeat key, and forgets the pending
// key. seen is what DialJoin proved. The certificate is checked first.
func (id *Identity) Place(state string, key ed25519.PrivateKey, node cluster.NodeID, cert []byte, beat [32]byte) error {
	const op = "join"
	leaf, err := x509.ParseCertificate(cert)
	if err == nil {
		var named cluster.NodeID
		named, err = id.verify(leaf, x509.ExtKeyUsageServerAuth)
		if err == nil && (named != node || !sameKey(leaf.PublicKey, key.Public())) {
			err = fmt.Errorf("it is for %q, or for another key", named)
		}
	}
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Corrupt, Subject: "the certificate that came", Err: err}
	}
	text, err := keyPEM(key)
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Internal, Err: err}
	}
	if err := place(op, state, identityFiles(id.ca.Raw, cert, text, beat)); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(state, pendingDir))
}
