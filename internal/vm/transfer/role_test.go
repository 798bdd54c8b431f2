package transfer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/peer"
	"revolve/internal/vm/points"
)

// The test's own program plays a node that is killed at a labelled moment.
const (
	envRole  = "REVOLVE_TRANSFER_ROLE" // send or receive
	envState = "REVOLVE_TRANSFER_STATE"
	envDir   = "REVOLVE_TRANSFER_DIR"  // of the images, with vms below it; of the storage
	envAddr  = "REVOLVE_TRANSFER_ADDR" // of the receiver
	envKill  = "REVOLVE_TRANSFER_KILL" // label:times
)

func role() int {
	var err error
	switch os.Getenv(envRole) {
	case "receive":
		err = playReceiver()
	case "send":
		err = playSender()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// killer ends this process as a power cut of its machine would, but for the disk.
func killer() func(string) {
	label, times, _ := strings.Cut(os.Getenv(envKill), ":")
	left, _ := strconv.Atoi(times)
	return func(name string) {
		if name != label {
			return
		}
		if left--; left <= 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
}

func playReceiver() error {
	id, err := peer.LoadIdentity(os.Getenv(envState))
	if err != nil {
		return err
	}
	store, err := points.Open(os.Getenv(envDir))
	if err != nil {
		return err
	}
	store.Step = killer()
	l, err := peer.Listen(context.Background(), id, func(cluster.NodeID) bool { return true }, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, quiet())
	if err != nil {
		return err
	}
	fmt.Println(l.Addrs()[0])
	return l.Serve(context.Background(), func(ctx context.Context, c *peer.Conn) {
		_ = Receive(ctx, c, Receiving{Store: store, Node: "b", Log: quiet()})
	})
}

func playSender() error {
	id, err := peer.LoadIdentity(os.Getenv(envState))
	if err != nil {
		return err
	}
	dir := os.Getenv(envDir)
	store, err := points.Open(dir + "/vms")
	if err != nil {
		return err
	}
	kill := killer()
	store.Step = kill
	next := points.First(vmName, time.Now())
	list, err := store.List(vmName)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		next = list[0].Next(time.Now())
	}
	src, err := takeIn(store, dir, next)
	if err != nil {
		return err
	}
	defer src.Close()
	addr, err := netip.ParseAddrPort(os.Getenv(envAddr))
	if err != nil {
		return err
	}
	c, err := peer.Dial(context.Background(), id, "b", []peer.Path{{Link: "lan", Local: addr.Addr(), Remote: addr}}, Service)
	if err != nil {
		return err
	}
	_, err = Send(context.Background(), c, Sending{Store: store, Source: src, Every: 256 << 10, Step: kill})
	return errors.Join(err)
}
