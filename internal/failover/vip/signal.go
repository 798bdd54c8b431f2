package vip

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
)

// Signal notices that an interface's carrier is lost before the kernel tells of it.
//
// The kernel announces a lost carrier at most once a second for all interfaces
// together, unless the interface depends on another one (net/core/link_watch.c,
// linkwatch_urgent_event): after a pulled cable the message comes up to a second
// late. The driver's counters of how often the carrier came and went (sysfs-class-net,
// carrier_up_count and carrier_down_count) change at once, and reading them waits for no lock.
type Signal struct {
	downs, ups int    // descriptors
	rest       uint64 // downs minus ups while the carrier is there
	buf        [24]byte
}

// signalTries is how often a carrier may change while its baseline is read.
const signalTries = 4

// Signal opens the counters of interface index. It refuses if /sys is not of this
// network namespace: what it shows there may be another interface of the same name.
func (c *Conn) Signal(index int) (*Signal, error) {
	s := &Signal{downs: -1, ups: -1}
	card, err := c.Card(index)
	if err == nil {
		s.downs, err = openCounter(card.Name, "carrier_down_count")
	}
	if err == nil {
		s.ups, err = openCounter(card.Name, "carrier_up_count")
	}
	if err == nil {
		err = sameCard(card, index)
	}
	if err == nil {
		err = s.Rest(c, index)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// sameCard tells whether /sys shows interface index, and not that of another network
// namespace: names and indices, and counters of new interfaces, are the same everywhere, hardware addresses are not.
func sameCard(card Card, index int) error {
	shown := func(attribute string) string {
		b, _ := os.ReadFile(filepath.Join("/sys/class/net", card.Name, attribute)) // what cannot be read is another one
		return strings.TrimSpace(string(b))
	}
	if shown("ifindex") == strconv.Itoa(index) && shown("address") == net.HardwareAddr(card.MAC[:]).String() {
		return nil
	}
	return &problem.Problem{Op: "read the counters of carrier losses", Kind: problem.Unavailable, Subject: card.Name, Hint: "/sys is of another network namespace"}
}

func openCounter(name, counter string) (int, error) {
	fd, err := unix.Open(filepath.Join("/sys/class/net", name, counter), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &problem.Problem{Op: "open the counter of carrier losses", Kind: problem.Unavailable, Subject: name, Err: err}
	}
	return fd, nil
}

// Rest takes the present state of interface index as what the counters are compared with.
func (s *Signal) Rest(c *Conn, index int) error {
	for range signalTries {
		card, err := c.Card(index)
		if err != nil {
			return err
		}
		downs, ups, ok := s.counts()
		if !ok || downs != uint64(card.downs) || ups != uint64(card.ups) {
			continue
		}
		s.rest = downs - ups
		if !card.signal {
			s.rest--
		}
		return nil
	}
	return &problem.Problem{Op: "read the counters of carrier losses", Kind: problem.Unavailable, Subject: fmt.Sprint(index)}
}

// Lost reports whether the carrier is certain to be gone. It allocates nothing and waits for nobody.
// A nil Signal knows nothing.
func (s *Signal) Lost() bool {
	if s == nil {
		return false
	}
	downs, ups, ok := s.counts()
	return ok && downs-ups != s.rest
}

// counts reads both. What changes meanwhile is not known yet: a carrier that goes
// and comes between the two readings would look lost.
func (s *Signal) counts() (downs, ups uint64, ok bool) {
	downs, ok = s.count(s.downs)
	if !ok {
		return 0, 0, false
	}
	if ups, ok = s.count(s.ups); !ok {
		return 0, 0, false
	}
	again, ok := s.count(s.downs)
	return downs, ups, ok && again == downs
}

func (s *Signal) count(fd int) (n uint64, ok bool) {
	k, err := unix.Pread(fd, s.buf[:], 0)
	if err != nil || k <= 0 {
		return 0, false
	}
	for _, c := range s.buf[:k] {
		if c < '0' || c > '9' {
			break
		}
		n, ok = n*10+uint64(c-'0'), true
	}
	return n, ok
}

// Close closes the descriptors.
func (s *Signal) Close() {
	if s == nil {
		return
	}
	for _, fd := range []int{s.downs, s.ups} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
