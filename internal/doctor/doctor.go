// Package doctor looks at a machine that is to be a node, or is one, and says in
// plain words what it gives and what it lacks, and what to type about it.
//
// It changes nothing that lasts: what it tries (a mark, a shared block, an
// attribute) it takes back. It works beside a running agent and without one,
// and without privileges; then it says what it could not look at.
//
//	for _, f := range doctor.Examine(ctx, doctor.Patient{Config: cfg, Node: "a", State: dir}) { ... }
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/mirror/watch"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// Level is how bad a finding is.
type Level string

// The levels, and what they mean for the node.
const (
	OK       Level = "ok"
	Warning  Level = "warning"  // it works, with less than it could
	Critical Level = "critical" // something of it will not work
)

// Finding is one thing that was looked at.
type Finding struct {
	Level   Level  `json:"level"`
	Subject string `json:"subject"`
	Found   string `json:"found"`
	Why     string `json:"why,omitempty"`  // why it matters
	Type    string `json:"type,omitempty"` // what mends it
}

// Patient is who is examined.
type Patient struct {
	Config *config.Config
	Node   cluster.NodeID
	State  string
}

const (
	// reachWithin bounds the wait for another node's port.
	reachWithin = time.Second
	// leastFree is the part of a volume's filesystem that should be free: the trash alone may take 5 %.
	leastFree = 0.10
)

type examination struct {
	Patient
	self     *config.Node
	findings []Finding
}

// Examine looks at everything, the machine first.
func Examine(ctx context.Context, p Patient) []Finding {
	self, known := p.Config.Node(p.Node)
	e := &examination{Patient: p, self: self}
	if !known {
		e.add(Critical, "node", fmt.Sprintf("%q is not in the configuration", p.Node), "", "name one of its nodes with --node")
		return e.findings
	}
	for _, w := range p.Config.Warnings {
		e.add(Warning, "configuration", w, "", "")
	}
	e.privileges()
	e.clock()
	e.identity()
	e.links()
	for _, v := range p.Config.Volumes {
		e.volume(v)
	}
	e.others(ctx)
	return e.findings
}

func (e *examination) add(level Level, subject, found, why, what string) {
	e.findings = append(e.findings, Finding{level, subject, found, why, what})
}

// privileges are told one by one: each has a consequence of its own.
func (e *examination) privileges() {
	have, err := capabilities()
	if err != nil {
		e.add(Warning, "privileges", "cannot be read: "+err.Error(), "", "")
		return
	}
	lacking := false
	for _, c := range []struct {
		bit   uint
		name  string
		level Level
		why   string
	}{
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", Critical, "the floating addresses cannot be added: this node never leads"},
		{unix.CAP_NET_RAW, "CAP_NET_RAW", Critical, "the addresses cannot be announced: clients keep asking the dead node"},
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", Warning, "no filesystem marks: every directory is watched by itself"},
		{unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", Warning, "no filesystem marks, and files of others cannot be read"},
		{unix.CAP_CHOWN, "CAP_CHOWN", Warning, "owners are not kept the same"},
		{unix.CAP_FOWNER, "CAP_FOWNER", Warning, "modes and times of others' files are not kept the same"},
		{unix.CAP_SYS_NICE, "CAP_SYS_NICE", Warning, "no real-time priority: a busy machine may lose its role"},
	} {
		if have&(1<<c.bit) == 0 {
			lacking = true
			e.add(c.level, "privileges", c.name+" is missing", c.why, "run it as root, or as the user of the agent's unit")
		}
	}
	if !lacking {
		e.add(OK, "privileges", "all that the agent uses", "", "")
	}
}

// capabilities are the effective ones (proc(5), CapEff).
func capabilities() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), "CapEff:")
	if !ok {
		return 0, errors.New("no CapEff in /proc/self/status")
	}
	line, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseUint(strings.TrimSpace(line), 16, 64)
}

// clock: the reigns need none, but what is kept is named by it.
func (e *examination) clock() {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		e.add(Warning, "clock", "cannot be asked: "+err.Error(), "", "")
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		e.add(Warning, "clock", "nothing keeps it right", "certificates, the trash and what is kept aside go by it", "apt install chrony")
	default:
		e.add(OK, "clock", "kept right", "", "")
	}
}

func (e *examination) identity() {
	id, err := peer.LoadIdentity(e.State)
	if err != nil {
		e.add(Critical, "identity", err.Error(), "no other node talks to this one", problem.HintOf(err))
		return
	}
	switch w := id.Warning(time.Now()); {
	case id.Node != e.Node:
		e.add(Critical, "identity", fmt.Sprintf("%s is that of node %s", e.State, id.Node), "the others would take it for that one", "name its own --state, or --node "+string(id.Node))
	case id.Cluster != e.Config.Cluster:
		e.add(Critical, "identity", fmt.Sprintf("it belongs to the cluster %s", id.Cluster), "", "revolve identity issue "+string(e.Node)+" --out DIR, where the CA of "+e.Config.Cluster+" is")
	case w != "":
		e.add(Warning, "identity", w, "", "revolve identity issue "+string(e.Node)+" --out DIR, where the CA is")
	default:
		e.add(OK, "identity", "good until "+id.NotAfter().Format(time.DateOnly), "", "")
	}
}

// links: this node's addresses must be on its interfaces, the port free or the agent's.
func (e *examination) links() {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		e.add(Warning, "links", "addresses cannot be listed: "+err.Error(), "", "")
		return
	}
	for _, l := range e.self.Links {
		here := slices.ContainsFunc(addrs, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr().Unmap() == l.Addr
		})
		subject := "link " + string(l.Name)
		if !here {
			e.add(Critical, subject, l.Addr.String()+" is on no interface of this machine", "heartbeats and files cannot take this link", "give the interface this address, or correct nodes."+string(e.Node)+".links")
			continue
		}
		e.add(OK, subject, l.Addr.String()+" is here; "+e.port(l.Addr), "", "")
	}
}

func (e *examination) port(a netip.Addr) string {
	l, err := net.Listen("tcp", netip.AddrPortFrom(a, e.Config.Port).String())
	if err != nil {
		return fmt.Sprintf("port %d is in use (by the agent, if it runs)", e.Config.Port)
	}
	l.Close()
	return fmt.Sprintf("port %d is free", e.Config.Port)
}

// volume looks at what the mount of a volume can do, by doing it.
func (e *examination) volume(v config.Volume) {
	path, subject := e.Config.VolumePath(e.Node, v.Name), "volume "+string(v.Name)
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		what := "mount its disk, or correct the path"
		if errors.Is(err, fs.ErrNotExist) {
			what = "mkdir -p " + path + ", or mount its disk"
		}
		e.add(Critical, subject, fmt.Sprintf("%s: %v", path, err), "the volume does not work here", what)
		return
	}
	w, err := watch.Open(watch.Options{Root: path})
	switch {
	case err != nil:
		e.add(Critical, subject, "cannot be watched: "+err.Error(), "changes on this node would not be seen", problem.HintOf(err))
	case w.Backend() == watch.Inotify:
		e.add(Warning, subject, "is watched directory by directory (inotify)", "more memory, and a storm of renames may cost a comparison", "run the agent as root on ext4, XFS, btrfs or tmpfs")
	default:
		e.add(OK, subject, "is watched by a mark on its filesystem", "", "")
	}
	if err == nil {
		_ = w.Close()
	}
	e.space(subject, path, &st)
	e.abilities(subject, path)
}

func (e *examination) space(subject, path string, st *unix.Statfs_t) {
	if st.Flags&unix.ST_RDONLY != 0 {
		e.add(Critical, subject, path+" is mounted read-only", "nothing can be mirrored to it", "mount -o remount,rw, after a look at dmesg")
		return
	}
	free := float64(st.Bavail) / float64(max(st.Blocks, 1))
	switch {
	case free < leastFree:
		e.add(Warning, subject, fmt.Sprintf("%.0f %% are free", 100*free), "the trash may take 5 %, and a large file is staged beside the old one", "make space")
	case st.Files > 0 && float64(st.Ffree) < leastFree*float64(st.Files):
		e.add(Warning, subject, fmt.Sprintf("%d inodes are left", st.Ffree), "every small file needs one", "remove small files, or make the filesystem anew with more inodes")
	default:
		e.add(OK, subject, fmt.Sprintf("%.0f %% are free", 100*free), "", "")
	}
}

// abilities tries what is nice to have, in a file without a name: nothing of it is left, or seen by the watcher.
func (e *examination) abilities(subject, path string) {
	open := func() (int, error) { return unix.Open(path, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600) }
	fd, err := open()
	if err != nil {
		e.add(Warning, subject, "cannot be tried: "+err.Error(), "", "run it as the agent's user")
		return
	}
	defer unix.Close(fd)
	if err := unix.Fsetxattr(fd, "user.revolve-doctor", []byte("x"), 0); err != nil {
		e.add(Warning, subject, "extended attributes are refused: "+err.Error(), "ACLs and attributes are not kept the same on this node", "mount it with user_xattr, or use ext4, XFS or btrfs")
	}
	to, err := open()
	if err != nil {
		return
	}
	defer unix.Close(to)
	if _, err := unix.Write(fd, make([]byte, 4096)); err == nil && unix.IoctlFileClone(to, fd) != nil {
		e.add(OK, subject, "blocks cannot be shared: files over 64 MiB do not go to the trash (XFS and btrfs can)", "", "")
	}
}

// others asks every other node's port.
func (e *examination) others(ctx context.Context) {
	for _, n := range e.Config.Nodes {
		if n.Name == e.Node {
			continue
		}
		for _, p := range peer.Paths(e.Config, e.Node, n.Name) {
			subject := fmt.Sprintf("node %s over %s", n.Name, p.Link)
			d := net.Dialer{Timeout: reachWithin}
			began := time.Now()
			c, err := d.DialContext(ctx, "tcp", p.Remote.String())
			switch {
			case err == nil:
				c.Close()
				e.add(OK, subject, fmt.Sprintf("answers at %s after %.1f ms", p.Remote, float64(time.Since(began).Microseconds())/1000), "", "")
			case n.Power.Mode == "on-demand":
				e.add(OK, subject, "is off, or does not answer; it is on demand", "", "")
			default:
				e.add(Warning, subject, fmt.Sprintf("does not answer at %s: %v", p.Remote, err), "it is off, its agent does not run, or a firewall stands between", fmt.Sprintf("start its agent; let TCP and UDP port %d through", e.Config.Port))
			}
		}
	}
}
