package outsider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// twins are files of one size and one time, as two are that a program writes within one tick of the kernel's
// clock: a save by rename, an exchange and a group linked anew put one in another's place.
func twins(t *testing.T, l *lab) {
	m := l.settled(l.nodes)
	top := filepath.Join(m.vol["home"], "twins")
	at := func(rel string) string { return filepath.Join(top, rel) }
	now := time.Now()
	write := func(rel, content string, size int) {
		must(t, os.WriteFile(at(rel), []byte(strings.Repeat(content, size/len(content))), 0o644))
		must(t, os.Chtimes(at(rel), now, now))
	}
	must(t, os.Mkdir(top, 0o755))
	for _, size := range []int{16, 400_000, 5 << 20} {
		for _, rel := range []string{"saved", "left", "right", "one"} {
			write(rel, strings.ToUpper(rel[:1])+"123", size)
		}
		must(t, os.Link(at("one"), at("two")))
		l.sync(m)
		write("saved~", "save", size)
		must(t, os.Rename(at("saved~"), at("saved")))
		must(t, unix.Renameat2(unix.AT_FDCWD, at("left"), unix.AT_FDCWD, at("right"), unix.RENAME_EXCHANGE))
		write("other", "othe", size)
		must(t, os.Rename(at("other"), at("one")))
		must(t, os.Remove(at("two")))
		must(t, os.Link(at("one"), at("two")))
		l.sync(m)
		l.sameLinks(t)
		must(t, os.RemoveAll(at("two")))
	}
	must(t, os.RemoveAll(top))
	l.sync(m)
}
