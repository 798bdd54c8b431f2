package web

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"revolve/internal/problem"
)

const (
	tokenFile   = "page-token.json" // in the state directory: the hash, never the token
	asidePrefix = "." + tokenFile + "-"
	tokenPrefix = "rvp1-" // says what it is and its version; people find it in the wrong places
	tokenSecret = 16      // 128 bits: nobody guesses that, at any rate, and a plain hash of it keeps it
	maxToken    = 256     // of what somebody types
	// MaxTokenLife is how long a token may be good: who needs longer makes another one.
	MaxTokenLife = 366 * 24 * time.Hour
)

// tokenRecord is what a node keeps of the token that signs in to its page.
type tokenRecord struct {
	Hash    string    `json:"hash"` // SHA-256 of the token's text, hexadecimal
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires"`
}

// MakeToken makes the token that signs in to this node's page, and forgets the one before with all who are
// signed in by it. The agent need not run, and need not be told.
func MakeToken(state string, life time.Duration, now time.Time) (text string, expires time.Time, err error) {
	const op = "make a token for the status page"
	if life <= 0 || life > MaxTokenLife {
		return "", expires, &problem.Problem{Op: op, Kind: problem.Invalid, Err: errors.New("it is good for more than nothing and for at most a year"), Hint: "revolve page token --expires 720h"}
	}
	var secret [tokenSecret]byte
	rand.Read(secret[:]) // never fails: crypto/rand
	text = tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	expires = now.Add(life).UTC().Truncate(time.Second)
	b, err := json.Marshal(tokenRecord{hashOf(text), now.UTC().Truncate(time.Second), expires})
	if err == nil {
		err = putToken(state, append(b, '\n'))
	}
	if err != nil {
		return "", expires, tokenProblem(op, state, err)
	}
	return text, expires, nil
}

// RevokeToken ends the token and all who are signed in by it; false: there was none. It stays ended after a power cut.
func RevokeToken(state string) (bool, error) { return revokeToken(state, settle) }

func revokeToken(state string, settle func(dir string) error) (bool, error) {
	const op = "revoke the token of the status page"
	err := os.Remove(filepath.Join(state, tokenFile))
	was := err == nil
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(state)
	}
	if err == nil {
		// Also if there was none: what removed it may not have come so far.
		err = errors.Join(sweep(state), settle(state))
	}
	if err != nil {
		return false, tokenProblem(op, state, err)
	}
	return was, nil
}

// sweep removes what a power cut left of records that were being written.
func sweep(state string) error {
	list, err := os.ReadDir(state)
	for _, e := range list {
		if strings.HasPrefix(e.Name(), asidePrefix) {
			err = errors.Join(err, os.Remove(filepath.Join(state, e.Name())))
		}
	}
	return err
}

// settle makes a directory's names durable.
func settle(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func tokenProblem(op, state string, err error) error {
	p := &problem.Problem{Op: op, Kind: problem.Unavailable, Subject: filepath.Join(state, tokenFile), Err: err}
	switch {
	case errors.Is(err, fs.ErrPermission):
		p.Kind, p.Hint = problem.Permission, "run it as the user of the agent (sudo)"
	case errors.Is(err, fs.ErrNotExist):
		p.Kind, p.Hint = problem.NotFound, "name the state directory of the node: --state DIR"
	}
	return p
}

// putToken writes the record aside, mode 0600, and renames it into place.
func putToken(state string, b []byte) error {
	if err := sweep(state); err != nil {
		return err
	}
	f, err := os.CreateTemp(state, asidePrefix) // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(state, tokenFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return settle(state)
}

// readToken reads the record; one that says nothing is no error, if there is none. It is read each time: a token that was
// revoked, or made anew, counts at once.
func readToken(state string) (r tokenRecord, err error) {
	b, err := os.ReadFile(filepath.Join(state, tokenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && len(r.Hash) != 2*sha256.Size {
		err = errors.New("there is no hash in it")
	}
	if err != nil {
		return tokenRecord{}, &problem.Problem{Op: "read the token of the status page", Kind: problem.Corrupt, Subject: filepath.Join(state, tokenFile), Err: err}
	}
	return r, nil
}

// goodAt is the token's hash while it is good, else "".
func (r tokenRecord) goodAt(now time.Time) string {
	if !now.Before(r.Expires) {
		return ""
	}
	return r.Hash
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
