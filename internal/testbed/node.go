package testbed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/problem"
)

// Node is one machine of a bed: its own process list, network and mounts.
type Node struct {
	ID cluster.NodeID

	bed   *Bed
	spec  NodeSpec
	index int
	disk  *disk
	run   *running // nil while the power is off
}

// running is what lives from power on to power off.
type running struct {
	init    *exec.Cmd
	hostPID int
	pidLink string // what /proc/PID/ns/pid of every process of the node says
	pidNS   *os.File
	mntNS   *os.File
	netNS   *os.File
	utsNS   *os.File
	net     *netlinks // in the node
	procs   []*Proc   // started here and perhaps not collected yet
	cut     map[cluster.LinkID]bool
	far     map[cluster.LinkID]bool // plugged into the link's other segment
}

// On reports whether the power is on.
func (n *Node) On() bool { return n.run != nil }

// Root is the node's disk as the stage sees it, "" for a node without one. While
// the power is off it is an empty directory.
func (n *Node) Root() string {
	if n.disk == nil {
		return ""
	}
	return n.disk.root
}

// FS is the kind of the node's filesystem: ext4, xfs, tmpfs, or "" without a disk.
func (n *Node) FS() string {
	if n.disk == nil {
		return ""
	}
	return n.disk.fs
}

// HostPID is the process id of the node's init as another terminal sees it, 0
// while the power is off.
func (n *Node) HostPID() int {
	if n.run == nil {
		return 0
	}
	return n.run.hostPID
}

func (n *Node) off(op string) error {
	return &problem.Problem{Op: op, Subject: string(n.ID), Kind: problem.Unavailable, Err: errors.New("the node's power is off")}
}

// PowerOn mounts the node's disk and boots the node: an init, its links, its
// addresses. Programs are the caller's to start.
func (n *Node) PowerOn() (err error) {
	if n.run != nil {
		return nil
	}
	if n.disk != nil {
		if err := n.disk.mount(); err != nil {
			return err
		}
	}
	r, err := n.boot()
	if err != nil {
		return err
	}
	n.run = r
	defer func() {
		if err != nil {
			err = errors.Join(err, n.kill())
		}
	}()
	for kind, ns := range map[string]**os.File{"net": &r.netNS, "mnt": &r.mntNS, "pid": &r.pidNS, "uts": &r.utsNS} {
		if *ns, err = openNS(r.init.Process.Pid, kind); err != nil {
			return err
		}
	}
	if r.pidLink, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", r.init.Process.Pid)); err != nil {
		return &problem.Problem{Op: "read namespace", Subject: string(n.ID), Kind: problem.Internal, Err: err}
	}
	ns := netns.NsHandle(r.netNS.Fd())
	if r.net, err = openNetlinkAt(ns); err != nil {
		return err
	}
	for _, w := range n.wires() {
		if err = n.bed.net.plug(w, ns, r.net); err != nil {
			return err
		}
	}
	return nil
}

// boot starts the node's init and waits until its namespaces are set up.
func (n *Node) boot() (*running, error) {
	birth, err := json.Marshal(nodeBirth{Dir: n.bed.stage.Dir, Root: n.Root(), Name: string(n.ID)})
	if err != nil {
		return nil, &problem.Problem{Op: "describe node", Subject: string(n.ID), Kind: problem.Internal, Err: err}
	}
	answerR, answerW, err := os.Pipe()
	if err != nil {
		return nil, &problem.Problem{Op: "make a pipe", Kind: problem.Unavailable, Err: err}
	}
	defer answerR.Close()
	cmd := exec.Command("/proc/self/exe", string(birth))
	cmd.Args[0] = argvNode
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{answerW, n.bed.stage.hostProc}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
		Setpgid:    true,
	}
	err = cmd.Start()
	answerW.Close()
	if err != nil {
		return nil, refused("boot node "+string(n.ID), err)
	}
	var ready nodeReady
	b, err := io.ReadAll(io.LimitReader(answerR, maxReport))
	if err == nil {
		err = json.Unmarshal(b, &ready)
	}
	if err == nil && ready.Err != "" {
		err = errors.New(ready.Err)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, &problem.Problem{Op: "boot node", Subject: string(n.ID), Kind: problem.Unavailable, Err: err}
	}
	pid, _ := strconv.Atoi(ready.HostPID)
	return &running{init: cmd, hostPID: pid, cut: map[cluster.LinkID]bool{}, far: map[cluster.LinkID]bool{}}, nil
}

func openNS(pid int, kind string) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return nil, &problem.Problem{Op: "open namespace", Subject: kind, Kind: problem.Internal, Err: err}
	}
	return f, nil
}

// wires lists the node's cables in the order of its links.
func (n *Node) wires() []wire {
	out := make([]wire, len(n.spec.Links))
	for i, at := range n.spec.Links {
		out[i] = wire{
			port:   fmt.Sprintf("n%d-%s", n.index, at.Link),
			bridge: bridgeName(at.Link),
			name:   string(at.Link),
			mac:    net.HardwareAddr{0x02, 0, 0, 0, byte(i), byte(n.index + 1)}, // locally administered
			addrs:  at.Addrs,
		}
	}
	return out
}

// Card is the hardware address of the node's end of a link, nil if it is not on it.
func (n *Node) Card(link cluster.LinkID) net.HardwareAddr {
	for _, w := range n.wires() {
		if w.name == string(link) {
			return w.mac
		}
	}
	return nil
}

func (n *Node) wire(link cluster.LinkID) (wire, error) {
	if n.run == nil {
		return wire{}, n.off("find link " + string(link))
	}
	for _, w := range n.wires() {
		if w.name == string(link) {
			return w, nil
		}
	}
	return wire{}, &problem.Problem{Op: "find link", Subject: string(link), Kind: problem.NotFound,
		Err: fmt.Errorf("node %s is not on it", n.ID)}
}

// Cut pulls the cable: the node loses its carrier on the link.
func (n *Node) Cut(link cluster.LinkID) error {
	w, err := n.wire(link)
	if err != nil {
		return err
	}
	n.run.cut[link] = true
	return n.bed.net.down(w.port)
}

// CutSilently cuts behind the switch: the carrier stays, nothing goes through.
func (n *Node) CutSilently(link cluster.LinkID) error {
	w, err := n.wire(link)
	if err != nil {
		return err
	}
	n.run.cut[link] = true
	return n.bed.net.detach(w.port)
}

// Mend undoes Cut, CutSilently and Split.
func (n *Node) Mend(link cluster.LinkID) error {
	w, err := n.wire(link)
	if err != nil {
		return err
	}
	delete(n.run.cut, link)
	delete(n.run.far, link)
	return n.bed.net.mend(w)
}

// Connected reports whether the node is on the link now.
func (n *Node) Connected(link cluster.LinkID) bool {
	_, err := n.wire(link)
	return err == nil && !n.run.cut[link]
}

// Addresses lists all addresses on the node's interfaces now.
func (n *Node) Addresses() ([]netip.Prefix, error) {
	if n.run == nil {
		return nil, n.off("list addresses")
	}
	return n.run.net.addresses()
}

// PowerOff is the plug pulled: links go first, so that not even a FIN leaves;
// then the filesystem stops without writing its log, then every process dies.
// The result says whether unsynced data was lost as on a real machine (false: a
// disk in memory kept it).
func (n *Node) PowerOff() (lossy bool, err error) {
	if n.run == nil {
		return false, nil
	}
	// Power goes everywhere at once: nothing may run on to see its carrier go, or
	// its partner die, and say goodbye.
	if err := n.Hold(); err != nil {
		return false, err
	}
	for _, w := range n.wires() {
		if err := n.bed.net.down(w.port); err != nil {
			return false, err
		}
	}
	if n.disk != nil {
		if lossy, err = n.disk.cutPower(); err != nil {
			return false, err
		}
	}
	err = n.kill()
	if n.disk != nil {
		err = errors.Join(err, n.disk.unmount())
	}
	return lossy, err
}

// kill ends every process of the node and takes its cables away.
func (n *Node) kill() error {
	r := n.run
	n.run = nil
	_ = r.init.Process.Kill()
	// The init's end waits for every process of its namespace to be collected
	// (kernel/pid_namespace.c, zap_pid_ns_processes), and those that we put into
	// it are our children, not the init's.
	for _, p := range r.procs {
		p.collect(true)
	}
	_ = r.init.Wait()
	for _, f := range []*os.File{r.pidNS, r.mntNS, r.netNS, r.utsNS} {
		if f != nil {
			f.Close()
		}
	}
	if r.net != nil {
		r.net.close()
	}
	var errs []error
	for _, w := range n.wires() {
		errs = append(errs, n.bed.net.remove(w.port))
	}
	return errors.Join(errs...)
}

func (n *Node) remove() error {
	var errs []error
	if n.run != nil {
		errs = append(errs, n.kill())
	}
	if n.disk != nil {
		errs = append(errs, n.disk.remove())
	}
	return errors.Join(errs...)
}
