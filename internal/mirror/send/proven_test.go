package send_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"revolve/internal/mirror/send"
	"revolve/internal/mirror/wire"
)

// TestWhatTheFollowerProvesIsNotSent: what it owes and has right is answered with a word, all else as it is.
func TestWhatTheFollowerProvesIsNotSent(t *testing.T) {
	src := newSource(t)
	ready := wire.Ready{From: src.journal.Position()}
	owe := func(name string, change func(path string) error) {
		src.write(name, "content of "+name)
		m, data, _, err := src.root.ReadSmall(name, wire.InlineMax)
		if err != nil {
			t.Fatal(err)
		}
		ready.Owed = append(ready.Owed, wire.Debt{Path: []byte(name), Sum: wire.SumOf(m, data)})
		if change != nil {
			if err := change(filepath.Join(src.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	owe("equal", nil)
	owe("mode", func(path string) error { return os.Chmod(path, 0o600) })
	owe("bytes", func(path string) error { return os.WriteFile(path, []byte("CONTENT of bytes"), 0o644) })
	owe("time", func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) })
	owe("gone", os.Remove)
	owe("dir", func(path string) error { return os.Remove(path) })
	if err := os.Mkdir(filepath.Join(src.dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	conn := newMute()
	_, ctx, done, _ := src.run(conn, send.Options{}, ready)
	got := map[string]wire.OpKind{}
	for len(got) < len(ready.Owed)-1 { // what is gone is told later: a rename may explain it
		select {
		case f := <-conn.frames:
			if op, err := wire.DecodeOp(f[1:]); f[0] == wire.FrameOp && err == nil && op.Path != "" && op.Kind != wire.OpDefer {
				got[op.Path] = op.Kind
				if op.Kind == wire.OpSame && op.Meta.Origin == 0 {
					t.Error("where it comes from is not told")
				}
			}
		case err := <-done:
			t.Fatalf("the stream ended: %v", err)
		case <-ctx.Done():
			t.Fatalf("came: %v", got)
		}
	}
	conn.Close()
	for name, want := range map[string]wire.OpKind{"equal": wire.OpSame, "mode": wire.OpFile, "bytes": wire.OpFile, "time": wire.OpFile, "dir": wire.OpDir} {
		if got[name] != want {
			t.Errorf("%s came as %d, want %d", name, got[name], want)
		}
	}
}
