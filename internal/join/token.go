// Package join lets a machine become a node: one-time tokens, and the
// conversation in which one is exchanged for a certificate.
//
// The machine makes its key and keeps it. It knows the cluster by the CA's
// fingerprint in the token, sends the token's secret to nobody but the holder of
// the CA's key, and gets a certificate, the heartbeat key and what the cluster
// is. The package never adds a node to the configuration: a token is made for a
// node that is in it.
//
//	token, err := join.Make(state, "e", join.Terms{Expires: time.Hour})  // where the CA is
//	err = authority.Serve(ctx, conn)                                      // there, in the agent
//	result, err := join.Join(ctx, join.Options{...})                      // on the new machine
package join

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"revolve/internal/peer"
	"revolve/internal/problem"
)

const (
	tokenPrefix = "rvj1-" // says what it is and its version; people find it in the wrong places
	idSize      = 8
	secretSize  = 16 // 128 bits: nobody guesses that, at any rate
	sumSize     = 4  // tells a mistyped token from a wrong one
	tokenSize   = idSize + secretSize + sha256.Size + sumSize
	// MaxToken bounds a token's file: the token and some white space.
	MaxToken = 1024
)

// Token is the right to join once. Printing one shows no secret.
type Token struct {
	id     [idSize]byte
	secret [secretSize]byte
	ca     [sha256.Size]byte
}

// String names the token without its secret.
func (t *Token) String() string { return "token " + hex.EncodeToString(t.id[:]) }

// GoString keeps the secret out of %#v.
func (t *Token) GoString() string { return t.String() }

// Text is the token as a person carries it: secret.
func (t *Token) Text() string {
	b := append(append(append(make([]byte, 0, tokenSize), t.id[:]...), t.secret[:]...), t.ca[:]...)
	sum := sha256.Sum256(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:sumSize]...))
}

func newToken(ca *peer.Identity) *Token {
	t := &Token{ca: peer.Fingerprint(ca.CA())}
	rand.Read(t.id[:]) // never fails: crypto/rand
	rand.Read(t.secret[:])
	return t
}

// Parse reads a token. Its errors never quote it.
func Parse(text string) (*Token, error) {
	fail := func(why string) (*Token, error) {
		return nil, &problem.Problem{Op: "read token", Kind: problem.Invalid, Err: errors.New(why),
			Hint: "copy the whole line that `revolve token NODE` printed; it begins with " + tokenPrefix}
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	if !ok {
		return fail("that is not a token")
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != tokenSize {
		return fail("the token is not complete")
	}
	body := b[:tokenSize-sumSize]
	if sum := sha256.Sum256(body); string(sum[:sumSize]) != string(b[len(body):]) {
		return fail("the token is mistyped")
	}
	t := &Token{}
	copy(t.id[:], body)
	copy(t.secret[:], body[idSize:])
	copy(t.ca[:], body[idSize+secretSize:])
	return t, nil
}

// Read takes a token from a file, or from in if the name is "-".
func Read(name string, in io.Reader) (*Token, error) {
	r := in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			kind := problem.Unavailable
			if errors.Is(err, fs.ErrNotExist) {
				kind = problem.NotFound
			}
			return nil, &problem.Problem{Op: "read token", Kind: kind, Subject: name, Err: err, Hint: "name the file that has the token, or - for standard input"}
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, MaxToken+1))
	if err == nil && len(b) > MaxToken {
		err = fmt.Errorf("more than %d bytes", MaxToken)
	}
	if err != nil {
		return nil, &problem.Problem{Op: "read token", Kind: problem.Invalid, Subject: name, Err: err}
	}
	return Parse(string(b))
}
