package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/problem"
)

func TestIdentityFiles(t *testing.T) {
	states := newStates(t, "homelab", "a", "b")
	for file, want := range map[string]os.FileMode{
		"": 0o700, caCertFile: 0o644, nodeCertFile: 0o644, caKeyFile: 0o600, nodeKeyFile: 0o600, heartbeatKey: 0o600,
	} {
		info, err := os.Stat(filepath.Join(states["a"], dirName, file))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: mode %v, %v; want %v", file, info.Mode().Perm(), err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(states["b"], dirName, caKeyFile)); !os.IsNotExist(err) {
		t.Errorf("b has the CA's key: %v", err)
	}
	a, errA := LoadIdentity(states["a"])
	b, errB := LoadIdentity(states["b"])
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if a.Cluster != "homelab" || b.Cluster != "homelab" || a.Node != "a" || b.Node != "b" {
		t.Errorf("%v, %v", a, b)
	}
	if a.HeartbeatKey != b.HeartbeatKey || a.HeartbeatKey == [32]byte{} {
		t.Error("the heartbeat keys differ or are empty")
	}
	left, err := filepath.Glob(filepath.Join(states["a"], ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestNoSecretIsPrinted(t *testing.T) {
	id := newCluster(t, "homelab", "a")["a"]
	n := &notes{}
	n.log().Info("started", "identity", id)
	text := n.String() + fmt.Sprintf("%v %+v %#v %s", id, id, id, id)
	if strings.Contains(text, hex.EncodeToString(id.HeartbeatKey[:4])) || strings.Contains(text, fmt.Sprint(id.HeartbeatKey[0])+" "+fmt.Sprint(id.HeartbeatKey[1])) {
		t.Errorf("the key is in %s", text)
	}
	if !strings.Contains(text, "a@homelab") {
		t.Errorf("no name in %s", text)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	states := newStates(t, "homelab", "a", "b")
	before, err := os.ReadFile(filepath.Join(states["a"], dirName, caKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := Init(states["a"], "homelab", "a"); problem.KindOf(err) != problem.Conflict || problem.HintOf(err) == "" {
		t.Errorf("init again: %v", err)
	}
	if err := Issue(states["a"], "b", 0, DefaultLife, states["b"]); problem.KindOf(err) != problem.Conflict {
		t.Errorf("issue again: %v", err)
	}
	after, err := os.ReadFile(filepath.Join(states["a"], dirName, caKeyFile))
	if err != nil || string(before) != string(after) {
		t.Errorf("the CA's key changed: %v", err)
	}
}

func TestIssueWithoutCA(t *testing.T) {
	states := newStates(t, "homelab", "a", "b")
	err := Issue(states["b"], "c", 0, DefaultLife, filepath.Join(t.TempDir(), "c"))
	if problem.KindOf(err) != problem.NotFound || !strings.Contains(problem.HintOf(err), "the node that did init") {
		t.Errorf("%v; %s", err, problem.HintOf(err))
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		break_ func(t *testing.T, dir string)
		kind   problem.Kind
		want   string
	}{
		{"nothing", func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) }, problem.NotFound, "ca.crt"},
		{"open node key", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, nodeKeyFile), 0o640)) }, problem.Permission, "others can read this key"},
		{"open heartbeat key", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, heartbeatKey), 0o604)) }, problem.Permission, "others can read this key"},
		{"open CA key", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, caKeyFile), 0o644)) }, problem.Permission, "others can read this key"},
		{"short heartbeat key", func(t *testing.T, dir string) { put(t, dir, heartbeatKey, []byte("abcd\n")) }, problem.Corrupt, "not 64 hexadecimal digits"},
		{"empty certificate", func(t *testing.T, dir string) { put(t, dir, nodeCertFile, nil) }, problem.Corrupt, "node.crt"},
		{"no CA certificate", func(t *testing.T, dir string) { put(t, dir, caCertFile, []byte("hello")) }, problem.Corrupt, "no certificate in it"},
		{"expired", func(t *testing.T, dir string) { forge(t, dir, "a", "homelab", -48*time.Hour, -24*time.Hour) }, problem.Permission, "expired"},
		{"not yet", func(t *testing.T, dir string) { forge(t, dir, "a", "homelab", 24*time.Hour, 48*time.Hour) }, problem.Permission, "valid only from"},
		{"no node's name", func(t *testing.T, dir string) { forge(t, dir, "a", "", -time.Hour, time.Hour) }, problem.Permission, "does not name a node"},
		{"another cluster", func(t *testing.T, dir string) {
			other := newStates(t, "homelab", "a")["a"]
			data, err := os.ReadFile(filepath.Join(other, dirName, caCertFile))
			must(t, err)
			put(t, dir, caCertFile, data)
		}, problem.Permission, "not of this cluster"},
	} {
		t.Run(test.name, func(t *testing.T) {
			state := newStates(t, "homelab", "a")["a"]
			test.break_(t, filepath.Join(state, dirName))
			_, err := LoadIdentity(state)
			if problem.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v (%s), want %q (%s)", err, problem.KindOf(err), test.want, test.kind)
			}
			if problem.HintOf(err) == "" {
				t.Error("no hint")
			}
			if err != nil && strings.Contains(err.Error()+problem.HintOf(err), "PRIVATE") {
				t.Error("a key is quoted")
			}
		})
	}
}

func TestWarning(t *testing.T) {
	id := newCluster(t, "homelab", "a")["a"]
	if w := id.Warning(time.Now()); w != "" {
		t.Errorf("a new identity warns: %s", w)
	}
	if w := id.Warning(RenewAt(id.Leaf()).Add(24 * time.Hour)); w != "" {
		t.Errorf("on the day of its renewal it warns: %s", w)
	}
	if w := id.Warning(RenewAt(id.Leaf()).Add(40 * 24 * time.Hour)); !strings.Contains(w, "should have been renewed since") {
		t.Errorf("a renewal that did not happen: %q", w)
	}
	if w := id.Warning(id.NotAfter().Add(-10*24*time.Hour - time.Minute)); !strings.Contains(w, "node a expires on") || !strings.Contains(w, "in 10 days") {
		t.Errorf("got %q", w)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
}

// forge replaces the node certificate in dir by one of the same CA with other
// dates or another cluster's name.
func forge(t *testing.T, dir, node, clusterName string, from, to time.Duration) {
	t.Helper()
	caPair, err := tls.LoadX509KeyPair(filepath.Join(dir, caCertFile), filepath.Join(dir, caKeyFile))
	must(t, err)
	public, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: node, Organization: []string{clusterName}},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if clusterName != "" {
		template.URIs = []*url.URL{nodeURI(clusterName, "a")}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, caPair.Leaf, public, caPair.PrivateKey)
	must(t, err)
	put(t, dir, nodeCertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	data, err := keyPEM(key)
	must(t, err)
	put(t, dir, nodeKeyFile, data)
}
