package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/failover/election"
	"revolve/internal/power"
	"revolve/internal/problem"
)

// termBlock is how many terms are reserved at once, so that no failover waits
// for a disk (corosync/corosync#520 stalled 4.7 s writing its ring id).
const termBlock = 16

// maxJump bounds how far a term heard of may lie above those known. A restart
// skips a block, so a million covers 60,000 restarts that this node slept
// through; more is a liar's or a bug's, and would use up the numbers. Whatever the
// election believes lies within it.
const maxJump = 2 * election.MaxJump

// memory is what a node remembers over restarts, in one small file.
type memory struct {
	Seen     cluster.Term     `json:"seen"`         // highest term of any reign heard of (promise P3)
	Reserved cluster.Term     `json:"reserved"`     // this node may claim up to here; a restart goes on behind it
	Alive    []cluster.NodeID `json:"alive"`        // other nodes that lived when this was written: they may know more than we do at the next start
	On       []cluster.NodeID `json:"on,omitempty"` // that were heard, and did not say to this one since that they power themselves off: they may run machines

	Hold        bool `json:"hold,omitempty"`        // ordered: no automatic moves
	Maintenance bool `json:"maintenance,omitempty"` // ordered: this node steps aside
}

// record keeps the memory durable. It implements mirror.Terms.
type record struct {
	path string

	mu      sync.Mutex
	now     memory                           // in force
	durable memory                           // on disk
	age     time.Duration                    // of the file when it was opened
	before  []cluster.NodeID                 // who lived when the agent before this one wrote it last
	parting map[cluster.NodeID]time.Duration // said so, by the uptime, and is still heard
	words   map[cluster.NodeID]goingWord     // the last one of each
	writing sync.Mutex
}

func openRecord(state string) (*record, error) {
	r := &record{path: filepath.Join(state, "term.json")}
	b, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r.now)
	}
	if err != nil {
		return nil, &problem.Problem{Op: "read term record", Kind: problem.Corrupt, Subject: r.path, Err: err,
			Hint: "restore the file; or remove it, and the node rejoins as if it were new"}
	}
	r.durable, r.before = r.now, slices.Clone(r.now.Alive)
	if info, err := os.Stat(r.path); err == nil {
		r.age = time.Since(info.ModTime())
	}
	return r, nil
}

// settled reports whether the record is old enough, or not there at all, that
// who is not alive in it has no address left: a node that died just before may
// be frozen, with a kernel that still answers for it.
func (r *record) settled() bool {
	return r.age > time.Duration(election.Listen) || r.durable.Seen == 0 && r.age == 0
}

// lived reports whether a node did when the agent before this one was about.
func (r *record) lived(n cluster.NodeID) bool { return slices.Contains(r.before, n) }

func (r *record) memory() memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.now
	m.Alive, m.On = slices.Clone(m.Alive), slices.Clone(m.On)
	return m
}

// Seen is the highest term heard of.
func (r *record) Seen() cluster.Term {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now.Seen
}

// Accept makes t durable as seen; it refuses a term older than one seen.
func (r *record) Accept(t cluster.Term) error {
	r.mu.Lock()
	seen := r.now.Seen
	if t < seen {
		r.mu.Unlock()
		return &problem.Problem{Op: "accept term", Kind: problem.StaleTerm, Subject: fmt.Sprint(t), Err: fmt.Errorf("term %d has been seen", seen)}
	}
	if t > seen+maxJump {
		r.mu.Unlock()
		return &problem.Problem{Op: "accept term", Kind: problem.Corrupt, Subject: fmt.Sprint(t), Err: fmt.Errorf("it lies too far above %d to be true", seen)}
	}
	r.now.Seen = t
	done := r.durable.Seen >= t
	r.mu.Unlock()
	if done {
		return nil
	}
	return r.flush()
}

// observe takes note of a term heard of, without waiting for the disk.
func (r *record) observe(t cluster.Term) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t <= r.now.Seen+maxJump {
		r.now.Seen = max(r.now.Seen, t)
	}
}

// reserve makes a block of terms above both need and everything seen durable.
// A try that fails asks for no more the next time: a disk may be full for days.
func (r *record) reserve(need cluster.Term) error {
	r.mu.Lock()
	r.now.Reserved = max(r.durable.Reserved, need, r.now.Seen) + termBlock
	r.mu.Unlock()
	return r.flush()
}

// reserved is the highest term that may be claimed: only what is on disk counts.
func (r *record) reserved() cluster.Term {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.durable.Reserved
}

// setAlive notes which other nodes live; true means that flush is due.
func (r *record) setAlive(alive []cluster.NodeID, known func(cluster.NodeID) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Alive = slices.Clone(alive)
	for n, at := range r.parting {
		if !slices.Contains(alive, n) || power.Uptime() >= at+restFor { // it is off, or was not powered off
			delete(r.parting, n)
		}
	}
	on := slices.DeleteFunc(slices.Clone(r.now.On), func(n cluster.NodeID) bool { return !known(n) })
	for _, n := range alive {
		if _, parts := r.parting[n]; !parts && known(n) && !slices.Contains(on, n) {
			on = append(on, n)
		}
	}
	slices.Sort(on)
	r.now.On = on
	return r.stale()
}

// parts makes durable that a node said that it powers itself off, or that it stays. What comes late counts no more.
func (r *record) parts(n cluster.NodeID, stays bool, word goingWord) error {
	r.mu.Lock()
	if word.before(r.words[n]) {
		r.mu.Unlock()
		return nil
	}
	if r.words == nil {
		r.words = map[cluster.NodeID]goingWord{}
	}
	r.words[n] = word
	r.now.On = slices.DeleteFunc(slices.Clone(r.now.On), func(o cluster.NodeID) bool { return o == n })
	if delete(r.parting, n); stays {
		r.now.On = append(r.now.On, n)
		slices.Sort(r.now.On)
	} else {
		if r.parting == nil {
			r.parting = map[cluster.NodeID]time.Duration{}
		}
		r.parting[n] = power.Uptime()
	}
	r.mu.Unlock()
	return r.flush()
}

// on are the nodes that may be, as far as this one knows.
func (r *record) on() []cluster.NodeID { return r.memory().On }

// order makes what a person ordered durable; it is in force when order returns.
func (r *record) order(change func(*memory)) error {
	r.mu.Lock()
	before := r.now
	change(&r.now)
	r.mu.Unlock()
	err := r.flush()
	if err != nil { // it would be forgotten at the next start: refused as a whole
		r.mu.Lock()
		r.now.Hold, r.now.Maintenance = before.Hold, before.Maintenance
		r.mu.Unlock()
	}
	return err
}

func (r *record) stale() bool {
	return r.now.Seen != r.durable.Seen || r.now.Reserved != r.durable.Reserved || !slices.Equal(r.now.Alive, r.durable.Alive) || !slices.Equal(r.now.On, r.durable.On)
}

// flush writes the memory aside, syncs it and renames it into place.
func (r *record) flush() error {
	r.writing.Lock()
	defer r.writing.Unlock()
	m := r.memory()
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := writeDurably(r.path, b); err != nil {
		return &problem.Problem{Op: "write term record", Kind: problem.Unavailable, Subject: r.path, Err: err,
			Hint: "check that the state directory's disk is writable and has space"}
	}
	r.mu.Lock()
	r.durable = m
	r.mu.Unlock()
	return nil
}

func writeDurably(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
