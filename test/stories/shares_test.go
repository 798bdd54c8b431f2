package stories

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/testbed"
)

// envServices has the story take all services and several rounds, and names the
// file that gets what was measured: make test-services.
const envServices = "REVOLVE_SERVICES"

// roundsInFull are the planned switches, and the power cuts, of make test-services.
const roundsInFull = 3

// tries is a loop on the client: one line for each try, as askMain writes them.
// $i counts, and whatever says yes names the try that the server took.
const tries = `i=0; while :; do i=$((i+1)); t=$(date +%%s%%N); if %s >/dev/null 2>&1; then echo "$t $i"; else echo "$t -"; fi; sleep 0.05; done`

// shared is a lab whose nodes serve one volume by Samba, NFS, ssh and a tunnel.
type shared struct {
	*lab
	full   bool
	client *testbed.Node
	dir    string // of the client's files
	askers []*asker
	took   map[string]string // asker's name -> the directory below the volume into which it writes
	opens  []*open
	gone   map[string]bool   // files that were lost
	homes  map[string]string // what home directories were at first
	rows   *results
}

const sharesText = `services:
  files: { exec: "exec smbd -F --no-process-group --debug-stdout -s SELF/etc/smb.conf < /dev/null", check: "tcp://127.0.0.1:445", required: true }
`
const nfsText = `  nfs: { exec: "exec ganesha.nfsd -F -f SELF/etc/ganesha.conf -L STDOUT -p SELF/ganesha.pid < /dev/null", check: "exec:timeout 2 nfs-ls 'nfs://127.0.0.1/family?version=4&uid=2001&gid=2100'" }
  ssh: { exec: "exec /usr/sbin/sshd -D -e -f SELF/etc/sshd_config", check: "tcp://127.0.0.1:22" }
  tunnel: { exec: "nft -f SELF/etc/floating.nft && exec SELF/etc/tunnel.sh wg$REVOLVE_NODE SELF/etc/wg.conf 10.9.0.1/24", check: "exec:wg show wg$REVOLVE_NODE" }
`

// sshdConfig is for the story alone: on machines it is the distribution's, with the same host keys everywhere.
const sshdConfig = `HostKey SELF/etc/host_key
AuthorizedKeysFile SELF/etc/authorized
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
`

const (
	sharer   = "games" // a user that every Debian has, with the same number
	relative = "man"   // another one, of the same family
	sharePwd = "stories-only"
)

// How long the story may take before it is said to hang: three rounds with all clients take four minutes on a quiet machine.
const (
	sharesFor    = 3 * time.Minute
	sharesInFull = 12 * time.Minute
)

// TestShares: real Samba (in full also NFS, sshfs and WireGuard) on every node, clients
// that write all the time and that keep files open, home directories, planned switches, power cuts, kill -9 and a full disk.
func TestShares(t *testing.T) {
	t.Parallel() // it asserts no times
	full := os.Getenv(envServices) != ""
	needs(t, "real Samba on every node", "smbd", "smbclient", "smbpasswd", "setfacl", "/usr/bin/python3")
	if full {
		needs(t, "real NFS, sshfs and WireGuard on every node", "ganesha.nfsd", "nfs-cp", "nfs-cat", "wireguard-go", "wg", "nft", "ping", "sshd", "sshfs", "ssh-keygen")
	}
	limit := sharesFor
	if full {
		limit = sharesInFull
	}
	testbed.OnStageFor(t, testbed.AsSelf, limit, func(stage *testbed.Stage) {
		// The daemons' sockets and pid files go with the stage.
		must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"))
		makeFamily(t, stage)
		s := newShared(t, stage, full)
		m := s.formAround(s.nodes["a"])
		s.well()
		s.account(m)
		s.familyShares(m)
		s.clients(m)
		rounds := 1
		if full {
			rounds = roundsInFull
		}
		for range rounds {
			m = s.switches(m)
			s.returns(m)
			m = s.loses(m)
		}
		s.ends(s.hurt(m))
	})
}

func newShared(t *testing.T, stage *testbed.Stage, full bool) *shared {
	t.Helper()
	s := &shared{full: full, took: map[string]string{}, gone: map[string]bool{}, rows: &results{}}
	p := plan{volumes: []string{"shares"}, extra: strings.Replace(sharesText, "required: true", "required: true, interval: 500ms", 1), disk: func(string) testbed.Disk { return testbed.Disk{FS: "tmpfs", Size: 256 << 20} }}
	if full {
		p.extra = sharesText + nfsText
		p.disk = func(string) testbed.Disk { return testbed.Disk{FS: "ext4", Size: 1 << 30} } // loses what was not synced
	}
	s.lab = newLab(t, stage, p)
	var err error
	s.client, err = s.bed.AddNode(testbed.NodeSpec{ID: "client", Disk: testbed.Disk{None: true}, Links: []testbed.Attachment{
		{Link: lan, Addrs: []netip.Prefix{prefix("10.77.0.%d/24", 99)}}}})
	must(t, err)
	s.dir = filepath.Join(stage.Dir, "client")
	must(t, os.MkdirAll(s.dir+"/mnt", 0o755))
	put(t, s.dir+"/file", strings.Repeat("what a family keeps\n", 50))
	s.furnish()
	s.fillHomes(s.nodes["a"].volume("shares"))
	s.homes = homesOf(t, s.nodes["a"])
	unix.Sync()
	return s
}

// example is a file of examples/ with the directories of the stage in place of those of a machine.
func (s *shared) example(name, of string) string {
	s.t.Helper()
	b, err := os.ReadFile("../../examples/" + name)
	must(s.t, err)
	self := s.bed.Self()
	return strings.NewReplacer("/srv/shares", self+"/shares", "/var/lib/nfs/ganesha", self+"/ganesha",
		"[global]\n", "[global]\n"+sambaDirs(self, "/run/samba-"+of)).Replace(string(b))
}

// sambaDirs are what every machine has of its own. What run has is, as in Debian, not on the disk of the volume:
// a Samba that cannot write its locks serves nobody.
func sambaDirs(self, run string) (text string) {
	for _, d := range []string{"private dir", "state directory", "cache directory", "ncalrpc dir"} {
		text += fmt.Sprintf("  %s = %s/samba\n", d, self)
	}
	for _, d := range []string{"lock directory", "pid directory"} {
		text += fmt.Sprintf("  %s = %s\n", d, run)
	}
	return text + fmt.Sprintf("  log file = %s/samba/log\n", self)
}

// furnish gives every node its configuration, and the first one the volume's directories.
func (s *shared) furnish() {
	t := s.t
	t.Helper()
	for _, n := range s.nodes {
		for _, dir := range []string{n.Root() + "/etc", n.Root() + "/samba", n.Root() + "/ganesha", "/run/samba-" + n.name} {
			must(t, os.MkdirAll(dir, 0o755))
		}
		put(t, n.Root()+"/etc/smb.conf", s.example("samba/smb.conf", n.name))
		put(t, n.Root()+"/etc/ganesha.conf", s.example("nfs/ganesha.conf", n.name))
	}
	put(t, s.dir+"/smb.conf", "[global]\n"+sambaDirs(s.dir, s.dir+"/samba"))
	must(t, os.MkdirAll(s.dir+"/samba", 0o755))
	for file, user := range map[string]string{"/who": sharer, "/who-else": relative} {
		must(t, os.WriteFile(s.dir+file, fmt.Appendf(nil, "username = %s\npassword = %s\n", user, sharePwd), 0o600))
	}
	if s.full {
		s.tunnelKeys()
		s.sshKeys()
		put(t, s.dir+"/big", strings.Repeat("0123456789abcde\n", bigFile/16))
	}
	for _, n := range s.nodes { // a daemon exports what is there when it starts
		dir := n.volume("shares") + "/family"
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.Chown(dir, adaUID, family))
		must(t, os.Chmod(dir, 0o770|os.ModeSetgid))
	}
	root := s.nodes["a"].volume("shares")
	for _, dir := range []string{"accounts", "homes/" + sharer} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, os.Chmod(root+"/accounts", 0o700))
	put(t, filepath.Join(root, "homes", sharer, "quiet"), "00000001\n")
	for _, name := range []string{"", "quiet"} {
		must(t, os.Chown(filepath.Join(root, "homes", sharer, name), sharerUID, sharerGID))
	}
	put(t, root+"/accounts/smbpasswd", "")
	must(t, os.Chmod(root+"/accounts/smbpasswd", 0o600))
	if s.full {
		put(t, root+"/family/big", strings.Repeat("0123456789abcde\n", bigFile/16))
	}
}

// bigFile is what a slow reader has open for some twenty seconds.
const bigFile = 64 << 20

// sshKeys gives every node the same host key, and the client one of its own.
func (s *shared) sshKeys() {
	s.t.Helper()
	for _, name := range []string{"host_key", "id"} {
		must(s.t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, name)).Run())
	}
	must(s.t, os.MkdirAll("/run/sshd", 0o755))
	for _, n := range s.nodes {
		put(s.t, n.Root()+"/etc/sshd_config", strings.ReplaceAll(sshdConfig, "SELF", s.bed.Self()))
		for from, to := range map[string]string{"host_key": "host_key", "id.pub": "authorized"} {
			b, err := os.ReadFile(filepath.Join(s.dir, from))
			must(s.t, err)
			must(s.t, os.WriteFile(n.Root()+"/etc/"+to, b, 0o600))
		}
	}
	host, err := os.ReadFile(s.dir + "/host_key.pub")
	must(s.t, err)
	put(s.t, s.dir+"/known_hosts", "10.77.0.200 "+string(host))
}

// tunnelKeys makes both ends of a tunnel; all nodes have the same one.
func (s *shared) tunnelKeys() {
	t := s.t
	t.Helper()
	server, client := wireguardKeys(t), wireguardKeys(t)
	for _, n := range s.nodes {
		put(t, n.Root()+"/etc/floating.nft", s.example("wireguard/floating.nft", n.name))
		put(t, n.Root()+"/etc/tunnel.sh", s.example("wireguard/tunnel.sh", n.name))
		must(t, os.Chmod(n.Root()+"/etc/tunnel.sh", 0o755))
		secret(t, n.Root()+"/etc/wg.conf", fmt.Sprintf("[Interface]\nAddress = 10.9.0.1/24\nPrivateKey = %s\nListenPort = 51820\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.9.0.2/32\n", server[0], client[1]))
	}
	secret(t, s.dir+"/wg.conf", fmt.Sprintf("[Interface]\nPrivateKey = %s\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.9.0.1/32\nEndpoint = 10.77.0.200:51820\n", client[0], server[1]))
	put(t, s.dir+"/tunnel.sh", s.example("wireguard/tunnel.sh", "client"))
	must(t, os.Chmod(s.dir+"/tunnel.sh", 0o755))
}

// secret writes a file that its owner alone may read.
func secret(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func wireguardKeys(t *testing.T) (keys [2]string) {
	t.Helper()
	private, err := exec.Command("wg", "genkey").Output()
	must(t, err)
	cmd := exec.Command("wg", "pubkey")
	cmd.Stdin = strings.NewReader(string(private))
	public, err := cmd.Output()
	must(t, err)
	return [2]string{strings.TrimSpace(string(private)), strings.TrimSpace(string(public))}
}

// makeFamily has the machine of the stage know a group of both users.
func makeFamily(t *testing.T, stage *testbed.Stage) {
	t.Helper()
	groups, err := os.ReadFile("/etc/group")
	must(t, err)
	file := filepath.Join(stage.Dir, "group")
	must(t, os.WriteFile(file, fmt.Appendf(groups, "family:x:%d:%s,%s\n", family, sharer, relative), 0o644))
	must(t, unix.Mount(file, "/etc/group", "", unix.MS_BIND, ""))
}

// familyShares: what one of the family makes in the common share, another changes.
func (s *shared) familyShares(m *node) {
	s.t.Helper()
	for _, x := range [][2]string{{"who", "mkdir common; put file common/letter"}, {"who-else", "put smb.conf common/letter; put file common/reply"}} {
		ctx, cancel := context.WithTimeout(context.Background(), commandFor)
		out, err := s.client.Run(ctx, "/bin/sh", "-c", `cd "$0" && exec smbclient -s smb.conf -A "$1" //10.77.0.200/family -c "$2"`, s.dir, x[0], x[1])
		cancel()
		if err != nil {
			s.t.Fatalf("%s: %v\n%s", x[1], err, out)
		}
	}
	want, err := os.ReadFile(s.dir + "/smb.conf")
	must(s.t, err)
	common := filepath.Join(m.volume("shares"), "family", "common")
	must(s.t, have(common+"/letter", string(want)))
	for name, mode := range map[string]uint32{"": unix.S_IFDIR | unix.S_ISGID | 0o770, "letter": unix.S_IFREG | 0o660, "reply": unix.S_IFREG | 0o660} {
		var st unix.Stat_t
		must(s.t, unix.Lstat(filepath.Join(common, name), &st))
		if st.Mode != mode || st.Gid != family {
			s.t.Errorf("family/common/%s has mode %o and group %d", name, st.Mode, st.Gid)
		}
	}
}

// account makes the users on the master, with the real program; the others get them by the mirror.
func (s *shared) account(m *node) {
	s.t.Helper()
	script := `printf '%s\n%s\n' "$1" "$1" | smbpasswd -c "$2" -s -a "$3"`
	for _, user := range []string{sharer, relative} {
		ctx, cancel := context.WithTimeout(context.Background(), commandFor)
		out, err := m.Run(ctx, "/bin/sh", "-c", script, "sh", sharePwd, s.bed.Self()+"/etc/smb.conf", user)
		cancel()
		if err != nil {
			s.t.Fatalf("smbpasswd: %v\n%s", err, out)
		}
	}
	m.sync()
}

// well waits until every service is, on every node.
func (s *shared) well() {
	s.t.Helper()
	for _, n := range s.nodes {
		s.eventually("the services of "+n.name, askEvery, func() error {
			st, err := n.status()
			if err != nil {
				return err
			}
			for _, v := range st.Services {
				if v.State != "healthy" {
					return fmt.Errorf("%s is %s: %s", v.Name, v.State, v.LastError)
				}
			}
			return nil
		})
	}
}
