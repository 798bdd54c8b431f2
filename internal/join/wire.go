package join

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"revolve/internal/cluster"
	"revolve/internal/problem"
	"revolve/internal/roster"
)

// The conversation, over TLS that only the node has proved itself in; each
// message is a length (u32) and JSON:
//
//	node     Offer: whether the CA is here, proved by its signature, or whom to ask
//	newcomer Request: token, name, and a certificate request signed by its key
//	node     Answer: the certificate and what the cluster is, or why not
const (
	maxRequest = 8 << 10 // a token, a name and a request of an Ed25519 key: under 1 KiB
	maxOffer   = 16 << 10
	maxAnswer  = roster.MaxBytes + 64<<10
	maxAsk     = 16 // nodes that an offer may name
)

// exporter is the label under which both sides of one TLS connection, and nobody
// else, compute the same bytes (RFC 8446 section 7.5): what the CA signs.
const exporter = "EXPORTER-revolve-join"

func proven(material []byte) []byte { return append([]byte("revolve join 1\x00"), material...) }

// Offer is what a node says first.
type Offer struct {
	Node  cluster.NodeID `json:"node"`
	Here  bool           `json:"here"`            // the CA is here
	Proof []byte         `json:"proof,omitempty"` // Here: the CA's signature over this connection
	Ask   []Elsewhere    `json:"ask,omitempty"`   // not Here: where the CA is
}

// Elsewhere is a node that has the CA.
type Elsewhere struct {
	Node  cluster.NodeID `json:"node"`
	Addrs []string       `json:"addrs"` // ADDRESS:PORT
}

// Request is what a newcomer says.
type Request struct {
	ID     [idSize]byte     `json:"id"`
	Secret [secretSize]byte `json:"secret"`
	Node   cluster.NodeID   `json:"node"`
	CSR    []byte           `json:"csr"` // PKCS #10, DER
}

// Answer is what the node with the CA says to it.
type Answer struct {
	Refused *Refusal `json:"refused,omitempty"`
	Cert    []byte   `json:"cert,omitempty"`      // DER
	Key     string   `json:"heartbeat,omitempty"` // hexadecimal
	Roster  []byte   `json:"roster,omitempty"`    // JSON of roster.Roster
}

// Refusal is a problem as it travels.
type Refusal struct {
	Kind problem.Kind `json:"kind"`
	Err  string       `json:"err"`
	Hint string       `json:"hint,omitempty"`
}

func write(w io.Writer, v any, limit int) error {
	b, err := json.Marshal(v)
	if err == nil && len(b) > limit {
		err = fmt.Errorf("a message of %d bytes, at most %d", len(b), limit)
	}
	if err != nil {
		return &problem.Problem{Op: "write message", Kind: problem.Internal, Err: err}
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// read takes one message of at most limit bytes. Nothing is allocated for a
// length that is not allowed, and no more than arrives.
func read(r io.Reader, v any, limit int) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(limit) {
		return &problem.Problem{Op: "read message", Kind: problem.Corrupt, Err: fmt.Errorf("it says %d bytes, at most %d", n, limit)}
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return err
	}
	return decode(b.Bytes(), v)
}

func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &problem.Problem{Op: "read message", Kind: problem.Corrupt, Err: errors.New("not a message of this protocol")} // without err: it may quote a secret
	}
	return nil
}

// newcomerKey checks a certificate request: it is signed by the key that it
// names, so whoever sent it has that key. Only the key counts; the name is the token's.
func newcomerKey(csr []byte) (*x509.CertificateRequest, [sha256.Size]byte, error) {
	fail := func(why string) (*x509.CertificateRequest, [sha256.Size]byte, error) {
		return nil, [sha256.Size]byte{}, &problem.Problem{Op: "read certificate request", Kind: problem.Invalid, Err: errors.New(why)}
	}
	q, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return fail("it cannot be read")
	}
	if q.PublicKeyAlgorithm != x509.Ed25519 {
		return fail("its key is not Ed25519")
	}
	if q.CheckSignature() != nil {
		return fail("it is not signed by the key that it names")
	}
	return q, sha256.Sum256(q.RawSubjectPublicKeyInfo), nil
}
