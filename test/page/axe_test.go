package page

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// axe-core is a collection of accessibility rules, fetched and not kept here: it is a program of others, in a tool's role.
const (
	axeVersion = "4.10.3"
	axeSum     = "Xm7bpRXnDSX2YE2YFfBk2FnF0ep6tmG7xPh8iHee8MIcrgq762Nkce856dYtJYLkuIoYZvGfTs/PbZhideTcEg=="
	axeWithin  = 60 * time.Second
)

// axe is its source; "" where it cannot be had.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	kept := filepath.Join(cache, "revolve-tests", "axe-core-"+axeVersion+".tgz")
	packed, err := os.ReadFile(kept)
	if err != nil || !isAxe(packed) {
		packed = fetchAxe(t)
		if packed == nil {
			return ""
		}
		if os.MkdirAll(filepath.Dir(kept), 0o755) == nil {
			_ = os.WriteFile(kept, packed, 0o644) // a cache: without it, it is fetched again
		}
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	must(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		must(t, err)
		if h.Name == "package/axe.min.js" {
			b, err := io.ReadAll(r)
			must(t, err)
			return string(b)
		}
	}
}

func isAxe(packed []byte) bool {
	sum := sha512.Sum512(packed)
	return base64.StdEncoding.EncodeToString(sum[:]) == axeSum
}

func fetchAxe(t *testing.T) []byte {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Log("SKIPPED PART: the rules of axe-core (no npm); our own rules run")
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), axeWithin)
	defer cancel()
	dir := t.TempDir()
	cmd := exec.CommandContext(ctx, npm, "pack", "--silent", "axe-core@"+axeVersion)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("SKIPPED PART: the rules of axe-core (it cannot be fetched: %v); our own rules run\n%s", err, out)
		return nil
	}
	packed, err := os.ReadFile(filepath.Join(dir, "axe-core-"+axeVersion+".tgz"))
	must(t, err)
	if !isAxe(packed) {
		t.Fatal("what was fetched is not axe-core " + axeVersion)
	}
	return packed
}
