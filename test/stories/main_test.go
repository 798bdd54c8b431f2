package stories

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"revolve/internal/testbed"
)

// envBin names the binary under test; the programs on the stage inherit it.
const envBin = "REVOLVE_BIN"

// envSeed chooses the random schedules; without it every run has others.
const envSeed = "REVOLVE_STORIES_SEED"

func TestMain(m *testing.M) {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	if len(os.Args) > 1 && os.Args[1] == progHostile {
		os.Exit(hostileMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == progRogue {
		os.Exit(rogueMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == progInbox {
		os.Exit(inboxMain())
	}
	if len(os.Args) > 1 && os.Args[1] == progListen {
		os.Exit(listenMain(os.Args[2]))
	}
	if len(os.Args) > 1 && os.Args[1] == progWait {
		os.Exit(waitMain(os.Args[2]))
	}
	if len(os.Args) > 1 && os.Args[1] == progAsk {
		os.Exit(askMain(os.Args[2:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if _, on, _ := testbed.Current(); !on {
		remove, err := provideBinary()
		if err != nil {
			fmt.Fprintln(os.Stderr, "stories:", err)
			return 1
		}
		defer remove()
		if os.Getenv(envSeed) == "" {
			os.Setenv(envSeed, strconv.FormatInt(time.Now().UnixNano()%1e9, 10))
		}
	}
	return m.Run()
}

// provideBinary builds the binary unless one is given.
func provideBinary() (remove func(), err error) {
	if given := os.Getenv(envBin); given != "" {
		abs, err := filepath.Abs(given)
		if err == nil {
			_, err = os.Stat(abs)
		}
		return func() {}, errorsOr(err, os.Setenv(envBin, abs))
	}
	dir, err := os.MkdirTemp("", "stories-")
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(dir, "revolve")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "revolve/cmd/revolve")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("build revolve: %w\n%s", err, out)
	}
	// The directory must be open to nobody, as whom some stories run.
	return func() { os.RemoveAll(dir) }, errorsOr(os.Chmod(dir, 0o755), os.Setenv(envBin, bin))
}

func errorsOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// seed is that of this run; it is printed by whoever uses it.
func seed(t *testing.T) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(os.Getenv(envSeed), 10, 64)
	must(t, err)
	t.Logf("seed: %s=%d", envSeed, n)
	return n
}
