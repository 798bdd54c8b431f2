package stories

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"revolve/internal/testbed"
)

// comparing is what a standby logs when it compares its whole tree with the master's.
const comparing = "comparing the whole volume"

// A standby that merely restarts resumes from the journals; one whose position
// was trimmed, or that lost its state, compares trees. Both end up the same.
func TestReturnOfAStandby(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		before(t, m.home())
		m.sync()
		b := l.others(m)[0]
		back := func(how string, compares bool) {
			t.Helper()
			b.start()
			l.settled()
			m.sync()
			l.equal(m)
			if n := strings.Count(b.lastLog(), comparing); (n > 0) != compares {
				t.Errorf("%s: the trees were compared %d times", how, n)
			}
			if list := b.divergent(); len(list) > 0 {
				t.Errorf("%s: %d changes are divergent, such as %+v", how, len(list), list[0])
			}
		}

		b.stop()
		lonely(t, m.home())
		back("an orderly restart", false)

		put(t, m.home("meanwhile"), "just before a kill")
		must(t, b.agent.Signal(9))
		b.waitEnd()
		put(t, m.home("meanwhile"), "after a kill")
		must(t, os.Remove(m.home("changed")))
		back("a kill", false)

		b.off()
		put(t, m.home("meanwhile"), "after a power cut")
		must(t, b.PowerOn())
		back("a power cut", false)

		c := l.third(m, b)
		b.stop()
		c.stop() // nobody has to apply what only is to fill the journal
		overrun(t, m.home())
		l.journaled(m)
		c.start()
		back("a trimmed journal", true)

		b.stop()
		must(t, os.RemoveAll(b.state()))
		l.mustRevolve("identity", "issue", b.name, "--out", b.state(), "--state", l.nodes["a"].state())
		put(t, m.home("meanwhile"), "after the state was lost")
		back("a lost state", true)
	})
}

// overrun makes more changes than the 64 MiB of a journal remember.
func overrun(t *testing.T, dir string) {
	t.Helper()
	deep := dir
	for i := range 14 {
		deep = filepath.Join(deep, fmt.Sprintf("%02d%s", i, strings.Repeat("x", 240)))
	}
	must(t, os.MkdirAll(deep, 0o755))
	for i := range 21_000 { // of 3,400 bytes of path each; renames would be folded into one
		must(t, os.WriteFile(filepath.Join(deep, fmt.Sprint(i)), nil, 0o644))
	}
	must(t, os.RemoveAll(filepath.Join(dir, "00"+strings.Repeat("x", 240))))
}
