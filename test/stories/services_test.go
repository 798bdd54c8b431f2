package stories

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/testbed"
)

// progAsk is this test binary as a client that asks a DNS again and again.
const progAsk = "stories-ask"

const (
	asksEvery = 10 * time.Millisecond
	asksWait  = 100 * time.Millisecond // a question without an answer by then is lost
	portBIND  = 53
	portMasq  = 5353 // dnsmasq beside it: the same names from a hosts file
	wwwName   = "www.example.lan"
)

// askMain asks the address for the name until it is killed: one line for each question.
func askMain(args []string) int {
	name, err := dnsmessage.NewName(args[1] + ".")
	if err != nil {
		return 1
	}
	for id := uint16(0); ; id++ {
		began := time.Now()
		answer, err := askOnce(args[0], name, id)
		if err != nil {
			answer = "-"
		}
		fmt.Printf("%d %s\n", began.UnixNano(), answer)
		time.Sleep(asksEvery - min(asksEvery, time.Since(began)))
	}
}

func askOnce(addr string, name dnsmessage.Name, id uint16) (string, error) {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id}, Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	q, err := m.Pack()
	if err != nil {
		return "", err
	}
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write(q); err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(asksWait)); err != nil {
		return "", err
	}
	b := make([]byte, 512)
	n, err := conn.Read(b)
	if err != nil {
		return "", err
	}
	var r dnsmessage.Message
	if err := r.Unpack(b[:n]); err != nil || r.ID != id || len(r.Answers) != 1 {
		return "", fmt.Errorf("%v %v", err, r.Header)
	}
	a, ok := r.Answers[0].Body.(*dnsmessage.AResource)
	if !ok {
		return "", errors.New("no address")
	}
	return netip.AddrFrom4(a.A).String(), nil
}

// served is a lab whose nodes run BIND and dnsmasq on the same zone.
type served struct {
	*lab
	client  *testbed.Node
	askers  []*asker
	version int
}

// namedKey goes before examples/bind/named.conf: each node reloads its own, with a key that the story makes up.
const namedKey = `key "k" { algorithm hmac-sha256; secret "c3RvcmllcyBvbmx5LCBubyBzZWNyZXQ="; };
controls { inet 127.0.0.1 port 953 allow { 127.0.0.1; } keys { "k"; }; };
`

// namedConf is the example with the directories of the stage in place of those of a machine.
func namedConf(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../examples/bind/named.conf")
	must(t, err)
	return namedKey + strings.NewReplacer("/var/cache/bind", "SELF", "/var/lib/bind/zones", "SELF/zones",
		"options {\n", "options { pid-file none; session-keyfile none; lock-file none;\n").Replace(string(b))
}

const rndcConf = `key "k" { algorithm hmac-sha256; secret "c3RvcmllcyBvbmx5LCBubyBzZWNyZXQ="; };
options { default-key "k"; default-server 127.0.0.1; default-port 953; };
`

const servicesText = `services:
  dns: { exec: "exec named -g -n 1 -c SELF/named.conf", check: "dns://127.0.0.1:53/www.example.lan", required: true }
  hosts: { exec: "exec dnsmasq -k -C SELF/empty --port=5353 --no-resolv --addn-hosts=SELF/zones/hosts --pid-file=SELF/dnsmasq.pid --user=root", check: "dns://127.0.0.1:5353/www.example.lan" }
`

// reload is what the volume's changes call for, if the zone or the hosts are among them.
const reload = `, on_change: "tr '\\000' '\\n' >> SELF/changes; rndc -c SELF/rndc.conf reload && kill -HUP $(cat SELF/dnsmasq.pid)"`

func newServed(t *testing.T, stage *testbed.Stage) *served {
	s := &served{lab: newLab(t, stage, plan{volumes: []string{"zones"}, extra: servicesText, volume: reload, disk: func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: 64 << 20} }})}
	conf := namedConf(t)
	for _, n := range s.nodes {
		for file, text := range map[string]string{"named.conf": conf, "rndc.conf": rndcConf, "empty": ""} {
			put(t, filepath.Join(n.Root(), file), strings.ReplaceAll(text, "SELF", s.bed.Self()))
		}
	}
	unix.Sync()
	var err error
	s.client, err = s.bed.AddNode(testbed.NodeSpec{ID: "client", Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{
		{Link: lan, Addrs: []netip.Prefix{prefix("10.77.0.%d/24", 99)}}}})
	must(t, err)
	return s
}

// publish puts a new address of www into the zone, as an editor does, and into the hosts file.
func (s *served) publish(on *node) string {
	s.t.Helper()
	s.version++
	addr := fmt.Sprintf("10.1.%d.1", s.version)
	write(s.t, on.volume("zones")+"/example.lan", fmt.Sprintf("$TTL 1\n@ IN SOA ns hostmaster %d 60 60 600 1\n@ IN NS ns\nns IN A 10.77.0.200\nwww IN A %s\n", s.version, addr))
	write(s.t, on.volume("zones")+"/hosts", addr+" "+wwwName+"\n")
	return addr
}

// dig asks one server with the real client.
func (s *served) dig(server string, port int) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandFor)
	defer cancel()
	out, err := s.client.Run(ctx, "dig", "+short", "+tries=1", "+time=1", "-p", strconv.Itoa(port), "@"+server, wwwName, "A")
	return strings.TrimSpace(string(out)), err
}

// answers waits until the servers answer so.
func (s *served) answers(want string, servers ...string) {
	s.t.Helper()
	s.eventually("the answer "+want, askEvery, func() error {
		for _, server := range servers {
			for _, port := range []int{portBIND, portMasq} {
				if got, err := s.dig(server, port); got != want {
					return fmt.Errorf("%s port %d answers %q (%v)", server, port, got, err)
				}
			}
		}
		return nil
	})
}

func (s *served) ask(name string, port int) {
	exe, err := os.Executable()
	must(s.t, err)
	a := &asker{name: name, file: filepath.Join(s.stage.Dir, "asks-"+name)}
	_, err = s.client.Start(testbed.Command{Argv: []string{exe, progAsk, net.JoinHostPort(vip4.Addr().String(), strconv.Itoa(port)), wwwName}, Log: a.file})
	must(s.t, err)
	s.askers = append(s.askers, a)
}

func (s *served) lost(chapter string) {
	for _, a := range s.askers {
		s.t.Log(a.lost(s.t, chapter))
	}
}

// service is what the node says of one of its services.
func (n *node) service(name string) (control.Service, error) {
	s, err := n.status()
	if err != nil {
		return control.Service{}, err
	}
	i := slices.IndexFunc(s.Services, func(x control.Service) bool { return x.Name == name })
	if i < 0 {
		return control.Service{}, fmt.Errorf("%s has no service %s", n.name, name)
	}
	return s.Services[i], nil
}

// waitFor waits until the node's BIND is in that state.
func (s *served) waitFor(n *node, state string) (v control.Service) {
	s.t.Helper()
	s.eventually("the DNS of "+n.name+" to be "+state, askEvery, func() (err error) {
		if v, err = n.service("dns"); err == nil && v.State != state {
			err = fmt.Errorf("it is %s: %s", v.State, v.LastError)
		}
		return err
	})
	return v
}

// named are the node's processes of BIND.
func (n *node) named() (pids []int) {
	all, err := n.Processes()
	must(n.lab.t, err)
	for _, pid := range all {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(b)) == "named" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// wreck kills BIND and keeps it from starting again; repair lets it.
func (s *served) wreck(n *node) {
	s.t.Helper()
	must(s.t, os.Rename(n.Root()+"/named.conf", n.Root()+"/named.conf.away"))
	for _, pid := range n.named() {
		must(s.t, unix.Kill(pid, unix.SIGKILL))
	}
}

func (s *served) repair(n *node) {
	s.t.Helper()
	must(s.t, os.Rename(n.Root()+"/named.conf.away", n.Root()+"/named.conf"))
	s.waitFor(n, "healthy")
}

// needs skips, loudly, without root or one of the programs.
func needs(t *testing.T, what string, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED PART: %s (needs root)", what)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("SKIPPED PART: %s (%s is not installed)", what, p)
		}
	}
}

// TestServices: a real BIND and a real dnsmasq on every node; the address follows their health.
func TestServices(t *testing.T) {
	needs(t, "real DNS servers on every node", "named", "rndc", "dnsmasq", "dig")
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		s := newServed(t, stage)
		s.publish(s.nodes["a"]) // before the first start: the others get it by the mirror
		m := s.formAround(s.nodes["a"])
		for _, name := range s.names {
			s.waitFor(s.nodes[name], "healthy")
		}
		vip := vip4.Addr().String()
		all := []string{vip, "10.77.0.11", "10.77.0.12", "10.77.0.13"}
		s.answers("10.1.1.1", all...)
		s.ask("BIND", portBIND)
		s.ask("dnsmasq", portMasq)
		s.changed(m, all)
		m = s.switched(m)
		m = s.killed(m)
		m = s.wrecked(m)
		m = s.cut(m)
		s.crashed(m)
		s.allIll(m)
		s.changed(s.filled(m), all)
	})
}

// changed: a record that changes on the master changes everywhere, and the hooks are told what changed.
func (s *served) changed(m *node, all []string) {
	s.t.Helper()
	began := time.Now()
	s.answers(s.publish(m), all...)
	s.lost(fmt.Sprintf("a new record, everywhere after at most %v", time.Since(began).Round(time.Millisecond)))
	for _, n := range s.nodes {
		b, err := os.ReadFile(n.Root() + "/changes")
		must(s.t, err)
		for _, want := range []string{"example.lan\n", "hosts\n"} {
			if !strings.Contains(string(b), want) {
				s.t.Errorf("the hook of %s was not told of %q: %q", n.name, want, b)
			}
		}
	}
}

func (s *served) switched(m *node) *node {
	s.t.Helper()
	to := s.others(m)[0]
	s.mustRevolve("switch", to.name, "--state", m.state())
	next := s.newMaster(m)
	if len(m.named()) != 1 {
		s.t.Errorf("%s runs %d BINDs after its address left: it must not be stopped", m.name, len(m.named()))
	}
	s.answers(fmt.Sprintf("10.1.%d.1", s.version), vip4.Addr().String())
	s.settled()
	s.lost("planned switch")
	return next
}

// killed: the address leaves a node whose BIND is killed, which comes back as a well standby.
func (s *served) killed(m *node) *node {
	s.t.Helper()
	began := time.Now()
	s.eventually("a reign that is old enough for a move (a second)", askEvery, func() error {
		if time.Since(began) < 1200*time.Millisecond {
			return errStill
		}
		return nil
	})
	s.lost("before")
	for _, pid := range m.named() {
		must(s.t, unix.Kill(pid, unix.SIGKILL))
	}
	next := s.newMaster(m)
	s.answers(fmt.Sprintf("10.1.%d.1", s.version), vip4.Addr().String())
	s.waitFor(m, "healthy")
	s.settled()
	s.eventually(m.name+" to be eligible again", askEvery, func() error { return eligible(next, m) })
	s.lost("BIND killed on the master")
	return next
}

// wrecked: the same with a BIND that does not start again for a while; and while automatic moves are off, nothing moves.
func (s *served) wrecked(m *node) *node {
	s.t.Helper()
	s.mustRevolve("hold", "on", "--state", m.state())
	s.wreck(m)
	s.waitFor(m, "ill")
	s.eventually("a word about the hold", askEvery, func() error {
		st, err := m.status()
		if err != nil || st.Verdict != control.Critical || !strings.Contains(st.Reasons[0], "automatic moves are off") {
			return fmt.Errorf("%v: %s %q", err, st.Verdict, st.Reasons)
		}
		return nil
	})
	if who := s.holders(); !slices.Equal(who, []string{m.name}) {
		s.t.Errorf("automatic moves are off, and the addresses are on %v", who)
	}
	s.mustRevolve("hold", "off", "--state", m.state())
	next := s.newMaster(m)
	s.answers(fmt.Sprintf("10.1.%d.1", s.version), vip4.Addr().String())
	s.settled()
	s.lost("BIND wrecked on the master")
	st, err := next.status()
	must(s.t, err)
	if st.Verdict != control.Warning || !strings.Contains(strings.Join(st.Reasons, "\n"), "a required service or a disk is ill on "+m.name) {
		s.t.Errorf("%s says %s: %q", next.name, st.Verdict, st.Reasons)
	}
	i := slices.IndexFunc(st.Nodes, func(n control.Node) bool { return string(n.Name) == m.name })
	if n := st.Nodes[i]; n.Eligible != control.No || n.InSync != control.Yes || n.WhyNot == "" {
		s.t.Errorf("%s says of the ill %s: %+v", next.name, m.name, n)
	}
	if _, complaint, status := s.revolve("switch", m.name, "--state", next.state()); status == 0 || !strings.Contains(complaint, "well") {
		s.t.Errorf("a switch to an ill node: exit %d, %s", status, complaint)
	}
	s.repair(m)
	s.eventually(m.name+" to be eligible again", askEvery, func() error { return eligible(next, m) })
	if v, err := m.service("dns"); err != nil || v.Restarts == 0 || v.LastError == "" {
		s.t.Errorf("after its return: %+v, %v", v, err)
	}
	return next
}

func eligible(asked, n *node) error {
	st, err := asked.status()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(st.Nodes, func(x control.Node) bool { return x.Name == cluster.NodeID(n.name) })
	if st.Nodes[i].Eligible != control.Yes {
		return fmt.Errorf("it is not: %s", st.Nodes[i].WhyNot)
	}
	return nil
}

func (s *served) cut(m *node) *node {
	s.t.Helper()
	m.off()
	next := s.newMaster(m)
	s.answers(fmt.Sprintf("10.1.%d.1", s.version), vip4.Addr().String())
	s.lost("power cut of the master")
	m.boot()
	s.settled()
	s.waitFor(m, "healthy")
	return next
}

// crashed: an agent that is killed leaves its BIND; the next agent ends that one and starts its own.
func (s *served) crashed(m *node) {
	s.t.Helper()
	n := s.others(m)[0]
	before := n.named()
	must(s.t, n.agent.Signal(unix.SIGKILL))
	n.waitEnd()
	n.start()
	s.waitFor(n, "healthy")
	if after := n.named(); len(before) != 1 || len(after) != 1 || before[0] == after[0] {
		s.t.Errorf("BIND of %s before the crash of its agent: %v, after: %v", n.name, before, after)
	}
	s.settled()
	n.stop()
	if left := n.named(); len(left) != 0 {
		s.t.Errorf("BIND outlives the agent of %s: %v", n.name, left)
	}
	n.start()
	s.settled()
	s.waitFor(n, "healthy")
	s.lost("an agent that crashes, and one that stops")
}

// allIll: without any well node the master stays, and says so.
func (s *served) allIll(m *node) {
	s.t.Helper()
	term := func() cluster.Term {
		st, err := m.status()
		must(s.t, err)
		return st.Term
	}
	for _, n := range s.others(m) {
		s.wreck(n)
		s.waitFor(n, "ill")
	}
	s.eventually("the master to hear of it", askEvery, func() error {
		st, err := m.status()
		if err != nil || strings.Count(strings.Join(st.Reasons, "\n"), "a required service or a disk is ill on") != 2 {
			return fmt.Errorf("%v: %q", err, st.Reasons)
		}
		return nil
	})
	before := term()
	s.wreck(m)
	s.waitFor(m, "ill")
	s.eventually("a loud word", askEvery, func() error {
		st, err := m.status()
		if err != nil || st.Verdict != control.Critical || !strings.Contains(st.Reasons[0], "no other node is well") {
			return fmt.Errorf("%v: %s %q", err, st.Verdict, st.Reasons)
		}
		return nil
	})
	s.answersOf(portMasq) // what is well is still served
	// The last one to be repaired is the master: until then it has stayed.
	if who := s.holders(); !slices.Equal(who, []string{m.name}) || term() != before {
		s.t.Errorf("all are ill, and the addresses are on %v in term %d, were on %s in %d", who, term(), m.name, before)
	}
	for _, n := range append([]*node{m}, s.others(m)...) {
		s.repair(n)
	}
	s.settled()
	s.lost("BIND ill everywhere")
}

// filled: nothing more fits on the master's disk, the journal's too: that is no illness of its DNS, so the address stays, and clients are answered.
func (s *served) filled(m *node) *node {
	s.t.Helper()
	s.lost("before")
	filler := m.fillDisk()
	for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(lookEvery) {
		if who := s.holders(); !slices.Equal(who, []string{m.name}) {
			s.t.Fatalf("the disk of %s is full, and the addresses are on %v", m.name, who)
		}
	}
	for _, name := range []string{"dns", "hosts"} {
		if v, err := m.service(name); err != nil || v.State != "healthy" {
			s.t.Errorf("with a full disk %s of %s: %+v, %v", name, m.name, v, err)
		}
	}
	s.answers(fmt.Sprintf("10.1.%d.1", s.version), vip4.Addr().String())
	st, err := m.status()
	must(s.t, err)
	s.t.Logf("with a full disk %s says %s: %q", m.name, st.Verdict, st.Reasons)
	s.lost("the master's disk full")
	must(s.t, os.Remove(filler))
	return s.settled()
}

func (s *served) answersOf(port int) {
	s.t.Helper()
	s.eventually("the other service to answer", askEvery, func() error {
		_, err := s.dig(vip4.Addr().String(), port)
		return err
	})
}
