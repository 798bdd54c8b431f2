// Package problem is the one error type of revolve.
//
// A Problem says what was attempted (Op), on what (Subject), what kind of
// failure it was (Kind), the cause (Err) and the next step for a person (Hint).
// Kind alone decides whether to retry, the exit status of a command and the
// HTTP status of the local API. The package never logs and never formats for a
// terminal; it imports nothing of revolve.
//
//	return &problem.Problem{Op: "open volume", Kind: problem.NotFound, Subject: path, Err: err,
//		Hint: "create the directory or correct volumes.home.path"}
package problem

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classifies a failure. The set is closed; the numbers travel on the wire
// and never change.
type Kind uint8

// The kinds of failure.
const (
	Internal    Kind = 0 // a bug of ours
	Invalid     Kind = 1 // the input is wrong; retrying cannot help
	NotFound    Kind = 2 // the thing named does not exist
	Conflict    Kind = 3 // the state of the world forbids it (port in use, already exists)
	Permission  Kind = 4 // the system or the peer refuses us
	Unavailable Kind = 5 // not now; retrying may help
	Timeout     Kind = 6 // it took longer than its deadline; retrying may help
	StaleTerm   Kind = 7 // it came from a reign older than one already seen
	Corrupt     Kind = 8 // stored or received bytes are not what was written
)

// String names the kind as it appears in logs and JSON.
func (k Kind) String() string {
	switch k {
	case Internal:
		return "internal"
	case Invalid:
		return "invalid"
	case NotFound:
		return "not-found"
	case Conflict:
		return "conflict"
	case Permission:
		return "permission"
	case Unavailable:
		return "unavailable"
	case Timeout:
		return "timeout"
	case StaleTerm:
		return "stale-term"
	case Corrupt:
		return "corrupt"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Retry reports whether the same attempt may succeed later without a change by a person.
func (k Kind) Retry() bool { return k == Unavailable || k == Timeout }

// HTTPStatus is the status code of the local API for this kind.
func (k Kind) HTTPStatus() int {
	switch k {
	case Invalid:
		return 400
	case Permission:
		return 403
	case NotFound:
		return 404
	case Conflict, StaleTerm:
		return 409
	case Unavailable:
		return 503
	case Timeout:
		return 504
	}
	return 500
}

// ExitStatus is the exit status of a command that fails with this kind. The
// statuses 1 and 2 are left to `status` and its verdicts.
func (k Kind) ExitStatus() int { return 10 + int(k) }

// Problem is an error that a person can act on.
type Problem struct {
	Op      string // what was attempted, lower case: "bind heartbeat socket"
	Kind    Kind
	Subject string // on what: a path, node, address
	Err     error  // the cause; may be nil
	Hint    string // one imperative line; may be empty
}

// Error is "op subject: cause", without the hint.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Op)
	if p.Subject != "" {
		if p.Op != "" {
			b.WriteByte(' ')
		}
		b.WriteString(p.Subject)
	}
	if p.Err != nil {
		b.WriteString(": ")
		b.WriteString(p.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// KindOf is the kind of the outermost Problem in err's chain, Internal if there is none.
func KindOf(err error) Kind {
	var p *Problem
	if errors.As(err, &p) {
		return p.Kind
	}
	return Internal
}

// HintOf is the first hint found in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var p *Problem
		if !errors.As(err, &p) {
			return ""
		}
		if p.Hint != "" {
			return p.Hint
		}
		err = p.Err
	}
	return ""
}
