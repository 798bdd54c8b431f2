package peer

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// The files of <state>/identity.
const (
	dirName      = "identity"
	caCertFile   = "ca.crt"
	caKeyFile    = "ca.key"    // only where init ran, or where a person put it
	caOrigin     = "ca.origin" // only where init ran
	nodeCertFile = "node.crt"
	nodeKeyFile  = "node.key"
	heartbeatKey = "heartbeat.key"
)

const (
	maxIdentityFile = 1 << 16 // bytes; ours have under 1 KiB
	warnBefore      = 30 * 24 * time.Hour
)

// Identity is what a node proves itself with: its certificate and key, the
// cluster's CA and the heartbeat key. Printing one shows no secret.
type Identity struct {
	Cluster      string
	Node         cluster.NodeID
	HeartbeatKey [32]byte // secret, the same on all nodes of the cluster

	certificate tls.Certificate
	leaf        *x509.Certificate
	ca          *x509.Certificate
	roots       *x509.CertPool
	dir         string // where it was read
	live        *live  // what changes while the node runs
}

// String is "node@cluster", without the secrets.
func (id *Identity) String() string { return string(id.Node) + "@" + id.Cluster }

// GoString keeps the secrets out of %#v too.
func (id *Identity) GoString() string { return id.String() }

// LogValue keeps the secrets out of logs.
func (id *Identity) LogValue() slog.Value { return slog.StringValue(id.String()) }

// NotAfter is when the node's certificate expires.
func (id *Identity) NotAfter() time.Time { return id.current().Leaf.NotAfter }

// Warning is one line if a certificate expires within 30 days of now, or should
// have been renewed long ago, else "".
func (id *Identity) Warning(now time.Time) string {
	for _, c := range []struct {
		what string
		cert *x509.Certificate
	}{{"the certificate of node " + string(id.Node), id.current().Leaf}, {"the cluster's CA", id.ca}} {
		if left := c.cert.NotAfter.Sub(now); left < warnBefore {
			return fmt.Sprintf("%s expires on %s, in %d days", c.what, c.cert.NotAfter.UTC().Format(time.DateOnly), int(left.Hours()/24))
		}
	}
	if leaf := id.Leaf(); Life(leaf) >= DefaultLife/2 && now.After(RenewAt(leaf).Add(Life(leaf)/12)) {
		return fmt.Sprintf("the certificate of node %s expires on %s and should have been renewed since %s: is the node with the CA on?",
			id.Node, leaf.NotAfter.UTC().Format(time.DateOnly), RenewAt(leaf).UTC().Format(time.DateOnly))
	}
	return ""
}

// LoadIdentity reads <state>/identity. It refuses keys that others can read
// (problem.Permission), certificates that are expired or of another cluster
// (Permission) and files that are not what they should be (Corrupt).
func LoadIdentity(state string) (*Identity, error) {
	id, err := readIdentity(state)
	if err != nil {
		return nil, err
	}
	if err := id.timely(id.leaf, time.Now()); err != nil {
		return nil, unfit(id.dir, err)
	}
	return id, nil
}

func unfit(dir string, err error) error {
	return &problem.Problem{Op: "load identity", Kind: problem.Permission, Subject: filepath.Join(dir, nodeCertFile), Err: err,
		Hint: "get a token on the node that did init (revolve token NODE), move the identity directory away, and revolve join"}
}

// readIdentity is LoadIdentity without a look at the clock.
func readIdentity(state string) (*Identity, error) {
	dir := filepath.Join(state, dirName)
	files := map[string][]byte{}
	for _, name := range []string{caCertFile, nodeCertFile, nodeKeyFile, heartbeatKey} {
		data, err := readIdentityFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		files[name] = data
	}
	if err := private(filepath.Join(dir, caKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	id := &Identity{roots: x509.NewCertPool(), dir: dir, live: &live{}}
	var err error
	if id.ca, err = parseCertificate(files[caCertFile]); err != nil {
		return nil, corrupt(filepath.Join(dir, caCertFile), err)
	}
	id.roots.AddCert(id.ca)
	if id.certificate, err = tls.X509KeyPair(files[nodeCertFile], files[nodeKeyFile]); err != nil {
		return nil, corrupt(filepath.Join(dir, nodeCertFile), err)
	}
	id.leaf = id.certificate.Leaf
	if id.HeartbeatKey, err = decodeKey(files[heartbeatKey]); err != nil {
		return nil, corrupt(filepath.Join(dir, heartbeatKey), err)
	}
	if len(id.leaf.Subject.Organization) == 1 {
		id.Cluster = id.leaf.Subject.Organization[0]
	}
	if id.Node, err = id.genuine(id.leaf, x509.ExtKeyUsageServerAuth); err != nil {
		return nil, unfit(dir, err)
	}
	return id, nil
}

// verify checks that cert was issued by our CA, is valid now and names a node of
// our cluster. Its errors are reasons for a person, without "x509:" jargon.
func (id *Identity) verify(cert *x509.Certificate, usage x509.ExtKeyUsage) (cluster.NodeID, error) {
	node, err := id.genuine(cert, usage)
	if err == nil {
		err = id.timely(cert, time.Now())
	}
	if err != nil {
		return "", err
	}
	return node, nil
}

// genuine checks everything but the time: who presents such a certificate is, or
// was, a node of this cluster, and may be told why it is refused.
func (id *Identity) genuine(cert *x509.Certificate, usage x509.ExtKeyUsage) (cluster.NodeID, error) {
	_, err := cert.Verify(x509.VerifyOptions{Roots: id.roots, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: within(cert, id.ca)})
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return "", fmt.Errorf("the certificate %q is not of this cluster (its issuer is %q, ours is %q with another key)",
			cert.Subject.CommonName, cert.Issuer.CommonName, id.ca.Subject.CommonName)
	case err != nil:
		return "", err
	}
	node := cluster.NodeID(cert.Subject.CommonName)
	if len(cert.URIs) != 1 || *cert.URIs[0] != *nodeURI(id.Cluster, node) {
		return "", fmt.Errorf("the certificate of %q does not name a node of cluster %q", node, id.Cluster)
	}
	return node, nil
}

// within is a time at which both certificates were valid, if there was one.
func within(cert, ca *x509.Certificate) time.Time {
	if cert.NotBefore.After(ca.NotBefore) {
		return cert.NotBefore
	}
	return ca.NotBefore
}

// timely checks that cert and the CA are valid at that time.
func (id *Identity) timely(cert *x509.Certificate, now time.Time) error {
	for _, c := range []*x509.Certificate{cert, id.ca} {
		switch {
		case now.Before(c.NotBefore):
			return fmt.Errorf("the certificate of %q is valid only from %s; the clock says %s",
				c.Subject.CommonName, c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		case now.After(c.NotAfter):
			return fmt.Errorf("the certificate of %q expired (%s; the clock says %s)",
				c.Subject.CommonName, c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// nodeURI is the name that a certificate carries: revolve://CLUSTER/NODE.
func nodeURI(clusterName string, node cluster.NodeID) *url.URL {
	return &url.URL{Scheme: "revolve", Host: clusterName, Path: "/" + string(node)}
}

// readIdentityFile reads a file of the identity directory; keys must be private.
func readIdentityFile(path string) ([]byte, error) {
	if strings.HasSuffix(path, ".key") {
		if err := private(path); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxIdentityFile {
		return nil, corrupt(path, errors.New("not a small regular file"))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	return data, nil
}

// private refuses a key file that anyone but its owner can read or write.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return unreadable(path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return &problem.Problem{Op: "load identity", Kind: problem.Permission, Subject: path,
			Err:  fmt.Errorf("others can read this key (mode %04o)", info.Mode().Perm()),
			Hint: "chmod 600 " + path}
	}
	return nil
}

func unreadable(path string, err error) error {
	p := &problem.Problem{Op: "load identity", Kind: problem.Unavailable, Subject: path, Err: err}
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		p.Err = pathError.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Kind = problem.NotFound
		p.Hint = "make an identity first: revolve init on the first node, then revolve token there and revolve join on every other"
	case errors.Is(err, fs.ErrPermission):
		p.Kind = problem.Permission
		p.Hint = "run as the user that owns the state directory"
	}
	return p
}

func corrupt(path string, err error) error {
	return &problem.Problem{Op: "load identity", Kind: problem.Corrupt, Subject: path, Err: err,
		Hint: "restore the file from a backup, or issue the identity again"}
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in it")
	}
	return x509.ParseCertificate(block.Bytes)
}

func decodeKey(data []byte) (key [32]byte, err error) {
	raw, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(raw) != len(key) {
		return key, errors.New("not 64 hexadecimal digits") // without err: it would quote the key
	}
	return [32]byte(raw), nil
}
