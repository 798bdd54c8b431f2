package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/mirror/watch"
	"revolve/internal/mounts"
)

const stageEnv = "REVOLVE_DOCTOR_STAGE"

// TestMachines needs mounts and a network of its own: it runs this binary again in
// namespaces, so that nothing is left when it ends.
func TestMachines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED PART: mounting filesystems needs root")
	}
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestOnStage$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), stageEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("SKIPPED PART: the kernel refuses the namespace: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "SKIPPED PART") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: TestOnStage") {
		t.Errorf("on the stage: %v\n%s", err, out)
	}
}

// TestOnStage is the body of the test above.
func TestOnStage(t *testing.T) {
	if os.Getenv(stageEnv) == "" {
		t.Skip("runs as a part of TestMachines")
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, kind := range []string{"tmpfs", "ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, "")
			sees(t, kind, dir)
			nested(t, dir)
		})
	}
	t.Run("subvolume", func(t *testing.T) { onSubvolume(t, mounted(t, "btrfs", "")) })
	t.Run("overlay", onOverlay)
	t.Run("options", options)
	t.Run("network", network)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// mounted mounts a filesystem of the kind until the test ends.
func mounted(t *testing.T, kind, options string) string {
	t.Helper()
	dir := t.TempDir()
	at, image := filepath.Join(dir, "mnt"), filepath.Join(dir, "image")
	must(t, os.Mkdir(at, 0o755))
	if kind == "tmpfs" {
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	} else {
		mkfs, err := exec.LookPath("mkfs." + kind)
		if err != nil {
			t.Skipf("SKIPPED PART: no mkfs.%s on this machine", kind)
		}
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, 512<<20))
		run(t, mkfs+" -q "+image)
		if out, err := exec.Command("mount", "-o", "loop"+options, image, at).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED PART: cannot mount a loop device: %v: %s", err, out)
		}
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
	return at
}

// patient is a cluster with one volume at path.
func patient(t *testing.T, path string) Patient {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `cluster: c
nodes:
  a: { links: { lan: 10.99.98.1 } }
  b: { links: { lan: 10.99.98.2 } }
vips: [{ address: 10.99.98.3/24, link: lan }, { address: "fd99:98::3/64", link: lan }]
volumes: { home: { path: %q } }
`, path), 0o600))
	cfg, err := config.Load(file)
	must(t, err)
	return Patient{Config: cfg, Node: "a", State: t.TempDir()}
}

// examined looks at the volume only.
func examined(t *testing.T, path string) Report {
	t.Helper()
	p := patient(t, path)
	e := &examination{Patient: p}
	e.volume(t.Context(), p.Config.Volumes[0])
	return e.report
}

func (r Report) has(level Level, text string) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level == level && strings.Contains(f.Found, text) })
}

func (r Report) want(t *testing.T, level Level, text string) {
	t.Helper()
	if !r.has(level, text) {
		t.Errorf("no %s finding says %q:\n%v", level, text, r.Findings)
	}
}

// kernelTable is when each change is seen, where not at once: measured, and documented in fanotify(7) and inotify(7).
func kernelTable(kind string) map[string]Seen {
	table := map[string]Seen{
		"write with Linux AIO (io_submit)": AtClose, "store into a shared mapping": AtClose, "change file flags (chattr)": Never,
	}
	if kind != "btrfs" {
		table[onlyBtrfs] = Untried
	}
	if kind == "ext4" || kind == "tmpfs" {
		table[onlyReflink] = Untried
	}
	return table
}

// sees: what the doctor says is what the kernel's table says, and what the watcher
// tells of the same changes made in the volume itself; and nothing is left behind.
func sees(t *testing.T, kind, dir string) {
	r := examined(t, dir)
	table := kernelTable(kind)
	for _, s := range r.Sights {
		want := table[s.What]
		if want == "" {
			want = AtOnce
		}
		if s.Seen != want {
			t.Errorf("%s: %s (%s), want %s", s.What, s.Seen, s.Note, want)
		}
	}
	if len(r.Sights) != len(changes()) {
		t.Errorf("%d changes tried of %d", len(r.Sights), len(changes()))
	}
	for _, b := range []watch.Backend{watch.Fanotify, watch.Inotify} {
		vol := filepath.Join(dir, "vol-"+string(b))
		must(t, os.Mkdir(vol, 0o755))
		direct, backend, err := look(t.Context(), vol, b)
		must(t, err)
		if backend == watch.Fanotify {
			for i := range direct {
				direct[i].Volume = "home"
			}
			if !slices.Equal(direct, r.Sights) {
				t.Errorf("in the volume itself: %v\nthe doctor said: %v", direct, r.Sights)
			}
		}
		must(t, os.RemoveAll(vol))
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range left {
		if e.Name() != "lost+found" {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	r.want(t, OK, "is watched by a mark on its filesystem")
	if level := map[string]Level{"xfs": OK, "btrfs": OK}[kind]; level == OK {
		r.want(t, OK, "blocks can be shared")
	} else {
		r.want(t, Info, "blocks cannot be shared")
	}
}

// nested: what is mounted inside a volume is named, and really is not seen.
func nested(t *testing.T, dir string) {
	inside := filepath.Join(dir, "a b", "inside")
	must(t, os.MkdirAll(inside, 0o755))
	must(t, unix.Mount("tmpfs", inside, "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(inside, 0)) }()
	examined(t, dir).want(t, Warning, inside+", a filesystem of its own (tmpfs), is mounted inside")
	for _, b := range []watch.Backend{watch.Fanotify, watch.Inotify} {
		w, err := watch.Open(watch.Options{Root: dir, Backend: b, KeepOwn: true})
		must(t, err)
		e := &eye{w: w, dir: dir}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx, e.take) }()
		for !e.open(t.Context()) {
			must(t, t.Context().Err())
		}
		must(t, os.Mkdir(filepath.Join(inside, string(b)), 0o755))
		must(t, file(filepath.Join(inside, string(b))))
		said, err := e.drained(t.Context())
		must(t, err)
		if b == watch.Fanotify && len(said) > 0 {
			t.Errorf("%s tells of what is mounted inside: %v", b, said)
		}
		stop()
		must(t, <-ended)
		must(t, w.Close())
	}
}

// onSubvolume: the kernel refuses a mark there (EXDEV), and the doctor says what is used instead.
func onSubvolume(t *testing.T, top string) {
	run(t, "btrfs -q subvolume create "+top+"/sub")
	at := filepath.Join(t.TempDir(), "sub")
	must(t, os.Mkdir(at, 0o755))
	run(t, "mount -o subvol=sub $(findmnt -no SOURCE "+top+") "+at)
	defer func() { must(t, unix.Unmount(at, 0)) }()
	r := examined(t, at)
	r.want(t, Info, "lies on a btrfs subvolume (/sub)")
	r.want(t, Warning, "is watched directory by directory (inotify)")
	r.want(t, OK, "directories of")
	r.want(t, OK, "seen at once: create, write and close")
}

// Filesystems that cannot be mounted everywhere, by their names in mountinfo.
func TestSpecialFilesystems(t *testing.T) {
	for kind, want := range map[string]Level{"nfs4": Warning, "cifs": Warning, "fuse.sshfs": Warning, "fuse": Warning, "virtiofs": Warning, "overlay": Warning, "fuseblk": OK, "zfs": OK, "ramfs": Info} {
		e := &examination{}
		e.filesystem("volume home", mounts.Mount{Root: "/", Kind: kind})
		if got := e.report.Findings[0]; got.Level != want || !strings.Contains(got.Found, kind) && kind != "overlay" {
			t.Errorf("%s: %+v, want %s", kind, got, want)
		}
	}
}

// A program that may take the addresses away is named, with the configuration that stops it.
func TestFighters(t *testing.T) {
	for _, m := range fighters("eth7") {
		if len(m.comm) > 15 || !strings.Contains(m.fix, "eth7") {
			t.Errorf("%+v", m)
		}
	}
}

func onOverlay(t *testing.T) {
	base := mounted(t, "tmpfs", "")
	run(t, "cd "+base+"; mkdir lower upper work at; mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work at")
	defer func() { must(t, unix.Unmount(base+"/at", 0)) }()
	r := examined(t, base+"/at")
	r.want(t, Warning, "lies on an overlay")
	r.want(t, Warning, "is watched directory by directory (inotify)")
}

// options of mounts that break promises are named.
func options(t *testing.T) {
	examined(t, mounted(t, "ext4", ",data=writeback")).want(t, Warning, "is mounted with data=writeback")
	examined(t, mounted(t, "ext4", ",nobarrier")).want(t, Critical, "is mounted with nobarrier")
	dir := mounted(t, "tmpfs", "")
	p := patient(t, dir)
	p.Config.Volumes[0].TrashQuota = config.Quota{Bytes: 1 << 50}
	e := &examination{Patient: p}
	e.volume(t.Context(), p.Config.Volumes[0])
	if f := e.report.Findings[1]; f.Level != Warning || !strings.Contains(f.Why, "the trash may take 1024.0 TiB") {
		t.Errorf("a trash larger than the filesystem: %+v", f)
	}
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	examined(t, dir).want(t, Critical, "is mounted read-only")
}

// network: who has the address, what stands before the port, what keeps addresses from being found.
func network(t *testing.T) {
	other := exec.CommandContext(t.Context(), "sleep", "600")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	must(t, other.Start())
	in := fmt.Sprintf("nsenter -t %d -n ", other.Process.Pid)
	run(t, fmt.Sprintf("ip link set lo up; ip link add eth0 type veth peer name p0; ip link set p0 netns %d; ip link set eth0 up; ip addr add 10.99.98.1/24 dev eth0", other.Process.Pid))
	run(t, in+"ip link set p0 up; "+in+"ip addr add 10.99.98.2/24 dev p0")
	p := patient(t, t.TempDir())
	all := func() Report { return Examine(t.Context(), p) }

	r := all()
	r.want(t, OK, "removes an IPv4 address that nobody refreshes")
	r.want(t, OK, "removes an IPv6 address that nobody refreshes")
	r.want(t, OK, "port 7373 answers to this machine")
	r.want(t, OK, "nobody answers for it: it is free")
	r.want(t, Info, "does not run with")

	run(t, in+"ip addr add 10.99.98.9/24 dev p0; "+in+"ip addr add fd98::9/64 dev p0 nodad")
	f := &p.Config.Failover
	f.Isolation, f.References = config.IsolationRelease, []netip.Addr{netip.MustParseAddr("10.99.98.9"), netip.MustParseAddr("fd98::9"), netip.MustParseAddr("10.99.98.77")}
	r = all()
	for _, there := range f.References[:2] {
		if !slices.ContainsFunc(r.Findings, func(x Finding) bool {
			return x.Level == OK && x.Subject == "reference "+there.String() && strings.Contains(x.Found, "answers on eth0")
		}) {
			t.Errorf("the reference %v is not found: %+v", there, r.Findings)
		}
	}
	r.want(t, Critical, "nobody answers for it on the links of the VIPs")
	f.Isolation, f.References = config.IsolationKeep, nil

	l, err := net.Listen("tcp", "10.99.98.1:7373")
	must(t, err)
	all().want(t, Critical, "TCP port 7373 is in use, and not by this node's agent")
	must(t, l.Close())

	run(t, in+"ip addr add 10.99.98.3/24 dev p0")
	all().want(t, OK, "node b has it")

	run(t, in+"ip addr flush dev p0; "+in+"ip addr add 10.99.98.3/24 dev p0; "+in+"ip link set p0 address 02:00:00:00:00:99; ip neigh flush all; sysctl -qw net.ipv4.conf.all.arp_ignore=8")
	r = all()
	r.want(t, Critical, "the card 02:00:00:00:00:99 answers for it, and is no node's")
	r.want(t, Critical, "arp_ignore is 8 on eth0")

	run(t, "nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in udp dport 7373 drop'")
	all().want(t, Critical, "port 7373 does not answer to this machine itself")
}

// TestFastIsJudgedByWhatWasMeasured: only links, a loop and a loss that `fast` bears speak for it.
func TestFastIsJudgedByWhatWasMeasured(t *testing.T) {
	good := func() *control.Status {
		return &control.Status{Beat: control.Beat{RealTime: true, LateMax: 2, Every: 50}, Nodes: []control.Node{
			{Name: "a"}, {Name: "b", Links: []control.Link{{Name: "lan", Quality: &control.Quality{Heard: 1200, Gap: 51, GapMax: 53}}}}}}
	}
	judge := func(change func(s *control.Status, q *control.Quality)) []Finding {
		e := &examination{status: good()}
		change(e.status, e.status.Nodes[1].Links[0].Quality)
		e.fast()
		return e.report.Findings
	}
	for name, c := range map[string]struct {
		change func(s *control.Status, q *control.Quality)
		want   string
	}{
		"a quiet wire":         {func(*control.Status, *control.Quality) {}, "would be safe here"},
		"a lost heartbeat":     {func(_ *control.Status, q *control.Quality) { q.GapMax = 102 }, "would be safe here"},
		"a late one":           {func(_ *control.Status, q *control.Quality) { q.GapMax = 80 }, "fast bears 30 ms"},
		"loss":                 {func(_ *control.Status, q *control.Quality) { q.Loss = 0.02 }, "loss is too high"},
		"a late loop":          {func(s *control.Status, _ *control.Quality) { s.Beat.LateMax = 40 }, "fences itself"},
		"no real-time":         {func(s *control.Status, _ *control.Quality) { s.Beat.RealTime = false }, "no real-time priority"},
		"just started":         {func(_ *control.Status, q *control.Quality) { q.Heard = 10 }, ""},
		"an agent that is old": {func(s *control.Status, _ *control.Quality) { s.Beat.Every = 0 }, ""},
	} {
		found := judge(c.change)
		switch {
		case c.want == "" && len(found) > 0:
			t.Errorf("%s: %+v", name, found)
		case c.want != "" && (len(found) != 1 || !strings.Contains(found[0].Found+found[0].Why, c.want)):
			t.Errorf("%s: want %q, got %+v", name, c.want, found)
		}
	}
}
