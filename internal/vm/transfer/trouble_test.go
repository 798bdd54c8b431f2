package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
)

// cut is a connection that breaks after some bytes.
type cut struct {
	Conn
	left int
}

func (c *cut) Write(kind byte, parts ...[]byte) error {
	for _, p := range parts {
		c.left -= len(p)
	}
	if c.left < 0 {
		c.Close()
		return &problem.Problem{Op: "write to", Kind: problem.Unavailable, Err: errors.New("cut")}
	}
	return c.Conn.Write(kind, parts...)
}

// TestCut breaks the connection again and again: what is durable there does not come again.
func TestCut(t *testing.T) {
	long(t)
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		const size, every = 24 << 20, 1 << 20
		for _, to := range []string{"xfs", "ext4"} {
			rng := seeded(t)
			dir := filepath.Join(dirs["xfs1"], to)
			must(t, os.Mkdir(dir, 0o700))
			m := newMachine(t, dir, rng, size)
			there := open(t, filepath.Join(dirs[to+"2"], "vms"))
			p := newPair(t, there)
			for _, changes := range []int{0, 3000} { // a first copy, and a later one
				m.change(t, 0, changes)
				src := m.take(t)
				sent, cuts := int64(0), 0
				for most := 1 << 20; ; most = 8 << 20 { // the first one before all is over
					var last Moment
					o := Sending{Store: m.store, Source: src, Every: every, Rand: rng, Tell: func(now Moment) { last = now }}
					c := &cut{Conn: p.dial(t), left: 64<<10 + rng.IntN(most)}
					r, err := Send(t.Context(), c, o)
					if err == nil {
						sent += r.Here.Files[1].Sent
						break
					}
					sent += last.Sent + every
					if cuts++; cuts > 200 {
						t.Fatalf("to %s: it does not come to an end: %v", to, err)
					}
				}
				if cuts == 0 {
					t.Errorf("to %s: nothing was cut", to)
				}
				if most := int64(size) + int64(cuts)*4*every; sent > most {
					t.Errorf("to %s: %d bytes were sent with %d cuts, at most %d", to, sent, cuts, most)
				}
				if ids := m.whole(t, there); len(ids) == 0 || ids[0] != src.ID {
					t.Errorf("to %s: %v, want %s first", to, ids, src.ID)
				}
				src.Close()
			}
		}
	}, "xfs1", "xfs2", "ext42")
}

// TestFlipped changes one bit on a disk behind its filesystem's back: at the
// source, then at the copy. The rolling proof comes by, the point that is
// published is the source's, and the older one stays what it was.
func TestFlipped(t *testing.T) {
	long(t)
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		const size, parts = 16 << 20, 4
		rng := seeded(t)
		m := newMachine(t, dirs["xfs1"], rng, size)
		there := open(t, filepath.Join(dirs["xfs2"], "vms"))
		p := newPair(t, there)
		first, err := m.send(t, p, Sending{})
		must(t, err)
		for _, where := range []string{"source", "copy"} {
			file := m.image(0)
			if where == "copy" {
				list, err := there.List(vmName)
				must(t, err)
				file = filepath.Join(there.Path(vmName, list[0].ID), "disk0.raw")
			}
			at := flip(t, file, rng.Int64N(size-4096)&^4095)
			if where == "copy" { // it is that point's no longer, and nobody could tell which it is
				for id := range m.sums {
					if strings.Contains(file, string(id)) {
						delete(m.sums[id], "disk0.raw")
					}
				}
			}
			var r points.Record
			for run := 0; len(r.Here.Proof.Found) == 0; run++ {
				if run > parts {
					t.Fatalf("a flipped bit at the %s was not found in %d runs of 1/%d", where, run, parts)
				}
				r, err = m.send(t, p, Sending{Proof: Budget{Samples: -1, Rolling: size/parts + 64}})
				must(t, err)
			}
			found := r.Here.Proof.Found[0]
			if held := r.Here.Files[1]; found.File != "disk0.raw" || found.At.At > at || found.At.End() <= at || held.Tracker != Compared || held.Changed != 4096 || !r.Here.Proof.All {
				t.Errorf("at the %s, byte %d: %+v, %+v", where, at, r.Here.Proof, held)
			}
			if got := sumFile(t, filepath.Join(there.Path(vmName, r.ID), "disk0.raw")); got != m.sums[r.ID]["disk0.raw"] {
				t.Errorf("at the %s: the point is not the source's", where)
			}
			if got := sumFile(t, filepath.Join(there.Path(vmName, first.ID), "disk0.raw")); where == "source" && got != m.sums[first.ID]["disk0.raw"] {
				t.Error("the point from before the source's bit was flipped is not what it was")
			}
		}
	}, "xfs1", "xfs2")
}

func sumFile(t *testing.T, name string) [32]byte {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	return sum(t, f)
}

// flip changes one bit of the block of a file on its disk, and returns its place in the file.
func flip(t *testing.T, name string, at int64) int64 {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
	pattern := make([]byte, 64)
	_, err = f.ReadAt(pattern, at)
	must(t, err)
	if block.Zero(pattern) {
		t.Fatalf("nothing to flip at %d", at)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	disk, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", unix.Minor(st.Dev)), os.O_RDWR|unix.O_SYNC, 0)
	must(t, err)
	defer disk.Close()
	unix.Sync()
	must(t, unix.Fadvise(int(disk.Fd()), 0, 0, unix.FADV_DONTNEED)) // what is on it, not what was read before
	chunk, flipped := make([]byte, 4<<20), 0
	for off := int64(0); ; off += int64(len(chunk)) {
		n, err := disk.ReadAt(chunk, off)
		for i := 0; ; {
			k := bytes.Index(chunk[i:n], pattern)
			if k < 0 {
				break
			}
			i += k
			_, err := disk.WriteAt([]byte{chunk[i] ^ 1}, off+int64(i))
			must(t, err)
			flipped++
			i++
		}
		if err == io.EOF {
			break
		}
		must(t, err)
	}
	if flipped != 1 {
		t.Fatalf("%d blocks on the disk begin like that", flipped)
	}
	return at
}

// TestFullDisk has no room for a point: the reason and the next step are told, what is there stays, and with room it goes on.
func TestFullDisk(t *testing.T) {
	long(t)
	onDisks(t, 320<<20, func(t *testing.T, dirs map[string]string) {
		for _, to := range []string{"xfs", "ext4"} {
			rng := seeded(t)
			dir := filepath.Join(dirs["xfs1"], to)
			must(t, os.Mkdir(dir, 0o700))
			m := newMachine(t, dir, rng, 8<<20)
			there := open(t, filepath.Join(dirs[to+"2"], "vms"))
			p := newPair(t, there)
			ballast := filepath.Join(dirs[to+"2"], "ballast")
			refused := func(what string) { // before any of it is sent
				t.Helper()
				last := Moment{}
				_, err := m.send(t, p, Sending{Tell: func(now Moment) { last = now }})
				if err == nil || !strings.Contains(problem.HintOf(err), "make room") || !strings.Contains(err.Error(), "it needs") || last.Sent > 64<<10 || Broken(err) {
					t.Errorf("%s to a full %s: %v (hint: %s), sent %d", what, to, err, problem.HintOf(err), last.Sent)
				}
			}
			fillUp(t, ballast, 10<<20) // points leave a fiftieth of it, 6 MiB, to others
			refused("a first point")
			must(t, os.Remove(ballast))
			_, err := m.send(t, p, Sending{})
			must(t, err)
			fillUp(t, ballast, 10<<20) // points leave a fiftieth of it, 6 MiB, to others
			m.change(t, 0, 4000)
			refused("a point")
			if ids := m.whole(t, there); len(ids) != 1 {
				t.Errorf("to a full %s: points %v", to, ids)
			}
			must(t, os.Remove(ballast))
			if r, err := m.send(t, p, Sending{}); err != nil || m.whole(t, there)[0] != r.ID {
				t.Errorf("to a %s with room again: %v", to, err)
			}
		}
	}, "xfs1", "xfs2", "ext42")
}

func fillUp(t *testing.T, name string, leave int64) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	for at := int64(0); ; at += 1 << 20 {
		var st unix.Statfs_t
		must(t, unix.Fstatfs(int(f.Fd()), &st))
		if int64(st.Bavail)*st.Bsize < leave || unix.Fallocate(int(f.Fd()), 0, at, 1<<20) != nil {
			return
		}
	}
}

// TestHostile is a member of the cluster that says what no sender of ours would.
func TestHostile(t *testing.T) {
	onDisks(t, 512<<20, func(t *testing.T, dirs map[string]string) {
		there := open(t, filepath.Join(dirs["xfs1"], "vms"))
		p := newPair(t, there)
		good := points.First("vm", time.Now())
		good.Level, good.Node, good.Files = points.Live, "a", []points.File{{Name: "d", Size: 8192}}
		offer := func(change func(o *points.Point)) []byte {
			point := good
			point.Files = append([]points.File(nil), good.Files...)
			change(&point)
			b, err := json.Marshal(Offer{Point: point})
			must(t, err)
			return b
		}
		ok := func(*points.Point) {}
		type say struct {
			kind    byte
			payload []byte
		}
		file := say{frameFile, []byte("d")}
		for name, list := range map[string][]say{
			"data first":            {{frameData, numbers(0, 0)}},
			"a commit first":        {{frameCommit, []byte("{}")}},
			"no JSON":               {{frameOffer, []byte("{")}},
			"a name with a slash":   {{frameOffer, offer(func(o *points.Point) { o.Files[0].Name = "../../d" })}},
			"our own name":          {{frameOffer, offer(func(o *points.Point) { o.Files[0].Name = "point.json" })}},
			"a hidden name":         {{frameOffer, offer(func(o *points.Point) { o.Files[0].Name = ".d" })}},
			"one name twice":        {{frameOffer, offer(func(o *points.Point) { o.Files = append(o.Files, o.Files[0]) })}},
			"a negative size":       {{frameOffer, offer(func(o *points.Point) { o.Files[0].Size = -1 })}},
			"a huge size":           {{frameOffer, offer(func(o *points.Point) { o.Files[0].Size = 1 << 60 })}},
			"an id that is a path":  {{frameOffer, offer(func(o *points.Point) { o.ID = "../x" })}},
			"an ancestor as a path": {{frameOffer, offer(func(o *points.Point) { o.Ancestors = []points.ID{"../../etc"} })}},
			"no VM":                 {{frameOffer, offer(func(o *points.Point) { o.VM = "" })}},
			"another file":          {{frameOffer, offer(ok)}, {frameFile, []byte("e")}},
			"data without a file":   {{frameOffer, offer(ok)}, {frameData, append(numbers(0), 1)}},
			"data behind the end":   {{frameOffer, offer(ok)}, file, {frameData, append(numbers(8192), 1)}},
			"data that overflows":   {{frameOffer, offer(ok)}, file, {frameData, append(numbers(1<<63-1), 1)}},
			"data before the start": {{frameOffer, offer(ok)}, file, {frameData, append(numbers(-1), 1)}},
			"no data":               {{frameOffer, offer(ok)}, file, {frameData, numbers(0)}},
			"a hole that overflows": {{frameOffer, offer(ok)}, file, {frameHole, numbers(1, 1<<63-1)}},
			"a mark behind the end": {{frameOffer, offer(ok)}, file, {frameMark, numbers(8193)}},
			"odd hashes":            {{frameOffer, offer(ok)}, file, {frameHashes, append(numbers(0, 4096), 1, 2, 3)}},
			"blocks of nothing":     {{frameOffer, offer(ok)}, file, {frameHashes, append(numbers(0, 0), make([]byte, 16)...)}},
			"hashes behind the end": {{frameOffer, offer(ok)}, file, {frameHashes, append(numbers(0, 4096), make([]byte, 48)...)}},
			"a question too far":    {{frameOffer, offer(ok)}, file, {frameProve, append(numbers(8192, 4096), make([]byte, 16)...)}},
			"a question too large":  {{frameOffer, offer(ok)}, file, {frameProve, append(numbers(0, 1<<40), make([]byte, 16)...)}},
			"a commit of nothing":   {{frameOffer, offer(ok)}, file, {frameCommit, []byte("{}")}},
			"a commit of another":   {{frameOffer, offer(ok)}, file, {frameCommit, []byte(`{"files":[{"name":"../x"}]}`)}},
			"an unknown kind":       {{frameOffer, offer(ok)}, file, {200, nil}},
		} {
			c := line{p.dial(t)}
			for _, s := range list {
				must(t, c.Write(s.kind, s.payload))
			}
			must(t, c.Flush())
			var err error
			for err == nil {
				var kind byte
				var b []byte
				must(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
				if kind, b, err = c.Read(); err == nil && kind == frameFailed {
					err = failed(c, b)
				}
			}
			if k := problem.KindOf(err); k != problem.Invalid && k != problem.Corrupt {
				t.Errorf("%s: %v (%v)", name, err, k)
			}
			c.Close()
		}
		if list, err := there.List("vm"); err != nil || len(list) > 0 {
			t.Errorf("something was published: %v, %v", list, err)
		}
		if names, _ := filepath.Glob(filepath.Join(dirs["xfs1"], "*")); len(names) != 1 {
			t.Errorf("files outside of the storage: %v", names)
		}
	}, "xfs1")
}

// FuzzFrames holds the decoders to what they promise: nothing out of bounds comes through.
func FuzzFrames(f *testing.F) {
	f.Add(append(numbers(0, 4096), make([]byte, 16)...))
	f.Add(append(numbers(-1, 1<<40), make([]byte, 16)...))
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, ok := decodeQuestions(b); ok {
			for _, q := range list {
				if q.at < 0 || q.length <= 0 || q.length > maxPiece {
					t.Errorf("a question %+v", q)
				}
			}
		}
		if h, ok := decodeHashed(b); ok && (h.at < 0 || h.block <= 0 || int64(len(h.list)/block.HashSize)*h.block > maxHashed) {
			t.Errorf("hashes %+v", h)
		}
	})
}
