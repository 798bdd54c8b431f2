package stories

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"revolve/internal/testbed"
)

// TestCertificatesAreRenewed: at two thirds of its life a certificate is renewed
// without a restart; while no node with the CA is there, status warns; and
// another node that is given the CA's key can do it.
func TestCertificatesAreRenewed(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		a, b, c := l.nodes["a"], l.nodes["b"], l.nodes["c"]
		for n, valid := range map[*node]string{b: "18s", c: "30s"} {
			must(t, os.RemoveAll(n.state()))
			l.mustRevolve("identity", "issue", n.name, "--out", n.state(), "--state", a.state(), "--valid", valid)
		}
		l.form()
		until := func(n *node) time.Time {
			s, err := n.status()
			if err != nil {
				return time.Time{}
			}
			return s.CertificateUntil
		}
		first := until(b)
		l.eventually("b to have a new certificate", askEvery, func() error {
			if now := until(b); !now.After(first) {
				return fmt.Errorf("it expires at %v", now)
			}
			return nil
		})
		key := caKey(t, a)
		a.stop()
		must(t, os.Remove(a.state()+"/identity/ca.key")) // it is lost with the node's disk
		l.eventually("c to warn that nobody renews its certificate", askEvery, func() error {
			s, err := c.status()
			if err == nil && !strings.Contains(strings.Join(s.Reasons, "\n"), "cannot be renewed") {
				err = fmt.Errorf("its reasons are %v", s.Reasons)
			}
			return err
		})
		last := until(c)
		must(t, os.WriteFile(b.state()+"/identity/ca.key", key, 0o600))
		l.eventually("c to have a new certificate from b", askEvery, func() error {
			if now := until(c); !now.After(last) {
				return fmt.Errorf("it expires at %v", now)
			}
			return nil
		})
		if token := strings.TrimSpace(l.mustRevolve("token", "a", "--state", b.state())); !strings.HasPrefix(token, "rvj1-") {
			t.Errorf("b makes no token: %q", token)
		}
	})
}

func caKey(t *testing.T, n *node) []byte {
	t.Helper()
	b, err := os.ReadFile(n.state() + "/identity/ca.key")
	must(t, err)
	return b
}
