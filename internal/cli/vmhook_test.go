package cli

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// libvirt runs every program in the directory of its hooks: nothing but the finished script is ever there.
func TestHookInstalled(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "qemu.d")
	c := vmHookCommand{Install: dir}
	e := &env{state: defaultState, stdout: io.Discard, stderr: io.Discard}
	if err := c.install(e); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "revolve")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Remove(filepath.Join(dir, "revolve")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "revolve"), 0o755); err != nil { // in the way
		t.Fatal(err)
	}
	if err := c.install(e); err == nil {
		t.Error("installed onto a directory")
	}
	for at, want := range map[string]int{top: 1, dir: 1} {
		if list, err := os.ReadDir(at); err != nil || len(list) != want {
			t.Errorf("in %s: %v, %v", at, list, err)
		}
	}
}
