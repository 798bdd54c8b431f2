package stories

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"revolve/internal/testbed"
)

// A link's limit is that of all that a node sends over it, to however many; small
// changes do not wait for large files; and status says the limit.
func TestBandwidth(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		const (
			rate  = 2 << 20 // bytes a second, on each of two links
			large = 6 << 20
			// headers are what TLS, TCP, IP and Ethernet add (about 5 % of full segments), heartbeats and answers.
			headers = 1.15
			burst   = 1 << 20
		)
		l := newLab(t, stage, plan{extra: "bandwidth:\n  lan: { rate: 2MiB }\n  fast: { windows: [ { when: \"daily 00:00-00:00\", rate: 2MiB } ] }\n"})
		m := l.form()
		standbys := l.others(m)
		before, began := m.sent(), time.Now()
		put(t, m.home("large"), strings.Repeat("0123456789abcdef", large/16))
		there := func(name string) (n int) {
			for _, s := range standbys {
				if _, err := os.Stat(s.home(name)); err == nil {
					n++
				}
			}
			return n
		}
		time.Sleep(time.Second) // so that the large one fills the link
		put(t, m.home("small"), "small")
		l.eventually("the small file on both", lookEvery, func() error {
			if there("small") < len(standbys) {
				return errors.New("it is not there")
			}
			return nil
		})
		if n := there("large"); n > 0 {
			t.Errorf("the large file is on %d standbys before the small one", n)
		}
		l.eventually("the large file on both", lookEvery, func() error {
			if there("large") < len(standbys) {
				return errors.New("it is not there")
			}
			return nil
		})
		took := time.Since(began)
		sum := int64(0)
		for link, bytes := range m.sent() {
			got := bytes - before[link]
			sum += got
			t.Logf("%d KiB were sent over %s in %v", got>>10, link, took.Round(time.Millisecond))
			if most := int64(rate*took.Seconds()*headers) + burst; got > most {
				t.Errorf("%d bytes over %s in %v are more than %d a second", got, link, took, rate)
			}
		}
		if sum < 2*large {
			t.Errorf("%d bytes were sent of %d: the count is wrong", sum, 2*large)
		}
		s, err := m.status()
		must(t, err)
		for _, n := range s.Nodes {
			for _, k := range n.Links {
				if string(n.Name) == m.name && k.Limit != rate {
					t.Errorf("status says that link %s carries %d bytes a second", k.Name, k.Limit)
				}
			}
		}
		m.sync()
		l.equal(m)
	})
}

// sent is how many bytes each of the node's links has sent.
func (n *node) sent() map[string]int64 {
	t := n.lab.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	out, err := n.Run(ctx, "ip", "-s", "-j", "link", "show")
	must(t, err)
	var links []struct {
		IfName  string
		Stats64 struct{ Tx struct{ Bytes int64 } }
	}
	must(t, json.Unmarshal(out, &links))
	bytes := map[string]int64{}
	for _, l := range links {
		if l.IfName != "lo" {
			bytes[l.IfName] = l.Stats64.Tx.Bytes
		}
	}
	return bytes
}
