package packages

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// nixMachine is what the module asks of NixOS.
type nixMachine struct {
	Environment struct {
		Etc map[string]struct{ Source string }
	}
	Networking struct {
		Firewall struct{ AllowedTCPPorts, AllowedUDPPorts []int }
	}
	Systemd struct {
		Packages []string
		Services map[string]struct {
			ServiceConfig struct{ ExecStart []string }
			WantedBy      []string
		}
	}
}

// nixSays is what evaluate.nix tells of the flake.
type nixSays struct {
	Undocumented   []string
	Off, On, Named nixMachine
	Package        struct{ PostInstall, VendorHash string }
}

// evaluated is the flake and its module, as far as that goes without nixpkgs and a store.
func evaluated(t *testing.T) (says nixSays) {
	t.Helper()
	if _, err := exec.LookPath("nix-instantiate"); err != nil {
		t.Skip("SKIPPED PART: the NixOS module (nix-instantiate is not installed)")
	}
	cmd := exec.Command("nix-instantiate", "--store", "dummy://", "--readonly-mode", "--eval", "--strict", "--json", "../../packaging/nix/evaluate.nix")
	cmd.Env = append(cmd.Environ(), "HOME="+t.TempDir())
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, complaint.String())
	}
	must(t, json.Unmarshal(out, &says))
	return says
}

// unreachable is what the go command says where modules cannot be fetched.
var unreachable = regexp.MustCompile(`dial tcp|no such host|connection refused|i/o timeout|TLS handshake timeout|module lookup disabled`)

// TestVendorHash: the package says the hash of the modules from which it is built, as nixpkgs' buildGoModule takes it: of what
// "go mod vendor" makes.
func TestVendorHash(t *testing.T) {
	says := evaluated(t)
	dir := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.Command("go", "mod", "vendor", "-o", dir)
	switch out, err := cmd.CombinedOutput(); {
	case err != nil && unreachable.Match(out): // it takes modules of other systems, too, which nothing else here needs
		t.Skipf("SKIPPED PART: the hash of the NixOS package (the modules of all systems cannot be fetched: %v)\n%s", err, out)
	case err != nil:
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	cmd = exec.Command("nix-hash", "--type", "sha256", dir)
	cmd.Env = append(cmd.Environ(), "HOME="+t.TempDir())
	out, err := cmd.Output()
	must(t, err)
	sum, err := hex.DecodeString(strings.TrimSpace(string(out)))
	must(t, err)
	if want := "sha256-" + base64.StdEncoding.EncodeToString(sum); says.Package.VendorHash != want {
		t.Errorf("packaging/nix/package.nix says vendorHash %s, want %s", says.Package.VendorHash, want)
	}
}

// TestNixModule judges what the module makes of a machine.
func TestNixModule(t *testing.T) {
	says := evaluated(t)
	if len(says.Undocumented) > 0 {
		t.Errorf("options without a description: %q", says.Undocumented)
	}
	if len(says.Off.Systemd.Services) > 0 || len(says.Off.Environment.Etc) > 0 {
		t.Errorf("a machine that does not enable it gets %+v", says.Off)
	}
	const command = "/nix/store/revolve/bin/revolve agent --config /etc/revolve/revolve.yaml"
	for _, x := range []struct {
		is      nixMachine
		command string
		ports   int
	}{{says.On, command, 1}, {says.Named, command + " --node a --debug", 0}} {
		unit := x.is.Systemd.Services["revolve"]
		if got := strings.Join(unit.ServiceConfig.ExecStart, "|"); got != "|"+x.command {
			t.Errorf("the unit runs %q, not %q", got, x.command)
		}
		if len(unit.WantedBy) == 0 || len(x.is.Systemd.Packages) == 0 || x.is.Environment.Etc["revolve/revolve.yaml"].Source != "/etc/nixos/revolve.yaml" {
			t.Errorf("%+v", x.is)
		}
		if f := x.is.Networking.Firewall; len(f.AllowedTCPPorts) != x.ports || len(f.AllowedUDPPorts) != x.ports {
			t.Errorf("the firewall lets in %+v", f)
		}
	}
	for _, file := range []string{"examples/systemd/revolve.service", "examples/witness/revolve-witness.service"} {
		if !strings.Contains(says.Package.PostInstall, file) {
			t.Errorf("the package leaves out %s", file)
		}
	}
}
