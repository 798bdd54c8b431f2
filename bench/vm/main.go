package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// What a caller may set; make passes them on.
const (
	envRows = "ROWS" // names of rows, comma separated; "" = all, and the results are written
	envRuns = "RUNS" // repeats; "" = 3
	output  = "bench/VM.md"
)

// row is one image on one kind of disk.
type row struct {
	name, fs string
	size     int64
	changes  int // blocks of 4 KiB, scattered
	most     float64
	target   string
	seed     bool // the seed's way, too
}

func rows() []row {
	const gib = 1 << 30
	return []row{
		{name: "xfs4", fs: "xfs", size: 4 * gib, changes: 10486, most: 1. / 6, target: "<= 1/6 of rsync's time", seed: true},
		{name: "xfs16", fs: "xfs", size: 16 * gib, changes: 10486, most: 1. / 20, target: "<= 1/20 of rsync's time"},
		{name: "ext4", fs: "ext4", size: 4 * gib, changes: 10486, most: 0.5, target: "<= 0.5 of rsync's time"},
	}
}

func main() {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	stage, on, err := testbed.Current()
	if err != nil {
		return err
	}
	if !on {
		status, err := testbed.Enter(ctx, nil, os.Stdout, os.Stderr)
		if err == nil && status != 0 {
			err = fmt.Errorf("exit status %d", status)
		}
		return err
	}
	runs := 3
	if n, err := strconv.Atoi(os.Getenv(envRuns)); err == nil && n > 0 {
		runs = n
	}
	var results []result
	for _, r := range rows() {
		if only := os.Getenv(envRows); only != "" && !slices.Contains(strings.Split(only, ","), r.name) {
			continue
		}
		list, err := measure(ctx, stage, r, runs)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		results = append(results, list...)
	}
	text := report(results, runs)
	fmt.Print(text)
	if os.Getenv(envRows) != "" {
		return nil
	}
	return errors.Join(os.WriteFile(output, []byte(text), 0o644))
}
