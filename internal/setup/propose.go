package setup

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Proposal is an answer that could be right, and why in one line; both may be empty.
type Proposal struct{ Text, Why string }

// Propose proposes an answer. taken tells of floating addresses whether somebody answers for them; it may be nil.
func (f *Form) Propose(t Topic, taken func(netip.Addr) bool) Proposal {
	switch t {
	case Cluster:
		return Proposal{Text: "homelab"}
	case Node:
		host, _, _ := strings.Cut(f.Machine.Host, ".")
		return Proposal{Text: nameOf(host, "a"), Why: "as this machine is called"}
	case Interface:
		return f.proposeCard()
	case VIP:
		for _, p := range f.vips() {
			if taken == nil || !taken(p.Addr()) {
				return Proposal{Text: p.String()}
			}
		}
	case Directory:
		return f.proposeDirectory()
	}
	return Proposal{}
}

// unfit says why a card cannot carry a floating address; "" if it can.
func (c Card) unfit() string {
	switch {
	case c.Loop:
		return "is the loopback"
	case c.Port:
		return "is a port of a bridge or a bond, which has the addresses"
	case c.NoARP, slices.Contains([]string{"tun", "tuntap", "wireguard", "gre", "ipip", "sit", "ip6tnl", "vti", "xfrm", "ppp", "ifb", "nlmon"}, c.Kind):
		return "is a tunnel (" + c.Kind + "), on which nobody asks who has an address"
	case c.ofContainers():
		return "is for containers or machines inside this one"
	case !c.Carrier:
		return "has no carrier: its cable is out, or it is down"
	case len(c.Addrs) == 0:
		return "has no address that others reach"
	}
	return ""
}

// ofContainers goes by the names that Docker, Podman, LXD, libvirt and Kubernetes give.
func (c Card) ofContainers() bool {
	return regexp.MustCompile(`^(docker[0-9]*|br-[0-9a-f]{12}|podman[0-9]*|cni[0-9]+|cni-podman[0-9]+|lxcbr[0-9]+|lxdbr[0-9]+|virbr[0-9]+|vnet[0-9]+|flannel.*|cali.*|cilium.*|kube-.*)$`).MatchString(c.Name)
}

// Cards are those that can carry a floating address, the best first: with the nearest default route, then in
// the machine's order. A card of the kind veth is the end of a wire inside this machine,
// and the machine's own only inside of a container: it counts if there is nothing else.
func (f *Form) Cards() (fit []Card) {
	for _, veth := range []bool{false, true} {
		for _, c := range f.Machine.Cards {
			if c.unfit() == "" && (c.Kind == "veth") == veth {
				fit = append(fit, c)
			}
		}
		if len(fit) > 0 {
			break
		}
	}
	slices.SortStableFunc(fit, func(a, b Card) int { return cmp.Compare(far(a), far(b)) })
	return fit
}

func far(c Card) int {
	if c.Default == 0 {
		return int(^uint(0) >> 1)
	}
	return c.Default
}

func (f *Form) proposeCard() Proposal {
	fit := f.Cards()
	if len(fit) == 0 {
		return Proposal{}
	}
	why := "the first that has a carrier and an address"
	if fit[0].Default > 0 {
		why = "the default route is there"
	}
	return Proposal{fit[0].Name, why}
}

// Text is a card in a line of a list.
func (c Card) Text() string {
	text := fmt.Sprintf("%s  %s  MTU %d  %s", c.Name, addrsText(c), c.MTU, c.Kind)
	if c.Default > 0 {
		text += "  default route"
	}
	return text
}

// maxVIPs bounds how many addresses are proposed: whoever proposes asks the network for each.
const maxVIPs = 4

// vips are free addresses of the chosen card's first network, as far as this
// machine knows: from 200 on in its part of it, where few routers give addresses out; in a small
// network from its end.
func (f *Form) vips() (list []netip.Prefix) {
	card := f.card()
	if len(card.Addrs) == 0 {
		return nil
	}
	own := card.Addrs[0].Prefix
	// The last 8 bits are counted, less in a smaller network; of a larger one it is the part where this machine is.
	host := min(8, own.Addr().BitLen()-own.Bits())
	base := netip.PrefixFrom(own.Addr(), own.Addr().BitLen()-host).Masked().Addr().AsSlice()
	size := 1 << host
	at, step := 200, 1
	if size < 256 {
		at, step = size-2, -1
	}
	for ; at > 0 && at < size-1 && len(list) < maxVIPs; at += step {
		b := slices.Clone(base)
		b[len(b)-1] |= byte(at)
		addr, _ := netip.AddrFromSlice(b)
		if f.holder(addr, "") == "" {
			list = append(list, netip.PrefixFrom(addr, own.Bits()))
		}
	}
	return list
}

// likeOther is an example of another node.
func (f *Form) likeOther() string {
	name := "b"
	if f.Answers.Node == name {
		name = "a"
	}
	if next := f.Answers.Address.Addr().Next(); next.IsValid() && f.Answers.Address.Masked().Contains(next) && next != f.Answers.VIP.Addr() {
		return name + "=" + next.String()
	}
	return name + "=ADDRESS"
}

// network reports whether others can write there without this machine seeing it.
func (fs Filesystem) network() bool {
	return slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "lustre", "virtiofs", "fuse"}, fs.Kind) || strings.HasPrefix(fs.Kind, "fuse.")
}

// inMemory reports whether a power cut empties it.
func (fs Filesystem) inMemory() bool { return fs.Kind == "tmpfs" || fs.Kind == "ramfs" }

// OnDisk reports whether a filesystem of this kind keeps files on this machine's disks.
func OnDisk(kind string) bool {
	return slices.Contains([]string{"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "nilfs2"}, kind)
}

// under is the filesystem that has a path.
func (f *Form) under(p string) (on Filesystem) {
	for _, fs := range f.Machine.Filesystems {
		if (within(p, fs.At) || fs.At == "/") && len(fs.At) >= len(on.At) {
			on = fs // of two at one place the later one is on top
		}
	}
	return on
}

// room is what a filesystem must have free to be proposed.
const room = 1 << 30

// places are the filesystems on which a volume may live, the best first: files share blocks, not the
// system's disk, the most room.
func (f *Form) places() (list []Filesystem) {
	root := f.under("/")
	seen := map[string]bool{}
	for _, fs := range f.Machine.Filesystems {
		on := f.under(fs.At)
		if !OnDisk(fs.Kind) || fs.ReadOnly || fs.Free < room || on != fs || seen[fs.Source] && fs.Source != root.Source || f.odd(fs.At) {
			continue
		}
		if fs.Source == root.Source && fs.At != "/" {
			continue // a subvolume, or the root seen again
		}
		seen[fs.Source] = true
		list = append(list, fs)
	}
	slices.SortStableFunc(list, func(a, b Filesystem) int {
		return cmp.Or(yesFirst(a.Reflink, b.Reflink), yesFirst(a.At != "/", b.At != "/"), cmp.Compare(b.Free, a.Free))
	})
	return list
}

func yesFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// odd are places where a filesystem of its own has another purpose.
func (f *Form) odd(at string) bool {
	for _, d := range []string{"/var", "/tmp", "/opt", "/snap", "/nix", "/root", "/etc", "/usr"} {
		if within(at, d) {
			return true
		}
	}
	return at != "/" && ofSystem(at) || f.Machine.State != "" && within(at, f.Machine.State)
}

func (f *Form) proposeDirectory() Proposal {
	list := f.places()
	if len(list) == 0 {
		return Proposal{}
	}
	fs := list[0]
	dir := path.Join(fs.At, "home")
	switch {
	case fs.At == "/":
		dir = "/srv/home"
	case path.Base(fs.At) == "home":
		dir = path.Join(fs.At, "shared")
	}
	return Proposal{dir, fs.at() + ": " + fs.why(len(list) > 1)}
}

func (fs Filesystem) at() string { return fmt.Sprintf("%s (%s)", fs.At, fs.Kind) }

// why says what speaks for it, and against.
func (fs Filesystem) why(others bool) string {
	parts := []string{}
	if fs.Reflink {
		parts = append(parts, "files can share blocks, so of a large one only what changed is sent")
	}
	switch {
	case fs.At != "/":
		parts = append(parts, "not the system's disk")
	case !others:
		parts = append(parts, "the only one")
	}
	return strings.Join(append(parts, sizeText(fs.Free)+" free"), ", ")
}

// Places are the filesystems that could have a volume, the best first, in lines of a list.
func (f *Form) Places() (lines []string) {
	list := f.places()
	for _, fs := range list {
		lines = append(lines, fs.at()+"  "+fs.why(len(list) > 1))
	}
	return lines
}

func sizeText(n uint64) string {
	if n >= 10<<40 {
		return fmt.Sprintf("%d TiB", n>>40)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}

// Advice is what a person should know of the answers, and need not change.
func (f *Form) Advice() (list []string) {
	if f.Answers.Address.Leased {
		list = append(list, fmt.Sprintf("%s is leased (DHCP): tell the router to give this machine always the same one, or set it by hand", f.Answers.Address.Addr()))
	}
	switch on := f.under(f.real); {
	case on.inMemory():
		list = append(list, fmt.Sprintf("%s lies in memory (%s): a restart of this machine empties it", f.Answers.Path, on.Kind))
	case on.Kind == "overlay":
		list = append(list, f.Answers.Path+" lies on an overlay, as in a container: it is gone with that")
	case OnDisk(on.Kind) && on.Free < room:
		list = append(list, fmt.Sprintf("%s has less than 1 GiB free", on.At))
	}
	return list
}
