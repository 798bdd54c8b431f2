package peer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// CA makes out certificates. It is where `ca.key` is.
type CA struct {
	id  *Identity
	key ed25519.PrivateKey
}

// HasCA reports whether the CA's key is in a state directory.
func HasCA(state string) bool {
	_, err := os.Lstat(filepath.Join(state, dirName, caKeyFile))
	return err == nil
}

// HasIdentity reports whether there is an identity, or something in its place, in a state directory.
func HasIdentity(state string) bool {
	_, err := os.Lstat(filepath.Join(state, dirName))
	return err == nil
}

// LoadCA reads the CA's key of a state directory. problem.NotFound: it is on
// another node. The node's own certificate may be expired: the CA makes out the next one.
func LoadCA(state string) (*CA, error) {
	id, err := readIdentity(state)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(state, dirName, caKeyFile)
	data, err := readIdentityFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &problem.Problem{Op: "load CA", Kind: problem.NotFound, Subject: path, Err: errors.New("the CA's key is not on this node"),
			Hint: "run this on the node that did init"}
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, corrupt(path, err)
	}
	if !key.Public().(ed25519.PublicKey).Equal(id.ca.PublicKey) {
		return nil, corrupt(path, errors.New("it is not the key of "+caCertFile))
	}
	return &CA{id: id, key: key}, nil
}

// Identity is that of the node where the CA is.
func (ca *CA) Identity() *Identity { return ca.id }

// Prove signs a message with the CA's key.
func (ca *CA) Prove(message []byte) []byte { return ed25519.Sign(ca.key, message) }

// Sign makes out a certificate (DER) for a node's public key, valid from now for life.
func (ca *CA) Sign(node cluster.NodeID, public crypto.PublicKey, epoch uint32, life time.Duration, now time.Time) ([]byte, error) {
	der, err := signNode(ca.id.ca, ca.key, ca.id.Cluster, node, public, epoch, life, now)
	if err != nil {
		return nil, &problem.Problem{Op: "make out certificate", Kind: problem.Internal, Subject: string(node), Err: err}
	}
	return der, nil
}

// RenewOwn makes out the next certificate of the node that has the CA, if it is
// due: nobody else could, and a node that was off for a year has to start.
func RenewOwn(state string, now time.Time) error {
	ca, err := LoadCA(state)
	if err != nil || now.Before(RenewAt(ca.id.leaf)) {
		return err
	}
	der, err := ca.Sign(ca.id.Node, ca.id.leaf.PublicKey, Epoch(ca.id.leaf), Life(ca.id.leaf), now)
	if err != nil {
		return err
	}
	return ca.id.Renew(der)
}

// DefaultLife is how long a certificate is valid if nothing else is asked for.
const DefaultLife = nodeLife

// Life is for how long a certificate was made out.
func Life(cert *x509.Certificate) time.Duration {
	return max(time.Second, cert.NotAfter.Sub(cert.NotBefore)-backdate)
}

func signNode(ca *x509.Certificate, caKey ed25519.PrivateKey, clusterName string, node cluster.NodeID, public crypto.PublicKey, epoch uint32, life time.Duration, now time.Time) ([]byte, error) {
	notAfter := now.Add(life)
	if notAfter.After(ca.NotAfter) {
		notAfter = ca.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: string(node), Organization: []string{clusterName}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{string(node)},
		URIs:         []*url.URL{nodeURI(clusterName, node)},

		BasicConstraintsValid: true,
	}
	if epoch > 0 {
		template.Subject.SerialNumber = strconv.FormatUint(uint64(epoch), 10)
	}
	return x509.CreateCertificate(rand.Reader, template, ca, public, caKey)
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func sameKey(a, b crypto.PublicKey) bool {
	x, ok := a.(ed25519.PublicKey)
	return ok && x.Equal(b)
}

// ReplaceDurably puts a file into a directory in place of one of the same name, as a whole.
func ReplaceDurably(dir, name string, data []byte, mode fs.FileMode) error {
	aside := filepath.Join(dir, "."+name+".new")
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeDurably(aside, data, mode); err != nil {
		return err
	}
	if err := os.Rename(aside, filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// RenewAt is when a certificate is due for its renewal: at two thirds of its life.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-Life(cert) / 3)
}
