package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// What a caller may set; make passes them on.
const (
	envLong = "SOAK"        // how long; "" = 30m
	envSeed = "SEED"        // of the faults; "" = the clock's
	envBin  = "REVOLVE_BIN" // the program; "" = dist/revolve
	envKeep = "LOGS"        // a directory for the agents' logs; "" = none are kept
	envPage = "WRITE"       // "1": write the page after a part, too
)

const (
	whole     = 30 * time.Minute
	shortest  = time.Minute
	pageFile  = "bench/SOAK.md"
	imagesDir = "docs/images"
	// quietWhole is the end of a whole soak, without faults: a failover is an alarm for five minutes, and gone half a minute later.
	quietWhole = 6 * time.Minute
)

func main() {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ok, err := child(ctx, os.Args)
	status := 0
	if !ok {
		status, err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		status = 1
	}
	os.Exit(status)
}

// options are what a caller asked for.
type options struct {
	long  time.Duration
	seed  uint64
	write bool
	keep  string
}

func readOptions() (o options, err error) {
	o = options{long: whole, seed: uint64(time.Now().UnixNano() % 1e9), keep: os.Getenv(envKeep)}
	if text := os.Getenv(envLong); text != "" {
		if o.long, err = time.ParseDuration(text); err != nil || o.long < shortest {
			return o, fmt.Errorf("%s=%q is no time of at least %s", envLong, text, shortest)
		}
	}
	if text := os.Getenv(envSeed); text != "" {
		if o.seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			return o, fmt.Errorf("%s=%q is no number", envSeed, text)
		}
	}
	o.write = o.long >= whole || os.Getenv(envPage) == "1"
	return o, nil
}

func run(ctx context.Context) (int, error) {
	stage, on, err := testbed.Current()
	if err != nil {
		return 1, err
	}
	o, err := readOptions()
	if err != nil {
		return 1, err
	}
	if !on {
		bin := os.Getenv(envBin)
		if bin == "" {
			bin = "dist/revolve"
		}
		if bin, err = filepath.Abs(bin); err != nil {
			return 1, err
		}
		if _, err := os.Stat(bin); err != nil {
			return 1, fmt.Errorf("%w; type `make build` first, or set %s", err, envBin)
		}
		if err := os.Setenv(envBin, bin); err != nil {
			return 1, err
		}
		return testbed.Enter(ctx, nil, os.Stdout, os.Stderr)
	}
	return soak(ctx, stage, o)
}

// soak is one run on its stage; the status is 1 if a check failed.
func soak(ctx context.Context, stage *testbed.Stage, o options) (int, error) {
	fmt.Printf("soak: %s, %s=%d\n", o.long, envSeed, o.seed)
	l, err := newLab(stage)
	if err != nil {
		return 1, err
	}
	r, err := l.live(ctx, o)
	l.keepLogs(o.keep)
	if err := errors.Join(err, l.close()); err != nil {
		return 1, err
	}
	fmt.Print(r.page())
	if o.write {
		if err := r.write(); err != nil {
			return 1, err
		}
	}
	if !r.passed() {
		return 1, nil
	}
	return 0, nil
}
