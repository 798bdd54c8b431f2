package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// What a caller may set; make passes them on.
const (
	envRows  = "ROWS"            // names of rows, comma separated; "" = all but growth; "growth" = those; "none": the page and its pictures are written anew
	envRuns  = "RUNS"            // repeats; "" = 3
	envPeers = "PEERS"           // names of engines beside ours, "none", or "" = those of the row
	envWrite = "WRITE"           // "1": merge into bench/RESULTS.md even if not every row was asked for
	envBin   = "REVOLVE_BIN"     // the program; "" = dist/revolve
	envNote  = "NOTE"            // how it was run, put beside the figures
	envKeep  = "LOGS"            // a directory for the engines' logs; "" = none are kept
	envProf  = "REVOLVE_PROFILE" // a directory: a binary built with -tags profile writes CPU profiles there
)

const (
	defaultRuns  = 3
	defaultNodes = 3
	resultsFile  = "bench/RESULTS.md"
	dataFile     = "bench/results.json"
	imagesDir    = "docs/images"
	noRows       = "none"
)

func main() {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	status, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		status = 1
	}
	os.Exit(status)
}

func run() (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	stage, on, err := testbed.Current()
	if err != nil {
		return 1, err
	}
	if os.Getenv(envRows) == noRows {
		return 0, newResults().write(dataFile, resultsFile, imagesDir)
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
	b, err := newBench(stage)
	if err != nil {
		return 1, err
	}
	if err := errors.Join(b.all(ctx), b.finish()); err != nil {
		return 1, err
	}
	return 0, nil
}

// bench is one call of the program.
type bench struct {
	stage *testbed.Stage
	runs  int
	want  []string // rows
	peers []string // nil: those of the scene
	data  *results
}

func newBench(stage *testbed.Stage) (*bench, error) {
	b := &bench{stage: stage, runs: defaultRuns, data: newResults()}
	if text := os.Getenv(envRuns); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%s=%q is no number of repeats", envRuns, text)
		}
		b.runs = n
	}
	known := append(rowNames(false), rowNames(true)...)
	b.want = list(os.Getenv(envRows))
	if i := slices.Index(b.want, growthRows); i >= 0 {
		b.want = slices.Replace(b.want, i, i+1, rowNames(true)...)
	}
	for _, name := range b.want {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("no row %q; there are %s", name, strings.Join(known, " "))
		}
	}
	if len(b.want) == 0 {
		b.want = rowNames(false)
	}
	if text := os.Getenv(envPeers); text != "" {
		b.peers = list(text)
	}
	return b, nil
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// all runs the scenes that hold a wanted row; within a scene the engines take
// turns. One that fails is told, and the others go on.
func (b *bench) all(ctx context.Context) error {
	var errs []error
	for _, sc := range scenes() {
		if !slices.ContainsFunc(sc.rows, b.wanted) {
			continue
		}
		for run := range b.runs {
			for _, e := range b.engines(sc) {
				if ctx.Err() != nil {
					return errors.Join(append(errs, ctx.Err())...)
				}
				if err := b.once(ctx, sc, e, run); err != nil {
					errs = append(errs, fmt.Errorf("%s with %s: %w", sc.name, e.name(), err))
					fmt.Println("FAILED:", errs[len(errs)-1])
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (b *bench) wanted(row string) bool { return slices.Contains(b.want, row) }

func (b *bench) engines(sc scene) (out []engine) {
	for _, e := range engines() {
		asked := slices.Contains(sc.peers, e.name())
		if b.peers != nil {
			asked = slices.Contains(b.peers, e.name())
		}
		if e.name() == ours || asked {
			out = append(out, e)
		}
	}
	return out
}

// sceneDeadline ends a scene that hangs, as the naive loop does when it misses a
// change; the longest takes about two minutes. growthDeadline is for a million files.
const (
	sceneDeadline  = 5 * time.Minute
	growthDeadline = 15 * time.Minute
)

func (b *bench) once(ctx context.Context, sc scene, e engine, run int) (err error) {
	limit := sceneDeadline
	if sc.grows {
		limit = growthDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	l, err := newLab(b.stage, sc.disk, cmp.Or(sc.nodes, defaultNodes))
	if err != nil {
		return err
	}
	defer func() {
		if r, ok := e.(*revolve); ok && os.Getenv(envProf) != "" { // a profile is written at an orderly end
			for _, n := range l.nodes {
				_ = r.stopStandby(ctx, n)
			}
		}
		l.keepLogs(os.Getenv(envKeep), fmt.Sprintf("%s-%s-%d", sc.name, e.name(), run+1))
		if cerr := l.bed.Close(); err == nil {
			err = cerr
		}
	}()
	p := &play{bench: b, lab: l, engine: e}
	err = sc.play(ctx, p)
	if r, ok := e.(*revolve); ok {
		if term := r.term(l); term != 1 { // then the harness did not write on the master
			err = errors.Join(err, fmt.Errorf("the master changed, to term %d: the machine is too busy to measure on", term))
		}
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s %d/%d %s (%.0f s): %s\n", sc.name, run+1, b.runs, e.name(), time.Since(start).Seconds(), p.told)
	return nil
}

// finish prints the table, and writes it down if everything was measured or WRITE asks for it.
func (b *bench) finish() error {
	b.data.describe(b.runs, os.Getenv(envNote))
	fmt.Print("\n" + b.data.table())
	if os.Getenv(envWrite) != "1" && len(b.want) < len(rowNames(false)) {
		return nil
	}
	return b.data.write(dataFile, resultsFile, imagesDir)
}
