// Command revolve turns a handful of machines into a cluster that keeps serving.
// All of it is in internal/cli and below; this package only hands over what the
// process was given, and never decides anything.
//
//	revolve --help
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"revolve/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	done := profile()
	status := cli.Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	done()
	stop()
	os.Exit(status)
}
