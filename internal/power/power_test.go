package power

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/transport/udp"

	"revolve/internal/problem"
	"revolve/internal/testbed"
)

// envRole makes the test binary one of the two ends of a link.
const envRole = "REVOLVE_POWER_ROLE"

func TestMain(m *testing.M) {
	switch {
	case testbed.Reexecuted():
		os.Exit(testbed.Child())
	case os.Getenv(envRole) == "sleeper":
		os.Exit(sleeper())
	case os.Getenv(envRole) != "":
		os.Exit(waker())
	}
	os.Exit(m.Run())
}

const card = "02:00:00:00:00:0b"

// sleeper listens where a card would, and says what it heard.
func sleeper() int {
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: wakePort})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer c.Close()
	fmt.Println("listens")
	b := make([]byte, 1500)
	n, from, err := c.ReadFromUDPAddrPort(b)
	fmt.Println("heard", hex.EncodeToString(b[:n]), "from", from.Addr().Unmap().WithZone(""), err)
	return 0
}

func waker() int {
	mac, _ := net.ParseMAC(card)
	if err := On(context.Background(), "b", Way{Wake: mac}, []netip.Addr{netip.MustParseAddr(os.Getenv(envRole))}); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// The packet that wakes a card arrives on the link, over IPv4 and IPv6.
func TestWakeOnLAN(t *testing.T) {
	testbed.OnStage(t, testbed.AsSelf, func(stage *testbed.Stage) {
		bed, err := testbed.NewBed(stage)
		must(t, err)
		defer bed.Close()
		must(t, bed.AddLink("lan"))
		at := func(addrs ...string) (list []testbed.Attachment) {
			a := testbed.Attachment{Link: "lan"}
			for _, x := range addrs {
				a.Addrs = append(a.Addrs, netip.MustParsePrefix(x))
			}
			return append(list, a)
		}
		a, err := bed.AddNode(testbed.NodeSpec{ID: "a", Links: at("10.77.0.11/24", "fd77::11/64")})
		must(t, err)
		b, err := bed.AddNode(testbed.NodeSpec{ID: "b", Links: at("10.77.0.12/24", "fd77::12/64")})
		must(t, err)
		for _, own := range []string{"10.77.0.11", "fd77::11"} {
			log := filepath.Join(stage.Dir, own+".log")
			p, err := b.Start(testbed.Command{Argv: []string{"/proc/self/exe"}, Env: []string{envRole + "=sleeper"}, Log: log})
			must(t, err)
			saw(t, log, "listens")
			w, err := a.Start(testbed.Command{Argv: []string{"/proc/self/exe"}, Env: []string{envRole + "=" + own}, Log: filepath.Join(stage.Dir, "waker.log")})
			must(t, err)
			saw(t, log, "heard "+strings.Repeat("ff", 6)+strings.Repeat(strings.ReplaceAll(card, ":", ""), 16)+" from "+own)
			_, err = p.Wait(t.Context())
			must(t, err)
			_, err = w.Wait(t.Context()) // it says it more than once: the next one is not to hear that
			must(t, err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// saw waits until a log has a text.
func saw(t *testing.T, log, want string) {
	t.Helper()
	var b []byte
	for late := time.Now().Add(20 * time.Second); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		if b, _ = os.ReadFile(log); strings.Contains(string(b), want) {
			return
		}
	}
	t.Fatalf("%s has %q, want %q", log, b, want)
}

// A management controller is told to power its machine on, and only by whoever knows the password; a user who may do no more than that is enough.
func TestIPMI(t *testing.T) {
	hal := mock.New()
	b := bmc.New(bmc.DeviceInfo{DeviceID: 32, DeviceRevision: 1, FirmwareMajor: 1, IPMIVersion: 0x20, AdditionalDeviceSupport: 0x39}, [16]byte{'t'}, hal)
	user, err := b.Users.Add(2, "revolve")
	must(t, err)
	user.SetPassword([]byte("a secret"))
	user.Enabled = true
	user.ChannelAccess[1] = bmc.UserChannelAccess{MaxPrivilege: bmc.PrivilegeLevelOperator, Enabled: true}
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	srv := server.NewServer(b, udp.Wrap(pc))
	go func() { done <- srv.Serve(ctx) }()
	t.Cleanup(func() { cancel(); _ = srv.Close(); <-done })
	file := filepath.Join(t.TempDir(), "password")
	way := Way{IPMI: &IPMI{Host: "127.0.0.1", Port: pc.LocalAddr().(*net.UDPAddr).Port, User: "revolve", PasswordFile: file}}

	if err := On(t.Context(), "b", way, nil); problem.KindOf(err) != problem.Unavailable || !strings.Contains(err.Error(), "the password cannot be read") {
		t.Errorf("without a password: %v", err)
	}
	for text, mode := range map[string]os.FileMode{"a secret\n": 0o644, "a secret of too many bytes\n": 0o600} {
		must(t, os.WriteFile(file, []byte(text), mode))
		if err := On(t.Context(), "b", way, nil); err == nil || strings.Contains(err.Error(), "a secret") || mode == 0o644 && !strings.Contains(err.Error(), "others may read") {
			t.Errorf("%v: %v", mode, err)
		}
		must(t, os.Remove(file))
	}
	must(t, os.WriteFile(file, []byte("a guess\n"), 0o600))
	if err := On(t.Context(), "b", way, nil); err == nil || strings.Contains(err.Error(), "a guess") || problem.HintOf(err) == "" {
		t.Errorf("with another password: %v", err)
	}
	if on, _ := hal.Chassis().PowerState(ctx); on {
		t.Fatal("it is on before anybody told it")
	}
	must(t, os.WriteFile(file, []byte("a secret\n"), 0o600))
	for range 2 { // on stays on
		must(t, On(t.Context(), "b", way, nil))
		if on, _ := hal.Chassis().PowerState(ctx); !on {
			t.Error("it is not on")
		}
	}
}

// A command that fails says what it said; nothing that says how is an error with the next step.
func TestCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "on")
	must(t, On(t.Context(), "b", Way{Command: "echo it is > '" + file + "'"}, nil))
	if b, err := os.ReadFile(file); err != nil || string(b) != "it is\n" {
		t.Errorf("%q, %v", b, err)
	}
	err := On(t.Context(), "b", Way{Command: "echo no such socket >&2; exit 3"}, nil)
	if problem.KindOf(err) != problem.Unavailable || !strings.Contains(err.Error(), "no such socket") || problem.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	if err := On(t.Context(), "b", Way{}, nil); problem.KindOf(err) != problem.Invalid || !strings.Contains(problem.HintOf(err), "nodes.b.power") {
		t.Errorf("%v", err)
	}
	mac, _ := net.ParseMAC(card)
	if err := On(t.Context(), "b", Way{Wake: mac}, []netip.Addr{netip.MustParseAddr("10.99.99.99")}); err == nil || !strings.Contains(err.Error(), "no interface has this address") {
		t.Errorf("%v", err)
	}
}
