package roster

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/problem"
)

// A new configuration may cut the cluster off from itself, and from the person who
// could mend it. So it is tried first: generation G has the former configuration
// with it, and a deadline. What follows is the same bytes on whichever node makes it,
// so that nobody has to agree:
//
//   - G+1, the former configuration, is made by every node by itself when its deadline passes.
//   - G+2, the new one for good, is made by the master when every node that must has confirmed.
//
// So a node that went back goes forward again as soon as it hears that the others stayed.

// MaxTrial bounds how long a configuration may be tried: the cluster cannot be changed meanwhile.
const MaxTrial = 10 * time.Minute

// Trial is what a generation that is only tried has with it.
type Trial struct {
	Seconds uint32           `json:"seconds"` // from when a node takes it
	Former  string           `json:"former"`  // the text of the configuration before it
	Expect  []cluster.NodeID `json:"expect"`  // the nodes that must confirm
}

func (t *Trial) clone() *Trial {
	if t == nil {
		return nil
	}
	return &Trial{t.Seconds, t.Former, slices.Clone(t.Expect)}
}

func (t *Trial) check() error {
	if t == nil {
		return nil
	}
	if t.Seconds == 0 || t.Seconds > uint32(MaxTrial/time.Second) || len(t.Expect) > config.MaxNodes {
		return errors.New("a trial that lasts too long or expects too many")
	}
	for _, n := range t.Expect {
		if !config.IsName(string(n)) {
			return errors.New("a trial that expects what is no node's name")
		}
	}
	return nil
}

// Back is what follows if a trial fails.
func (r *Roster) Back() Roster {
	n := r.Clone()
	n.Follow(r)
	n.Config, n.Tried = r.Trial.Former, r.Config
	return n
}

// Keep is what follows if a trial succeeds.
func (r *Roster) Keep() Roster {
	back := r.Back()
	n := back.Clone()
	n.Follow(&back)
	n.Config, n.Tried = r.Config, ""
	return n
}

// way is the configuration that a trial would go back to, nil without one.
func (r *Roster) way() *config.Config {
	if r.Trial == nil {
		return nil
	}
	cfg, err := config.Parse("the former configuration", []byte(r.Trial.Former))
	if err != nil {
		return nil // Decode has refused such a roster
	}
	return cfg
}

// Former is the configuration that the trial in force would go back to, nil if
// there is none. Who is a member there is not out yet.
func (s *Store) Former() *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.former
}

// NoWayBack reports whether a node is no member in the configuration that the trial
// in force would go back to: it joined while that was tried. It is not out then, even
// if the others go back; it waits for a generation that it is in.
func (s *Store) NoWayBack(self cluster.NodeID) bool {
	former := s.Former()
	if former == nil {
		return false
	}
	_, member := former.Node(self)
	return !member
}

// until is when a trial ends on this node. A clock that is set meanwhile changes nothing, as long as the machine is up.
type until struct {
	Wall time.Time     `json:"wall"`
	Boot string        `json:"boot"`  // of this boot of the kernel
	Up   time.Duration `json:"up_ns"` // CLOCK_BOOTTIME: it counts a suspended machine's time too
	// process is the same in this process's time, where the kernel does not say which boot it is.
	process time.Time
}

func ending(t *Trial) *until {
	if t == nil {
		return nil
	}
	lasts := time.Duration(t.Seconds) * time.Second
	u := &until{Wall: time.Now().UTC().Add(lasts)}
	u.anchor(lasts)
	return u
}

func (u *until) anchor(left time.Duration) {
	boot, up := uptime()
	u.Boot, u.Up, u.process = boot, up+left, time.Now().Add(left)
}

// resume gives what was read from the disk a clock that runs. After a boot only the
// wall clock says what is left, and it may be wrong by years, or stand still: it is
// looked at once, and from then on this boot's time counts.
func (u *until) resume(t *Trial) (anchored bool) {
	if boot, _ := uptime(); boot == u.Boot && boot != "" {
		return false
	}
	u.anchor(min(time.Until(u.Wall), time.Duration(t.Seconds)*time.Second))
	return true
}

// left is how much of the trial is left.
func (u *until) left() time.Duration {
	if boot, up := uptime(); boot == u.Boot && boot != "" {
		return u.Up - up
	}
	return time.Until(u.process)
}

// uptime is the time since the boot, and which boot it is; "" if the kernel does not say.
func uptime() (boot string, up time.Duration) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var ts unix.Timespec
	if err = cmp.Or(err, unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)); err != nil {
		return "", 0
	}
	return strings.TrimSpace(string(b)), time.Duration(ts.Nano())
}

// Trial is how long the generation in force is tried for yet; false if it is in force for good.
func (s *Store) Trial() (left time.Duration, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.s.Roster.Trial
	switch {
	case t == nil:
		return 0, false
	case s.s.Until == nil: // a file that somebody has edited
		return 0, true
	}
	return s.s.Until.left(), true
}

// Settle ends a trial whose time has passed while nobody looked: the agent was
// killed, or the machine was off. An agent that starts calls it first. What is left
// after a boot is written down: agents that are started again and again do not get more.
func (s *Store) Settle(self cluster.NodeID) (back bool, err error) {
	left, on := s.Trial()
	switch {
	case !on:
		return false, nil
	case left > 0:
		return false, s.putAnchor()
	}
	return s.TurnBack(self)
}

func (s *Store) putAnchor() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.anchored {
		return nil
	}
	return s.put(s.s)
}

// TurnBack ends a trial here before its time: the node cannot run with it. A node
// that came with the trial has nowhere to go back to, and waits (NoWayBack).
func (s *Store) TurnBack(self cluster.NodeID) (back bool, err error) {
	r := s.Current()
	if r.Trial == nil || s.NoWayBack(self) {
		return false, nil
	}
	next := r.Back()
	cfg, err := config.Parse("the former configuration", []byte(next.Config))
	if err != nil {
		return false, err
	}
	return s.Take(&next, cfg)
}

// Heed keeps revocations of a roster that is not taken.
func (s *Store) Heed(epochs map[cluster.NodeID]uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.s
	n.Floor = floor(&n.Roster, n.Floor, epochs)
	switch {
	case len(n.Floor) > maxEpochs:
		return &problem.Problem{Op: "take revocations", Kind: problem.Corrupt, Err: errors.New("more than there can be")}
	case !s.has || sameEpochs(n.Floor, s.s.Floor):
		return nil
	}
	return s.put(n)
}

func sameEpochs(x, y map[cluster.NodeID]uint32) bool {
	for n, e := range x {
		if y[n] != e {
			return false
		}
	}
	return len(x) == len(y)
}
