package peer

import (
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

// answer is what the listener says: welcome (kind 0), or the problem.Kind and reason of a refusal.
type answer struct {
	refused bool
	kind    problem.Kind
	reason  string
}

func (a answer) encode() []byte {
	if !a.refused {
		return []byte{0}
	}
	reason := a.reason[:min(len(a.reason), maxReason)]
	return append([]byte{1, byte(a.kind)}, reason...)
}

func decodeAnswer(b []byte) (answer, error) {
	switch {
	case len(b) == 1 && b[0] == 0:
		return answer{}, nil
	case len(b) >= 2 && b[0] == 1 && len(b) <= 2+maxReason:
		return answer{refused: true, kind: problem.Kind(b[1]), reason: string(b[2:])}, nil
	}
	return answer{}, errors.New("malformed answer")
}
