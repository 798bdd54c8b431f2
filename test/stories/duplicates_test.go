package stories

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"revolve/internal/control"
	"revolve/internal/testbed"
)

// TestForeignDuplicate: a machine that is no node takes the addresses. status says
// so, with its card and since when, until it has let go; the master stays where it is.
func TestForeignDuplicate(t *testing.T) {
	t.Parallel() // it waits for looks, and measures nothing
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		thief, err := l.bed.AddNode(testbed.NodeSpec{ID: "thief", Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{
			{Link: lan, Addrs: []netip.Prefix{prefix("10.77.0.%d/24", 66)}}}})
		must(t, err)
		m := l.form()
		ip := func(args ...string) string {
			t.Helper()
			ctx, cancel := context.WithTimeout(context.Background(), commandFor)
			defer cancel()
			out, err := thief.Run(ctx, append([]string{"ip"}, args...)...)
			if err != nil {
				t.Fatalf("ip %v: %v\n%s", args, err, out)
			}
			return string(out)
		}
		dev := strings.Fields(ip("-br", "-4", "addr", "show", "to", "10.77.0.66"))[0]
		dev, _, _ = strings.Cut(dev, "@")
		card := strings.Fields(ip("-br", "link", "show", dev))[2]
		told := func(want int) (s control.Status) {
			t.Helper()
			l.eventually(fmt.Sprintf("%d duplicates", want), askEvery, func() (err error) {
				if s, err = m.status(); err != nil || len(s.Duplicates) != want {
					return fmt.Errorf("%+v (%v)", s.Duplicates, err)
				}
				return nil
			})
			return s
		}
		told(0)
		ip("addr", "add", vip4.String(), "dev", dev)
		ip("addr", "add", vip6.String(), "dev", dev, "nodad")
		s := told(2)
		for i, want := range []netip.Prefix{vip4, vip6} {
			if d := s.Duplicates[i]; d.MAC != card || d.Address != want.Addr().String() || string(d.Link) != string(lan) || d.Since.IsZero() || d.Since.After(s.AsOf) {
				t.Errorf("got %+v, want %v on %s", d, want, card)
			}
		}
		if s.Verdict != control.Critical || s.Master != m.name {
			t.Errorf("the verdict is %s, the master %s", s.Verdict, s.Master)
		}
		text, _, status := l.revolve("status", "--state", m.state())
		if !strings.Contains(text, card) || !strings.Contains(text, "another machine has the address") || status != 2 {
			t.Errorf("status %d says\n%s", status, text)
		}
		t.Log("\n" + text)
		ip("addr", "del", vip4.String(), "dev", dev)
		if s := told(1); s.Duplicates[0].Address != vip6.Addr().String() {
			t.Errorf("got %+v", s.Duplicates)
		}
		ip("addr", "del", vip6.String(), "dev", dev)
		if s := told(0); strings.Contains(strings.Join(s.Reasons, "\n"), card) {
			t.Errorf("still said: %v", s.Reasons)
		}
		if who := l.holders(); len(who) != 1 || who[0] != m.name {
			t.Errorf("the VIPs are on %v", who)
		}
	})
}

// TestBlockedHeartbeats: a firewall on the master drops its heartbeats. Nobody takes
// the addresses, whose card answers, and status says on the others what is the matter, until it is mended.
func TestBlockedHeartbeats(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIPPED PART: heartbeats behind a firewall (no nft)")
	}
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		l := newLab(t, stage, plan{})
		m := l.form()
		nft := func(rules string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(context.Background(), commandFor)
			defer cancel()
			if out, err := m.Run(ctx, "nft", rules); err != nil {
				t.Fatalf("nft: %v\n%s", err, out)
			}
		}
		says := func(blocked bool) {
			t.Helper()
			for _, x := range l.others(m) {
				l.eventually(fmt.Sprintf("%s says that heartbeats are blocked: %v", x.name, blocked), askEvery, func() error {
					s, err := x.status()
					if text := strings.Join(s.Reasons, "\n"); err != nil || s.Blocked != blocked || strings.Contains(text, "heartbeats are blocked") != blocked || blocked && s.Verdict != control.Critical {
						return fmt.Errorf("%v %s %v", s.Blocked, text, err)
					}
					return nil
				})
			}
		}
		says(false)
		nft("table inet wall { chain out { type filter hook output priority 0; udp dport 7373 drop; }; chain in { type filter hook input priority 0; udp dport 7373 drop; }; }")
		says(true)
		if who := l.holders(); len(who) != 1 || who[0] != m.name {
			t.Errorf("the VIPs are on %v", who)
		}
		nft("delete table inet wall")
		says(false)
	})
}
