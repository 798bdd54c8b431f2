package main

import (
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
	envRows    = "ROWS"        // causes, and "steady", comma separated; "" = all
	envRuns    = "RUNS"        // repetitions of each; "" = 20
	envEngines = "ENGINES"     // "" = all
	envLoads   = "LOADS"       // idle, busy; "" = both
	envLong    = "LONG"        // "1": steady for ten minutes instead of one
	envWrite   = "WRITE"       // "1": merge into bench/FAILOVER.md even if not everything was asked for
	envBin     = "REVOLVE_BIN" // the program; "" = dist/revolve
	envKeep    = "LOGS"        // a directory for the engines' logs; "" = none are kept
)

const (
	defaultRuns = 20
	steadyRow   = "steady"
	steadyShort = time.Minute
	steadyLong  = 10 * time.Minute
	pageFile    = "bench/FAILOVER.md"
	dataFile    = "bench/failover.json"
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
		fmt.Fprintln(os.Stderr, "bench:", err)
		status = 1
	}
	os.Exit(status)
}

func run(ctx context.Context) (int, error) {
	stage, on, err := testbed.Current()
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
	stage                *testbed.Stage
	runs                 int
	steady               time.Duration
	rows, engines, loads []string
	part                 bool // not everything was asked for
	data                 *results
}

func newBench(stage *testbed.Stage) (*bench, error) {
	b := &bench{stage: stage, runs: defaultRuns, steady: steadyShort, data: newResults()}
	if text := os.Getenv(envRuns); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%s=%q is no number of repetitions", envRuns, text)
		}
		b.runs = n
	}
	if os.Getenv(envLong) == "1" {
		b.steady = steadyLong
	}
	for _, choice := range []struct {
		env   string
		known []string
		into  *[]string
	}{{envRows, rowNames(), &b.rows}, {envEngines, engineNames(), &b.engines}, {envLoads, loads(), &b.loads}} {
		*choice.into = strings.FieldsFunc(os.Getenv(choice.env), func(r rune) bool { return r == ',' || r == ' ' })
		for _, name := range *choice.into {
			if !slices.Contains(choice.known, name) {
				return nil, fmt.Errorf("%s: no %q; there are %s", choice.env, name, strings.Join(choice.known, " "))
			}
		}
		b.part = b.part || len(*choice.into) > 0
		if len(*choice.into) == 0 {
			*choice.into = choice.known
		}
	}
	return b, nil
}

func loads() []string { return []string{"idle", "busy"} }

func rowNames() (names []string) {
	for _, c := range causes() {
		names = append(names, c.name)
	}
	return append(names, steadyRow)
}

func engineNames() (names []string) {
	for _, e := range engines() {
		names = append(names, e.name())
	}
	return names
}

// all measures every wanted combination. One that fails is told, and the others go on.
func (b *bench) all(ctx context.Context) error {
	var errs []error
	for _, row := range b.rows {
		for _, load := range b.loads {
			for _, e := range engines() {
				if !slices.Contains(b.engines, e.name()) {
					continue
				}
				if err := b.one(ctx, row, load, e); err != nil {
					errs = append(errs, fmt.Errorf("%s, %s, %s: %w", row, load, e.name(), err))
					fmt.Println("FAILED:", errs[len(errs)-1])
				}
				if ctx.Err() != nil {
					return errors.Join(errs...)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// trialDeadline ends a trial that hangs; the longest takes about ten seconds.
const trialDeadline = 90 * time.Second

func (b *bench) one(ctx context.Context, row, load string, e engine) (err error) {
	others := loadAverage() // before the row's own work
	l, err := newLab(ctx, b.stage, e)
	if err != nil {
		return err
	}
	defer func() {
		l.keepLogs(os.Getenv(envKeep), row+"-"+load+"-"+e.name())
		err = errors.Join(err, l.close())
	}()
	if _, err := l.whole(ctx); err != nil {
		return err
	}
	if load == "busy" {
		end, err := burn(b.stage)
		if err != nil {
			return err
		}
		defer end()
	}
	if row == steadyRow {
		t, err := l.steady(ctx, b.steady)
		if err == nil {
			b.data.add(row, load, e, t, b.steady, others)
			fmt.Printf("%s %s %s: %v\n", row, load, e.name(), t)
		}
		return err
	}
	c := causes()[slices.Index(rowNames(), row)]
	for i := range b.runs {
		t, err := c.once(ctx, l)
		if err != nil {
			return fmt.Errorf("repetition %d: %w", i+1, err)
		}
		b.data.add(row, load, e, t, 0, others)
		fmt.Printf("%s %s %s %d/%d: %v\n", row, load, e.name(), i+1, b.runs, t)
	}
	return nil
}

func (c cause) once(ctx context.Context, l *lab) (trial, error) {
	ctx, cancel := context.WithTimeout(ctx, trialDeadline)
	defer cancel()
	return c.try(ctx, l)
}

// finish prints the table, and writes it down if everything was measured or WRITE asks for it.
func (b *bench) finish() error {
	b.data.Machine = machine()
	fmt.Print("\n" + b.data.table())
	if b.part && os.Getenv(envWrite) != "1" {
		return nil
	}
	return b.data.write(dataFile, pageFile)
}
