package stories

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"revolve/internal/vm/points"
)

// Parts of TestVMs: the guest has a TPM that libvirt emulates, and counts its boots in it.

// guestTPM defines a counter in the TPM's NV memory, unless it is there, increments it, and says what it is. The commands are
// those of TPM 2.0 (TCG, part 3): TPM2_NV_DefineSpace, TPM2_NV_Increment, TPM2_NV_Read, with the owner's empty password.
const guestTPM = `exec 3<>/dev/tpm0 || { echo guest: no TPM >/dev/ttyS0; exit; }
ask() { printf "$1" >&3; dd bs=4096 count=1 <&3 2>/dev/null | hexdump -v -e '1/1 "%02x"'; }
owner='\x40\x00\x00\x01' index='\x01\x80\x00\x00' password='\x00\x00\x00\x09\x40\x00\x00\x09\x00\x00\x00\x00\x00'
ask '\x80\x02\x00\x00\x00\x2d\x00\x00\x01\x2a'"$owner$password"'\x00\x00\x00\x0e'"$index"'\x00\x0b\x02\x02\x00\x12\x00\x00\x00\x08' >/dev/null
ask '\x80\x02\x00\x00\x00\x1f\x00\x00\x01\x34'"$owner$index$password" >/dev/null
read=$(ask '\x80\x02\x00\x00\x00\x23\x00\x00\x01\x4e'"$owner$index$password"'\x00\x08\x00\x00')
echo guest: tpm counts $((0x${read:32:16})) >/dev/ttyS0
`

var countedLine = regexp.MustCompile(`guest: tpm counts ([0-9]+)`)

// counted is what the guest's TPM said last.
func (n *node) counted() int {
	n.lab.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.Root(), "console.log"))
	must(n.lab.t, err)
	all := countedLine.FindAllSubmatch(b, -1)
	if len(all) == 0 {
		n.lab.t.Fatalf("the guest's TPM does not count: %s", b)
	}
	count, err := strconv.Atoi(string(all[len(all)-1][1]))
	must(n.lab.t, err)
	return count
}

// counts fails unless the guest, which has booted, went on with the TPM that belongs to its disks.
func (n *node) counts(want int, what string) {
	n.lab.t.Helper()
	if got := n.counted(); got != want {
		n.lab.t.Errorf("%s, its TPM counts %d, want %d", what, got, want)
	}
}

// tpm is the state of the only TPM on a node, "" if there is none. Only the emulator's user may read it.
func (n *node) tpm() string {
	t := n.lab.t
	t.Helper()
	below := filepath.Join(n.Root(), "swtpm")
	left, err := os.ReadDir(below)
	must(t, err)
	if len(left) == 0 {
		return ""
	}
	name := filepath.Join(below, left[0].Name(), "tpm2", "tpm2-00.permall")
	b, err := os.ReadFile(name)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(name, &st))
	if len(left) > 1 || st.Uid == 0 || st.Mode&0o077 != 0 {
		t.Errorf("%d TPMs; that of the machine is user %d's, mode %o", len(left), st.Uid, st.Mode)
	}
	return string(b)
}

func (n *node) tpmOf(id points.ID) (string, error) {
	b, err := os.ReadFile(filepath.Join(n.Root(), "vms", guestName, "points", string(id), "tpm.state"))
	return string(b), err
}

// hasTPM: a point on this node has what the TPM has on the machine's home, byte for byte.
func (n *node) hasTPM(id points.ID, home *node) {
	n.lab.t.Helper()
	got, err := n.tpmOf(id)
	must(n.lab.t, err)
	if want := home.tpm(); got != want || want == "" {
		n.lab.t.Errorf("the state in point %s has %d bytes, and is not that of %s, %d bytes", id, len(got), home.name, len(want))
	}
}

// keepsTPM: a home that was fenced keeps the state that it had, where it was and in the point aside.
func (n *node) keepsTPM(aside points.ID) {
	n.lab.t.Helper()
	n.hasTPM(aside, n)
}
