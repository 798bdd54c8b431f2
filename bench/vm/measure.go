package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"revolve/internal/testbed"
	"revolve/internal/vm/points"
	"revolve/internal/vm/transfer"
)

// result is one way in one row, over all repeats.
type result struct {
	row
	way      string
	took     []float64 // seconds
	sent     []float64 // bytes
	readA    []float64 // bytes read from the source's disk
	readB    []float64 // and from the copy's
	writtenB []float64
	load     float64
	last     points.Record
}

func (r *result) name() string { return r.row.name + " " + r.way }

// The ways.
const (
	ours     = "revolve"
	unproven = "revolve, without the proof's samples"
	inPlace  = "rsync --inplace"
	seedsWay = "snapshot, rsync"
)

func measure(ctx context.Context, stage *testbed.Stage, r row, runs int) (results []result, err error) {
	bed, err := testbed.NewBed(stage)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	l, err := newLab(ctx, stage, bed, r)
	if l != nil {
		defer l.close()
	}
	if err != nil {
		return nil, err
	}
	if err := l.create(); err != nil {
		return nil, err
	}
	first, err := l.ours(ctx, transfer.Budget{})
	if err != nil {
		return nil, err
	}
	if err := l.rsyncCopies(first); err != nil {
		return nil, err
	}
	return l.repeats(ctx, runs)
}

// rsyncCopies gives rsync what the first point is, sharing its blocks where that is possible.
func (l *lab) rsyncCopies(first points.Record) error {
	from := filepath.Join(l.there.Path("vm", first.ID), image)
	for _, name := range []string{"inplace.raw", "seed.raw"} {
		if name == "seed.raw" && !l.row.seed {
			continue
		}
		if out, err := exec.Command("cp", "--reflink=auto", "-p", from, filepath.Join(l.b, name)).CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
		if err := os.Chmod(filepath.Join(l.b, name), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) repeats(ctx context.Context, runs int) ([]result, error) {
	type way struct {
		name string
		do   func(*result) (int64, error)
	}
	point := func(budget transfer.Budget) func(*result) (int64, error) {
		return func(r *result) (sent int64, err error) {
			r.last, err = l.ours(ctx, budget)
			for _, f := range r.last.Here.Files {
				sent += f.Sent
			}
			return sent + r.last.Here.Proof.Sent, err
		}
	}
	ways := []way{
		{ours, point(transfer.Budget{})},
		{inPlace, func(*result) (int64, error) { return l.rsync(ctx, l.image, "inplace.raw", "--inplace") }},
	}
	if l.row.seed {
		ways = append(ways, way{seedsWay, func(*result) (int64, error) {
			snapshot := filepath.Join(l.a, "snapshot.raw")
			if out, err := exec.CommandContext(ctx, "cp", "--reflink=auto", "-p", l.image, snapshot).CombinedOutput(); err != nil {
				return 0, fmt.Errorf("cp: %w: %s", err, out)
			}
			defer os.Remove(snapshot)
			return l.rsync(ctx, snapshot, "seed.raw")
		}})
	}
	results := make([]result, len(ways)+1)
	for run := range runs {
		if err := l.change(); err != nil {
			return nil, err
		}
		for i := range ways { // they take turns at being first
			i = (i + run) % len(ways)
			results[i].row, results[i].way = l.row, ways[i].name
			if err := l.timed(&results[i], ways[i].do); err != nil {
				return nil, fmt.Errorf("%s: %w", ways[i].name, err)
			}
		}
		if err := l.same(results); err != nil {
			return nil, err
		}
		if err := l.change(); err != nil {
			return nil, err
		}
		last := &results[len(ways)]
		last.row, last.way = l.row, unproven
		if err := l.timed(last, point(transfer.Budget{Samples: -1, Rolling: -1})); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// timed does one way with nothing in memory.
func (l *lab) timed(r *result, do func(*result) (int64, error)) error {
	if err := l.cold(); err != nil {
		return err
	}
	readA, _, err := traffic(l.a)
	if err != nil {
		return err
	}
	readB, writtenB, err := traffic(l.b)
	if err != nil {
		return err
	}
	began := time.Now()
	sent, err := do(r)
	took := time.Since(began).Seconds()
	if err != nil {
		return err
	}
	afterA, _, _ := traffic(l.a)
	afterB, wroteB, _ := traffic(l.b)
	r.took, r.sent = append(r.took, took), append(r.sent, float64(sent))
	r.readA, r.readB, r.writtenB = append(r.readA, float64(afterA-readA)), append(r.readB, float64(afterB-readB)), append(r.writtenB, float64(wroteB-writtenB))
	r.load = loadNow()
	fmt.Fprintf(os.Stderr, "%s: %.2f s, %s sent, %s and %s read, load %.1f\n", r.name(), took, mib(float64(sent)), mib(float64(afterA-readA)), mib(float64(afterB-readB)), r.load)
	return nil
}

// same proves that every way brought the image.
func (l *lab) same(results []result) error {
	for _, r := range results {
		copied := map[string]string{inPlace: "inplace.raw", seedsWay: "seed.raw"}[r.way]
		if r.way == ours {
			copied = filepath.Join("vms", "vm", "points", string(r.last.ID), image)
		}
		if copied == "" {
			continue
		}
		if err := equal(l.image, filepath.Join(l.b, copied)); err != nil {
			return err
		}
	}
	return nil
}

func loadNow() (load float64) {
	b, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(b), &load)
	return load
}

func median(list []float64) float64 {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}

func mib(n float64) string { return fmt.Sprintf("%.1f MiB", n/(1<<20)) }

// report is the table, with what was to be reached.
func report(results []result, runs int) string {
	var b strings.Builder
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	version, _ := exec.Command("rsync", "--version").Output()
	rsync, _, _ := strings.Cut(string(version), "\n")
	fmt.Fprintf(&b, "# Points of virtual machines\n\nWritten by `make bench-vm`: how it is measured is in [vm/doc.go](vm/doc.go).\n\n")
	fmt.Fprintf(&b, "Machine: %d processors, Linux %s, %s; %s. Median of %d; both nodes share the machine and its one disk. \"Load\" is the machine's load average after the last run: with other work on it, the figures are an upper bound.\n\n",
		runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version(), strings.Join(strings.Fields(rsync), " "), runs)
	b.WriteString("| row | way | seconds | sent | read at the source | read at the copy | written at the copy | load |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s | %.2f | %s | %s | %s | %s | %.1f |\n", r.row.name, r.way, median(r.took), mib(median(r.sent)), mib(median(r.readA)), mib(median(r.readB)), mib(median(r.writtenB)), r.load)
	}
	b.WriteString("\n| row | what | to reach | reached | |\n|---|---|---|---|---|\n")
	judge := func(row, what, target string, got, most float64) {
		verdict := "yes"
		if got > most {
			verdict = "**no**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.3f | %s |\n", row, what, target, got, verdict)
	}
	for _, r := range results {
		if r.way != ours {
			continue
		}
		changed := float64(r.changes) * 4096
		rsync, bare := find(results, r.row.name, inPlace), find(results, r.row.name, unproven)
		judge(r.row.name, "time : rsync --inplace", r.target, median(r.took)/median(rsync.took), r.most)
		if r.fs != "ext4" {
			judge(r.row.name, "sent : changed", "<= 1.2", median(r.sent)/changed, 1.2)
			judge(r.row.name, "read (both sides, without the proof's samples) : changed", "<= 1.3", (median(bare.readA)+median(bare.readB))/changed, 1.3)
		} else {
			judge(r.row.name, "read at the copy, without the proof's samples : size", "none of the image (file system's own only)", median(bare.readB)/float64(r.size), 0.01)
		}
	}
	b.WriteString("\nThe tracker of each row, as its record says:\n\n")
	for _, r := range results {
		if r.way == ours && len(r.last.Here.Files) > 0 {
			f, p := r.last.Here.Files[0], r.last.Here.Proof
			fmt.Fprintf(&b, "- %s: %s (%s); %s told as changed, %s read for it; proof: %d samples, %s compared\n", r.row.name, f.Tracker, f.Why, mib(float64(f.Changed)), mib(float64(f.Read)), p.Samples, mib(float64(p.Bytes)))
		}
	}
	return b.String()
}

func find(results []result, row, way string) result {
	i := slices.IndexFunc(results, func(r result) bool { return r.row.name == row && r.way == way })
	return results[i]
}
