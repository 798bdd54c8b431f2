// Package roster is what every node of a cluster durably knows of it: the
// configuration, whose certificates count, and the keys of the heartbeats, all
// under one generation.
//
// A roster of a higher generation replaces one of a lower, on every node; only
// the master makes a new one. Generation 0 is a cluster that never changed: its
// configuration is the file that each agent was started with. The package never
// talks to another node and never decides who may change anything.
//
//	store, err := roster.Open(state)
//	cfg, err := store.Configure(file)       // the configuration in force
//	taken, err := store.Take(newer)         // durable when it returns
package roster

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/problem"
)

const (
	// MaxBytes bounds a roster as it travels and is stored: the largest configuration in JSON, the one before it while it is tried, and the lists below.
	MaxBytes = 2*2*config.MaxBytes + 1<<14
	// maxEpochs bounds the names whose certificates were ever revoked or replaced.
	maxEpochs = 256
	// maxPast bounds the generations before this one that a roster names: more than a cluster that is split is changed.
	maxPast = 64
	// MaxRetired bounds the former heartbeat keys that are still answered: one
	// for each of the last revocations that a node may have slept through.
	MaxRetired = 4
)

// Key is a heartbeat key; it prints as nothing, and is hexadecimal in JSON.
type Key [32]byte

// String keeps the key out of logs.
func (Key) String() string { return "(key)" }

// GoString keeps the key out of logs.
func (Key) GoString() string { return "(key)" }

// MarshalText is 64 hexadecimal digits.
func (k Key) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(k[:])), nil }

// UnmarshalText reads what MarshalText writes.
func (k *Key) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != len(k) {
		return errors.New("not 64 hexadecimal digits") // without err: it would quote the key
	}
	copy(k[:], raw)
	return nil
}

// Keys are those of the heartbeats. A new one comes into use in two steps, each
// a generation: first every node accepts it, then every node sends with it;
// then the former one is retired.
type Keys struct {
	Send    *Key  `json:"send,omitempty"`    // nil: the one of the identity
	Next    *Key  `json:"next,omitempty"`    // accepted, not sent with yet
	Former  *Key  `json:"former,omitempty"`  // accepted still, not sent with any more
	Retired []Key `json:"retired,omitempty"` // answered only
}

// Changing reports whether a key is on its way in or out.
func (k Keys) Changing() bool { return k.Next != nil || k.Former != nil }

// Roster is one generation.
type Roster struct {
	Generation uint32                    `json:"generation"`
	Config     string                    `json:"config"`           // the text of the configuration
	Epochs     map[cluster.NodeID]uint32 `json:"epochs,omitempty"` // the lowest epoch of a certificate that counts, if above 0
	Keys       Keys                      `json:"keys,omitzero"`
	By         cluster.NodeID            `json:"by,omitempty"` // the master that made it
	At         time.Time                 `json:"at,omitzero"`
	// Past are the marks of the generations that this one was made from, the last
	// one first: so that a node sees that its own is none of them.
	Past []uint64 `json:"past,omitempty"`
	// Trial is there while the configuration is only tried; Tried is the text of one that failed, and that this generation, or one
	// before it with the same configuration, went back from.
	Trial *Trial `json:"trial,omitempty"`
	Tried string `json:"tried,omitempty"`
}

// Follow makes r, a clone of o that was changed, the generation after o.
func (r *Roster) Follow(o *Roster) {
	r.Generation = o.Generation + 1
	r.Past, r.Trial = nil, nil
	if o.Generation > 0 {
		r.Past = append([]uint64{o.Mark()}, o.Past[:min(len(o.Past), maxPast-1)]...)
	}
}

// apart reports whether o, which r replaces, is not among what r was made from:
// two halves of a network changed the cluster, each in its own way. After more
// changes than a roster names nobody can say.
func (r *Roster) apart(o *Roster) bool {
	switch {
	case o.Generation == 0 || o.Generation > r.Generation:
		return false
	case o.Generation == r.Generation:
		return true
	}
	back := r.Generation - o.Generation - 1
	return int64(back) < int64(len(r.Past)) && r.Past[back] != o.Mark()
}

// Check refuses what no other node would read.
func (r *Roster) Check() error {
	if len(r.Epochs) > maxEpochs || len(r.Keys.Retired) > MaxRetired || len(r.Past) > maxPast {
		return errors.New("more epochs, keys or former generations than there can be")
	}
	for n := range r.Epochs {
		if !config.IsName(string(n)) {
			return errors.New("an epoch of what is no node's name")
		}
	}
	if err := r.Trial.check(); err != nil {
		return err
	}
	if b, err := json.Marshal(r); err != nil || len(b) > MaxBytes {
		return fmt.Errorf("%d bytes, at most %d", len(b), MaxBytes)
	}
	return nil
}

// Mark tells two rosters of the same generation apart, 0 for generation 0.
func (r *Roster) Mark() uint64 {
	if r.Generation == 0 {
		return 0
	}
	b, err := json.Marshal(r)
	if err != nil {
		return 0 // it is made of strings and numbers: it cannot fail
	}
	h := sha256.Sum256(b)
	return binary.BigEndian.Uint64(h[:])
}

// Newer reports whether r replaces o. Two halves of a network may have made the
// same generation: then the mark decides, everywhere in the same way.
func (r *Roster) Newer(o *Roster) bool {
	return r.Generation > o.Generation || r.Generation == o.Generation && r.Mark() > o.Mark()
}

// Clone shares nothing with r.
func (r *Roster) Clone() Roster {
	c := *r
	c.Epochs = maps.Clone(r.Epochs)
	c.Keys.Retired = slices.Clone(r.Keys.Retired)
	c.Past = slices.Clone(r.Past)
	c.Trial = r.Trial.clone()
	return c
}

// Decode reads a roster that came from another node or from the disk, and its
// configuration, and checks both.
func Decode(b []byte) (*Roster, *config.Config, error) {
	fail := func(err error) (*Roster, *config.Config, error) {
		return nil, nil, &problem.Problem{Op: "read roster", Kind: problem.Corrupt, Err: err}
	}
	if len(b) > MaxBytes {
		return fail(fmt.Errorf("%d bytes, at most %d", len(b), MaxBytes))
	}
	var r Roster
	if err := json.Unmarshal(b, &r); err != nil {
		return fail(errors.New("not a roster")) // without err: it may quote a key
	}
	if err := r.Check(); err != nil {
		return fail(err)
	}
	cfg, err := config.Parse(fmt.Sprintf("configuration of generation %d", r.Generation), []byte(r.Config))
	if err == nil && r.Trial != nil { // what this node would have to go back to
		_, err = config.Parse(fmt.Sprintf("configuration before generation %d", r.Generation), []byte(r.Trial.Former))
	}
	if err != nil {
		return fail(err)
	}
	return &r, cfg, nil
}
