package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	nodeLife = 365 * 24 * time.Hour
	// backdate tolerates machines without a clock battery that come up a little
	// in the past, before they have asked for the time.
	backdate = 24 * time.Hour
)

// Init makes a new cluster: its CA, its heartbeat key and this node's identity,
// under <state>/identity. It refuses (problem.Conflict) to overwrite any.
func Init(state, clusterName string, node cluster.NodeID) error {
	const op = "make identity"
	caPublic, caKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Internal, Err: err}
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "revolve CA of " + clusterName, Organization: []string{clusterName}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs nodes, never another CA
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, caPublic, caKey)
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Internal, Err: err}
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Internal, Err: err}
	}
	var beat [32]byte
	rand.Read(beat[:]) // never fails: crypto/rand
	files, err := nodeFiles(ca, caKey, clusterName, node, 0, nodeLife, beat)
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Internal, Subject: string(node), Err: err}
	}
	if files[caKeyFile], err = keyPEM(caKey); err != nil {
		return &problem.Problem{Op: op, Kind: problem.Internal, Err: err}
	}
	files[caOrigin] = []byte("the cluster was made in this state directory\n")
	return place(op, state, files)
}

// IsOrigin reports whether the cluster was made in a state directory: whether
// what was issued there is all that ever was. A CA's key that was carried there
// came without that.
func IsOrigin(state string) bool {
	_, err := os.Lstat(filepath.Join(state, dirName, caOrigin))
	return err == nil
}

// Issue makes out a ready state directory for node, signed by the CA of state,
// of that epoch and valid for life.
// problem.NotFound: the CA is not here. problem.Conflict: out has an identity.
func Issue(state string, node cluster.NodeID, epoch uint32, life time.Duration, out string) error {
	const op = "issue identity"
	ca, err := LoadCA(state)
	if err != nil {
		return err
	}
	files, err := nodeFiles(ca.id.ca, ca.key, ca.id.Cluster, node, epoch, life, ca.id.HeartbeatKey)
	if err != nil {
		return &problem.Problem{Op: op, Kind: problem.Internal, Subject: string(node), Err: err}
	}
	return place(op, out, files)
}

// nodeFiles are the contents of an identity directory, without the CA's key.
func nodeFiles(ca *x509.Certificate, caKey ed25519.PrivateKey, clusterName string, node cluster.NodeID, epoch uint32, life time.Duration, beat [32]byte) (map[string][]byte, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := signNode(ca, caKey, clusterName, node, public, epoch, life, time.Now())
	if err != nil {
		return nil, err
	}
	nodeKey, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	return identityFiles(ca.Raw, der, nodeKey, beat), nil
}

func identityFiles(ca, cert, key []byte, beat [32]byte) map[string][]byte {
	return map[string][]byte{
		caCertFile:   certificatePEM(ca),
		nodeCertFile: certificatePEM(cert),
		nodeKeyFile:  key,
		heartbeatKey: []byte(hex.EncodeToString(beat[:]) + "\n"),
	}
}

// place puts files into <state>/identity: all of them or none, durably. The
// directory is written aside and renamed, and a directory that has anything in
// it cannot be renamed over (rename(2), ENOTEMPTY).
func place(op, state string, files map[string][]byte) error {
	fail := func(err error) error {
		p := &problem.Problem{Op: op, Kind: problem.Unavailable, Subject: state, Err: err}
		switch {
		case errors.Is(err, fs.ErrPermission):
			p.Kind, p.Hint = problem.Permission, "choose a directory that this user may write with --state or --out"
		case errors.Is(err, fs.ErrExist):
			p.Kind, p.Err = problem.Conflict, errors.New("there is an identity already")
			p.Hint = "nothing was changed; to begin anew, move " + filepath.Join(state, dirName) + " away first"
		}
		return p
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fail(err)
	}
	final := filepath.Join(state, dirName)
	if _, err := os.Lstat(final); err == nil {
		return fail(fs.ErrExist)
	}
	aside, err := os.MkdirTemp(state, "."+dirName+"-") // mode 0700
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(aside) // nothing is left there after the rename
	for name, data := range files {
		mode := fs.FileMode(0o600)
		if name == caCertFile || name == nodeCertFile {
			mode = 0o644
		}
		if err := writeDurably(filepath.Join(aside, name), data, mode); err != nil {
			return fail(err)
		}
	}
	if err := syncDir(aside); err != nil {
		return fail(err)
	}
	if err := os.Rename(aside, final); err != nil {
		return fail(err)
	}
	if err := syncDir(state); err != nil {
		return fail(err)
	}
	return nil
}

func writeDurably(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// serial is 127 random bits (RFC 5280 section 4.1.2.2: positive, at most 20 octets).
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b[:])
}

func keyPEM(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseKey(data []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no private key in it")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("no private key in it") // without err: it may quote the key's bytes
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T, not Ed25519", parsed)
	}
	return key, nil
}
