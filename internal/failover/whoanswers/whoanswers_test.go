package whoanswers

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/vip"
	"revolve/internal/problem"
	"revolve/internal/testbed"
)

const (
	progAsk = "ask-cards" // this test binary as the third machine
	four    = "10.77.0.200"
	six     = "fd77::200"
	own     = "fd77::9"
)

func TestMain(m *testing.M) {
	if testbed.Reexecuted() {
		os.Exit(testbed.Child())
	}
	if len(os.Args) > 1 && os.Args[1] == progAsk {
		o := Options{Device: "lan", Own: netip.MustParseAddr(own), Addrs: []netip.Addr{netip.MustParseAddr(four), netip.MustParseAddr(six)}, Every: 10 * time.Millisecond}
		fmt.Fprintln(os.Stderr, Ask(context.Background(), o, func(x Answer) error {
			_, err := fmt.Println(x.Addr, x.IsQuestion(), fmt.Sprintf("%x", x.Card[:]), int64(x.Asked))
			return err
		}))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// seen is who answered the newest questions that are over, and how many were asked.
type seen struct {
	mu    sync.Mutex
	now   map[string][]string // by address, for the question that is asked now
	last  map[string][]string
	asked int
}

func (s *seen) read(r *bufio.Scanner) {
	for r.Scan() {
		f := strings.Fields(r.Text())
		s.mu.Lock()
		if f[1] == "true" {
			s.last[f[0]], s.now[f[0]] = s.now[f[0]], nil
			s.asked++
		} else {
			s.now[f[0]] = append(s.now[f[0]], f[2])
		}
		s.mu.Unlock()
	}
}

// Every card that has an address answers for it, in both families, as an ordinary user's stage and as root's.
func TestWhoAnswers(t *testing.T) {
	for name, as := range map[string]testbed.As{"ordinary user": testbed.AsNobody, "self": testbed.AsSelf} {
		t.Run(name, func(t *testing.T) { testbed.OnStage(t, as, func(stage *testbed.Stage) { onLink(t, stage) }) })
	}
}

func onLink(t *testing.T, stage *testbed.Stage) {
	bed, err := testbed.NewBed(stage)
	must(t, err)
	defer func() { must(t, bed.Close()) }()
	must(t, bed.AddLink("lan"))
	nodes := map[string]*testbed.Node{}
	for i, name := range []string{"a", "b", "asker"} {
		nodes[name], err = bed.AddNode(testbed.NodeSpec{ID: cluster.NodeID(name), Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{{Link: "lan",
			Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", 7+i)), netip.MustParsePrefix(fmt.Sprintf("fd77::%d/64", 7+i))}}}})
		must(t, err)
	}
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	_, err = nodes["asker"].Start(testbed.Command{Argv: []string{"/proc/self/exe", progAsk}, Stdout: w, Stderr: os.Stderr})
	must(t, err)
	must(t, w.Close())
	s := &seen{now: map[string][]string{}, last: map[string][]string{}}
	go s.read(bufio.NewScanner(r)) // ends with the pipe
	for _, step := range []struct {
		node, do string
		want     []string
	}{{"", "", nil}, {"a", "add", []string{"a"}}, {"b", "add", []string{"a", "b"}}, {"a", "del", []string{"b"}}} {
		if step.node != "" {
			for _, addr := range []string{four + "/24", six + "/64"} {
				argv := []string{"ip", "address", step.do, addr, "dev", "lan"}
				if step.do == "add" && strings.Contains(addr, ":") {
					argv = append(argv, "nodad")
				}
				_, err := nodes[step.node].Run(context.Background(), argv...)
				must(t, err)
			}
		}
		s.until(t, nodes, step.want)
	}
}

// until waits until a question for each address was answered by these nodes, each once.
func (s *seen) until(t *testing.T, nodes map[string]*testbed.Node, want []string) {
	t.Helper()
	cards := map[string]bool{}
	for _, n := range want {
		cards[fmt.Sprintf("%x", []byte(nodes[n].Card("lan")))] = true
	}
	s.mu.Lock()
	begin := s.asked
	s.mu.Unlock()
	for late := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		asked, got := s.asked-begin, fmt.Sprint(s.last)
		ok := asked > 4
		for _, addr := range []string{four, six} {
			ok = ok && len(s.last[addr]) == len(cards)
			for _, c := range s.last[addr] {
				ok = ok && cards[c]
			}
		}
		s.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%d questions, answered by %s, want %v", asked, got, want)
		}
	}
}

// What cannot be asked is said.
func TestCannotAsk(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := Ask(ctx, Options{Device: "no-such-card"}, nil)
	if problem.KindOf(err) != problem.Unavailable {
		t.Error(err)
	}
	if _, err := lanesOf(Options{Addrs: []netip.Addr{netip.MustParseAddr(six)}}, vip.MAC{2}, true); problem.KindOf(err) != problem.Invalid {
		t.Error("IPv6 from nowhere:", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
