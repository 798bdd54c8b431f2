package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// What this program is when the harness starts it again, in argv[1].
const (
	roleEcho  = "echo"  // NAME: answers every datagram with it and the node's name
	roleAsk   = "ask"   // ADDRESS: asks it, and writes the answers to stdout
	roleCards = "cards" // ADDRESS: asks all cards of the link who has it, and writes the answers to stdout
	roleBurn  = "burn"  // keeps a core busy
)

const (
	echoPort   = 7007
	askEvery   = 5 * time.Millisecond
	flushEvery = 20 * time.Millisecond
	askedSize  = 16      // number, time of the question
	ringBytes  = 8 << 10 // of the ask process's writer
)

// child is what the roles do; ok is false for the harness itself.
func child(ctx context.Context, args []string) (ok bool, err error) {
	switch {
	case len(args) == 3 && args[1] == roleEcho:
		return true, echo(ctx, args[2])
	case len(args) == 3 && args[1] == roleAsk:
		return true, ask(ctx, args[2], os.Stdout)
	case len(args) == 3 && args[1] == roleCards:
		return true, askCards(ctx, args[2], os.Stdout)
	case len(args) == 2 && args[1] == roleBurn:
		for ctx.Err() == nil {
		}
		return true, nil
	}
	return false, nil
}

// echo answers from the address that was asked: a wildcard socket would answer
// from the node's own, and no client takes that for an answer.
func echo(ctx context.Context, name string) error {
	c, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	p := ipv4.NewPacketConn(c)
	if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return err
	}
	buf := make([]byte, 64)
	for ctx.Err() == nil {
		n, cm, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil || n != askedSize || cm == nil {
			continue
		}
		_, _ = p.WriteTo(append(buf[:n:n], name[0]), &ipv4.ControlMessage{Src: cm.Dst}, from) // the address may just have left
	}
	return nil
}

// instant is nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
type instant int64

func now() instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock (clock_gettime(2))
	return instant(ts.Nano())
}

func (i instant) add(d time.Duration) instant { return i + instant(d) }
func (i instant) sub(o instant) float64       { return float64(i-o) / 1e6 }

// answer is one reply as it travels from the client to the harness.
type answer struct {
	sent, came instant
	node       byte // first of the node's name
}

const answerSize = 17

// ask is an ordinary client: the kernel's neighbour table finds the server, and
// nothing is asked twice.
func ask(ctx context.Context, server string, out io.Writer) error {
	c, err := net.Dial("udp4", net.JoinHostPort(server, fmt.Sprint(echoPort)))
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var mu sync.Mutex
	w := bufio.NewWriterSize(out, ringBytes)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return send(ctx, c) })
	g.Go(func() error {
		return every(ctx, flushEvery, func() error {
			mu.Lock()
			defer mu.Unlock()
			return w.Flush()
		})
	})
	g.Go(func() error {
		buf, rec := make([]byte, 64), make([]byte, 0, answerSize)
		for ctx.Err() == nil {
			n, err := c.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if err != nil || n != askedSize+1 {
				continue // an ICMP error for an earlier question (udp(7))
			}
			rec = append(rec[:0], buf[8:16]...)
			rec = append(binary.BigEndian.AppendUint64(rec, uint64(now())), buf[16])
			mu.Lock()
			_, err = w.Write(rec)
			mu.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

func send(ctx context.Context, c net.Conn) error {
	var q [askedSize]byte
	number := uint64(0)
	return every(ctx, askEvery, func() error {
		number++
		binary.BigEndian.PutUint64(q[:], number)
		binary.BigEndian.PutUint64(q[8:], uint64(now()))
		_, _ = c.Write(q[:]) // "host unreachable" is a question without an answer
		return nil
	})
}

func every(ctx context.Context, d time.Duration, do func() error) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := do(); err != nil {
				return err
			}
		}
	}
}
