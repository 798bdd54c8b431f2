package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strconv"
	"sync"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// live is what changes of an identity while the node runs: its certificate, and
// whose certificates still count.
type live struct {
	mu         sync.Mutex
	renewed    *tls.Certificate
	counts     func(node cluster.NodeID, epoch uint32) error
	generation func() uint32
	conns      map[*Conn]bool
}

// Epoch is the number that a certificate carries. When a node's identity is
// revoked or replaced, the cluster raises the lowest epoch that counts for its
// name: so certificates that nobody has a list of are refused too.
func Epoch(cert *x509.Certificate) uint32 {
	n, err := strconv.ParseUint(cert.Subject.SerialNumber, 10, 32)
	if err != nil {
		return 0 // certificates of epoch 0 carry no number
	}
	return uint32(n)
}

// Watch makes counts decide, at every connection, whether a node's certificate of
// that epoch still counts; generation is told to those who are refused. Both
// must be quick and are called from any goroutine.
func (id *Identity) Watch(counts func(node cluster.NodeID, epoch uint32) error, generation func() uint32) {
	id.live.mu.Lock()
	defer id.live.mu.Unlock()
	id.live.counts, id.live.generation = counts, generation
}

// Enforce closes every connection whose peer does not count any more.
func (id *Identity) Enforce() {
	id.live.mu.Lock()
	var over []*Conn
	for c := range id.live.conns {
		if id.live.counts != nil && id.live.counts(c.peer, Epoch(c.cert)) != nil {
			over = append(over, c)
		}
	}
	id.live.mu.Unlock()
	for _, c := range over {
		c.Close()
	}
}

// judge says why a genuine certificate does not count, nil if it does.
func (id *Identity) judge(node cluster.NodeID, cert *x509.Certificate) error {
	if id.live == nil {
		return nil
	}
	id.live.mu.Lock()
	defer id.live.mu.Unlock()
	if id.live.counts == nil {
		return nil
	}
	return id.live.counts(node, Epoch(cert))
}

func (id *Identity) generation() uint32 {
	if id.live == nil {
		return 0
	}
	id.live.mu.Lock()
	defer id.live.mu.Unlock()
	if id.live.generation == nil {
		return 0
	}
	return id.live.generation()
}

// enter registers a proven connection, so that Enforce finds it, and asks once
// more whether it counts: that may have changed since its handshake.
func (id *Identity) enter(c *Conn) error {
	if id.live == nil {
		return nil
	}
	id.live.mu.Lock()
	if id.live.conns == nil {
		id.live.conns = map[*Conn]bool{}
	}
	id.live.conns[c] = true
	c.leave = func() {
		id.live.mu.Lock()
		delete(id.live.conns, c)
		id.live.mu.Unlock()
	}
	counts := id.live.counts
	id.live.mu.Unlock()
	if counts == nil {
		return nil
	}
	if err := counts(c.peer, Epoch(c.cert)); err != nil {
		return &problem.Problem{Op: "connect", Kind: problem.Permission, Subject: string(c.peer), Err: err}
	}
	return nil
}

// current is the certificate that this node proves itself with now.
func (id *Identity) current() *tls.Certificate {
	if id.live != nil {
		id.live.mu.Lock()
		defer id.live.mu.Unlock()
		if id.live.renewed != nil {
			return id.live.renewed
		}
	}
	return &id.certificate
}

// Leaf is the certificate that this node proves itself with now.
func (id *Identity) Leaf() *x509.Certificate {
	c := id.current()
	if c.Leaf == nil {
		return id.leaf
	}
	return c.Leaf
}

// CA is the cluster's own certificate.
func (id *Identity) CA() *x509.Certificate { return id.ca }

// Dir is the directory that the identity was read from.
func (id *Identity) Dir() string { return id.dir }

// Renew takes a new certificate for the same key: it is checked, made durable,
// and used by every connection from now on.
func (id *Identity) Renew(der []byte) error {
	const op = "renew certificate"
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Corrupt, Subject: string(id.Node), Err: err}
	}
	node, err := id.verify(cert, x509.ExtKeyUsageServerAuth)
	if err == nil && (node != id.Node || !sameKey(cert.PublicKey, id.leaf.PublicKey)) {
		err = errors.New("it is not for this node's name and key")
	}
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Corrupt, Subject: string(id.Node), Err: err}
	}
	if err := ReplaceDurably(id.dir, nodeCertFile, certificatePEM(der), 0o644); err != nil {
		return &problem.Problem{Op: op, Kind: problem.Unavailable, Subject: id.dir, Err: err, Hint: "make the state directory writable"}
	}
	id.live.mu.Lock()
	defer id.live.mu.Unlock()
	id.live.renewed = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.certificate.PrivateKey, Leaf: cert}
	return nil
}
