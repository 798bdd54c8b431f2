package peer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// With TLS 1.3 a client's handshake is over before the server has judged its
// certificate (RFC 8446 section 2: the server's verdict comes as an alert in
// what the client reads next). So the first frame each way is a hello and its
// answer, and Dial knows whether it was let in, and if not, why.

const (
	kindHello  = 1
	kindAnswer = 2

	helloVersion = 1
	maxWord      = 64  // bytes of a service or link name
	maxReason    = 256 // bytes of a refusal
)

// hello is what the dialler says: version, service, link.
type hello struct {
	service string
	link    cluster.LinkID
}

func (h hello) encode() []byte {
	b := []byte{helloVersion, byte(len(h.service))}
	b = append(b, h.service...)
	b = append(b, byte(len(h.link)))
	return append(b, h.link...)
}

func decodeHello(b []byte) (hello, error) {
	if len(b) == 0 {
		return hello{}, errors.New("empty hello")
	}
	if b[0] != helloVersion {
		return hello{}, fmt.Errorf("hello of version %d, this node speaks %d", b[0], helloVersion)
	}
	service, rest, ok := word(b[1:])
	link, rest, ok2 := word(rest)
	if !ok || !ok2 || len(rest) > 0 {
		return hello{}, errors.New("malformed hello")
	}
	return hello{service: service, link: cluster.LinkID(link)}, nil
}

// word takes a name with its length in front of it.
func word(b []byte) (string, []byte, bool) {
	if len(b) == 0 || int(b[0]) > maxWord || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}

// Why is what a refusal is about, for programs; the numbers travel.
type Why uint8

// The reasons of a refusal.
const (
	WhyOther   Why = 0
	WhyUnknown Why = 1 // the node is not in the configuration there
	WhyRevoked Why = 2 // its certificate was revoked
	WhyExpired Why = 3 // its certificate is not valid now
)

// hint is the next step of the one who was refused.
func (w Why) hint(by, self cluster.NodeID) string {
	switch w {
	case WhyUnknown:
		return fmt.Sprintf("compare the configuration of %s with this node's: %s must be in its nodes (revolve config apply FILE)", by, self)
	case WhyRevoked:
		return fmt.Sprintf("to let this machine in again, get a token where the CA is (revolve token %s), move the state's identity away and join", self)
	case WhyExpired:
		return fmt.Sprintf("set the clock; or get a token where the CA is (revolve token %s), move the state's identity away and join again", self)
	}
	return ""
}

// Refused is the error of a dial that the other node refused.
type Refused struct {
	Why        Why
	Generation uint32 // of the members as the other node knows them
	Reason     string
}

// Error is the reason as the other node said it.
func (r *Refused) Error() string { return r.Reason }

// answer is what the listener says: welcome, or a refusal with its problem.Kind,
// why, the generation of the members there, and the reason in words.
type answer struct {
	refused    bool
	kind       problem.Kind
	why        Why
	generation uint32
	reason     string
}

const refusalHead = 7 // 1, kind, why, generation

func (a answer) encode() []byte {
	if !a.refused {
		return []byte{0}
	}
	b := binary.BigEndian.AppendUint32([]byte{1, byte(a.kind), byte(a.why)}, a.generation)
	return append(b, a.reason[:min(len(a.reason), maxReason)]...)
}

func decodeAnswer(b []byte) (answer, error) {
	switch {
	case len(b) == 1 && b[0] == 0:
		return answer{}, nil
	case len(b) >= refusalHead && b[0] == 1 && len(b) <= refusalHead+maxReason:
		return answer{refused: true, kind: problem.Kind(b[1]), why: Why(b[2]), generation: binary.BigEndian.Uint32(b[3:]), reason: string(b[refusalHead:])}, nil
	}
	return answer{}, errors.New("malformed answer")
}
