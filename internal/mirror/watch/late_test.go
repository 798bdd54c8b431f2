package watch

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReadLate makes changes before the queue is read, so that what the kernel
// tells of a directory's place is ahead of the stream. Each row was found by a storm.
func TestReadLate(t *testing.T) {
	exchange := func(a, b string) func(*testing.T, string) {
		return func(t *testing.T, d string) {
			must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(d, a), unix.AT_FDCWD, filepath.Join(d, b), unix.RENAME_EXCHANGE))
		}
	}
	for _, c := range []struct {
		name, before string
		do           []func(*testing.T, string)
	}{
		{"removed where another directory stands now", "mkdir -p c/a e.tmp/a", []func(*testing.T, string){sh("rmdir e.tmp/a; mv c b; mv e.tmp c")}},
		{"renamed out of where another directory stands now", "mkdir -p c/a e.tmp/a", []func(*testing.T, string){sh("mv e.tmp/a x; mv c b; mv e.tmp c")}},
		{"renamed into where another directory stands now", "mkdir -p c/a e.tmp; echo x > x", []func(*testing.T, string){sh("mv x e.tmp/x; echo y > c/x; mv c b; mv e.tmp c")}},
		{"exchanged files whose directory moved on", "mkdir a d c; echo 1 > a/b; echo 2 > d/d", []func(*testing.T, string){exchange("a/b", "d/d"), sh("mv d c/d")}},
		{"file and directory exchanged, and moved on", "mkdir -p a/d/f b c; echo 1 > b/d", []func(*testing.T, string){exchange("a", "b/d"), sh("mv b c/b")}},
		{"directories exchanged, and moved on", "mkdir -p a/d/f b/d/x c", []func(*testing.T, string){exchange("a", "b/d"), sh("mv b c/b; rmdir a/x")}},
		{"files exchanged after a rename the same way", "echo 1 > c; echo 2 > x", []func(*testing.T, string){sh("mv c d; mv x c"), exchange("d", "c")}},
		{"directory there and back", "mkdir -p a/d/f", []func(*testing.T, string){sh("mv a b; mv b a; mkdir a/g")}},
	} {
		for _, b := range []Backend{Fanotify, Inotify} {
			t.Run(c.name+"/"+string(b), func(t *testing.T) {
				if b == Fanotify && os.Geteuid() != 0 {
					t.Skip("SKIPPED PART: marks on the host's filesystem need root")
				}
				vol := newVolume(t, t.TempDir(), "vol")
				must(t, os.Mkdir(filepath.Join(vol, ownDir), 0o755))
				sh(c.before)(t, vol)
				rec := watching(t, Options{Root: vol, Backend: b, KeepOwn: true, Ignore: ignoreTmp})
				rep := newReplica(vol)
				for _, do := range c.do {
					do(t, vol)
				}
				rec.start(rep.apply)
				rec.drained()
				rec.close()
				rep.drained()
				if diff := rep.differs(); diff != "" {
					t.Errorf("replica differs:\n%s\nevents: %s", diff, lines(rec.events))
				}
			})
		}
	}
}

// TestSeenWhereAnotherWasRemoved: a directory that was known at its place is found at the place of another one, which is removed
// further on in the stream. What changes in it is told all the same, before a drain is over and afterwards.
func TestSeenWhereAnotherWasRemoved(t *testing.T) {
	vol := newVolume(t, t.TempDir(), "vol")
	must(t, os.Mkdir(filepath.Join(vol, ownDir), 0o755))
	sh("mkdir -p a/b/c b")(t, vol)
	rec := watching(t, Options{Root: vol, Backend: Inotify, KeepOwn: true, Ignore: ignoreTmp})
	rep := newReplica(vol)
	reading, read := make(chan struct{}), make(chan struct{})
	rec.start(func(e Event) {
		rep.apply(e)
		if e.Path == "meanwhile" {
			close(reading)
			<-read
		}
	})
	rec.drained()
	sh("mkdir meanwhile")(t, vol)
	<-reading
	sh("mkdir b/b; rm -r b; mv a b; echo 1 > b/b/first")(t, vol)
	drained := make(chan error, 1)
	go func() { drained <- rec.w.Drain(t.Context()) }()
	for until := time.Now().Add(patience); !rec.w.poke.Load(); time.Sleep(time.Millisecond) { // it asks before any of that is read
		if time.Now().After(until) {
			t.Fatal("the drain does not ask")
		}
	}
	close(read)
	must(t, <-drained)
	same := func(when string) {
		t.Helper()
		rec.mu.Lock()
		defer rec.mu.Unlock()
		rep.drained()
		if diff := rep.differs(); diff != "" {
			t.Errorf("%s the replica differs:\n%s", when, diff)
		}
	}
	same("after the first drain")
	sh("mkdir b/b/d; echo 1 > b/b/x; echo 1 > b/b/c/x")(t, vol)
	rec.drained()
	rec.close()
	same("after the last one")
}
