package packages

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// build runs the script as somebody else would: in another directory for temporary
// files, another time zone, language and umask.
func build(t *testing.T, umask, zone string) (dir string, sums map[string][sha256.Size]byte) {
	t.Helper()
	out := t.TempDir()
	cmd := exec.Command("sh", "-c", "umask "+umask+" && exec ../../scripts/package.sh "+out)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "TZ="+zone, "XZ_LEVEL=0")
	if log, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	found, err := filepath.Glob(out + "/*")
	must(t, err)
	sums = map[string][sha256.Size]byte{}
	for _, f := range found {
		data, err := os.ReadFile(f)
		must(t, err)
		sums[filepath.Base(f)] = sha256.Sum256(data)
	}
	if len(sums) != 2 {
		t.Fatalf("made %v", found)
	}
	return out, sums
}

// TestSameBytes: two builds give the same bytes; and what is in them can be installed, removed and purged.
func TestSameBytes(t *testing.T) {
	for _, p := range []string{"dpkg-deb", "git"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("SKIPPED PART: the packages (%v)", err)
		}
	}
	if out, err := exec.Command("git", "-C", "../..", "rev-parse", "HEAD").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED PART: the packages (this is no git checkout: %s)", out)
	}
	dir, first := build(t, "022", "UTC")
	_, second := build(t, "077", "Asia/Tokyo")
	for name, sum := range first {
		if second[name] != sum {
			t.Errorf("%s: two builds differ", name)
		}
	}
	if os.Geteuid() != 0 {
		t.Log("SKIPPED PART: the installation of the package (it needs root)")
		return
	}
	deb, err := filepath.Glob(dir + "/*.deb")
	must(t, err)
	installed(t, deb[0])
}

// changes installs, removes and purges the package in a copy of this machine's root (an
// overlay that nobody else sees, where systemd does not run). $1 is a directory, $2 the package.
const changes = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
cp "$2" "$1/revolve.deb"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t tmpfs tmpfs "$1/root/run"
mount -t tmpfs tmpfs "$1/root/tmp"
cp "$1/revolve.deb" "$1/root/run/"
exec chroot "$1/root" sh -ec '
PATH=/usr/sbin:/usr/bin:/sbin:/bin
rm -rf /etc/revolve /var/lib/revolve
have() { test -e "$1" || { echo "no $1"; exit 1; }; }
gone() { ! test -e "$1" || { echo "still $1"; exit 1; }; }
dpkg() { command dpkg --no-triggers --force-unsafe-io "$@"; } # the manual's index takes minutes
dpkg --install /run/revolve.deb
cd /
md5sum --quiet --check /var/lib/dpkg/info/revolve.md5sums
have /etc/revolve
gone /etc/systemd/system/multi-user.target.wants/revolve.service
revolve version
revolve config check /usr/share/doc/revolve/examples/revolve.yaml
mkdir -p /var/lib/revolve
touch /var/lib/revolve/mine
dpkg --remove revolve
gone /usr/bin/revolve
have /etc/default/revolve
dpkg --purge revolve
gone /etc/default/revolve
gone /etc/revolve
have /var/lib/revolve/mine
'
`

func installed(t *testing.T, deb string) {
	t.Helper()
	out, err := exec.Command("unshare", "--mount", "sh", "-c", changes, "sh", t.TempDir(), deb).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
