package join

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

const (
	dirName    = "tokens" // in the state directory
	issuedFile = "issued.json"
	// maxRecords bounds the directory; more tokens than nodes were never needed at once.
	maxRecords = 64
	// remembered is how long an expired token is known, so that whoever uses it learns that it expired.
	remembered = 30 * 24 * time.Hour
	// maxRecordFile bounds a record: a certificate and a few words.
	maxRecordFile = 16 << 10
)

// Terms are those of a token.
type Terms struct {
	Expires time.Duration // from now
	Life    time.Duration // of the certificate that it is exchanged for
}

// record is a token as it is stored: the secret only as a hash.
type record struct {
	ID      string         `json:"id"`
	Hash    string         `json:"hash"` // SHA-256 of the secret, hexadecimal
	Node    cluster.NodeID `json:"node"`
	Made    time.Time      `json:"made"`
	Expires time.Time      `json:"expires"`
	Life    time.Duration  `json:"life"`
	Key     string         `json:"key,omitempty"`   // SHA-256 of the public key that used it, hexadecimal; "" if nobody has
	Epoch   uint32         `json:"epoch,omitempty"` // of the certificate, once used
	Used    time.Time      `json:"used,omitzero"`
	Cert    []byte         `json:"cert,omitempty"` // the certificate, DER: the same answer for the same key
}

// Make makes a token for a node, on the node that holds the CA, whether its
// agent runs or not.
func Make(state string, node cluster.NodeID, t Terms, now time.Time) (*Token, error) {
	ca, err := peer.LoadCA(state)
	if err != nil {
		return nil, err
	}
	tok := newToken(ca.Identity())
	hash := sha256.Sum256(tok.secret[:])
	r := &record{ID: hex.EncodeToString(tok.id[:]), Hash: hex.EncodeToString(hash[:]), Node: node, Made: now, Expires: now.Add(t.Expires), Life: t.Life}
	unlock, err := lock(state)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := prune(state, now); err != nil {
		return nil, err
	}
	return tok, put(state, r.ID+".json", r)
}

// lock makes the records this process's alone, among agent and commands.
func lock(state string) (func(), error) {
	fail := func(err error) (func(), error) {
		kind := problem.Unavailable
		if errors.Is(err, fs.ErrPermission) {
			kind = problem.Permission
		}
		return nil, &problem.Problem{Op: "open tokens", Kind: kind, Subject: filepath.Join(state, dirName), Err: err}
	}
	if err := os.MkdirAll(filepath.Join(state, dirName), 0o700); err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(filepath.Join(state, dirName, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return fail(err)
	}
	return func() { f.Close() }, nil
}

// prune forgets tokens that expired long ago, and refuses to go beyond the bound.
func prune(state string, now time.Time) error {
	files, err := filepath.Glob(filepath.Join(state, dirName, strings.Repeat("?", 2*idSize)+".json"))
	if err != nil {
		return err
	}
	left := 0
	for _, f := range files {
		r, err := get(f)
		if err == nil && now.Sub(r.Expires) < remembered {
			left++
			continue
		}
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	if left >= maxRecords {
		return &problem.Problem{Op: "make token", Kind: problem.Conflict, Err: fmt.Errorf("there are %d tokens of the last %d days", left, int(remembered.Hours())/24),
			Hint: "remove old ones from " + filepath.Join(state, dirName)}
	}
	return nil
}

func get(path string) (*record, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxRecordFile {
		return nil, errors.New("too large for a record")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &record{}
	return r, json.Unmarshal(b, r)
}

func put(state, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = peer.ReplaceDurably(filepath.Join(state, dirName), name, append(b, '\n'), 0o600)
	}
	if err != nil {
		return &problem.Problem{Op: "write token", Kind: problem.Unavailable, Subject: filepath.Join(state, dirName, name), Err: err,
			Hint: "check that the state directory's disk is writable and has space"}
	}
	return nil
}

// errWrong is what a stranger learns about a token that is not known here: no more.
var errWrong = &problem.Problem{Op: "use token", Kind: problem.Permission, Err: errors.New("the token is not known here"),
	Hint: "make a new one where the CA is: revolve token NODE"}

// use finds the token of a request and binds it to the request's key, durably,
// before anything is answered. The same key may use it again until it expires:
// its first answer may have been lost. Another key is refused for ever.
func use(state string, q *Request, public [sha256.Size]byte, epoch func() uint32, now time.Time) (*record, error) {
	refuse := func(kind problem.Kind, format string, args ...any) (*record, error) {
		return nil, &problem.Problem{Op: "use token", Kind: kind, Subject: string(q.Node), Err: fmt.Errorf(format, args...),
			Hint: fmt.Sprintf("make a new one where the CA is: revolve token %s", q.Node)}
	}
	path := filepath.Join(state, dirName, hex.EncodeToString(q.ID[:])+".json")
	r, err := get(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errWrong
	}
	if err != nil {
		return nil, &problem.Problem{Op: "read token", Kind: problem.Corrupt, Subject: path, Err: err, Hint: "remove the file and make a new token"}
	}
	hash := sha256.Sum256(q.Secret[:])
	key := hex.EncodeToString(public[:])
	switch {
	case subtle.ConstantTimeCompare([]byte(hex.EncodeToString(hash[:])), []byte(r.Hash)) != 1:
		return nil, errWrong
	case r.Node != q.Node:
		return refuse(problem.Permission, "the token is for node %s", r.Node)
	case !now.Before(r.Expires):
		return refuse(problem.Permission, "the token expired at %s", r.Expires.UTC().Format(time.RFC3339))
	case r.Key != "" && r.Key != key:
		return refuse(problem.Conflict, "the token was used already, at %s, by another machine or for another state directory", r.Used.UTC().Format(time.RFC3339))
	case r.Key != "":
		return r, nil
	}
	r.Key, r.Epoch, r.Used = key, epoch(), now
	return r, put(state, r.ID+".json", r)
}

// Issued is the epoch of the newest certificate that was made out here for each
// node: a node that has one is being replaced.
type Issued map[cluster.NodeID]uint32

// LoadIssued reads what was made out with the CA of a state directory.
func LoadIssued(state string) (Issued, error) {
	path := filepath.Join(state, dirName, issuedFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Issued{}, nil
	}
	i := Issued{}
	if err == nil {
		err = json.Unmarshal(b, &i)
	}
	if err != nil {
		return nil, &problem.Problem{Op: "read what was issued", Kind: problem.Corrupt, Subject: path, Err: err}
	}
	return i, nil
}

// NoteIssued makes durable that a certificate of that epoch was made out.
func NoteIssued(state string, node cluster.NodeID, epoch uint32) error {
	unlock, err := lock(state)
	if err != nil {
		return err
	}
	defer unlock()
	return noteIssued(state, node, epoch)
}

func noteIssued(state string, node cluster.NodeID, epoch uint32) error {
	i, err := LoadIssued(state)
	if err != nil {
		return err
	}
	if e, ok := i[node]; ok && e >= epoch {
		return nil
	}
	i[node] = epoch
	return put(state, issuedFile, i)
}
