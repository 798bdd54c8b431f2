//go:build profile

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
)

// profile writes a CPU profile of this process into the directory that
// REVOLVE_PROFILE names. Only a binary built with `-tags profile` can: it serves
// measurements, and is never shipped.
func profile() (stop func()) {
	dir := os.Getenv("REVOLVE_PROFILE")
	if dir == "" || len(os.Args) < 2 {
		return func() {}
	}
	host, _ := os.Hostname()
	f, err := os.CreateTemp(dir, fmt.Sprintf("%s-%s-*.pprof", host, filepath.Base(os.Args[1])))
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}
}
