package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"revolve/internal/cluster"
)

// This file keeps which nodes this one woke, over restarts: whoever wakes a node for a schedule owes it its rest.

const (
	// ledgerFile is in the state directory.
	ledgerFile    = "vm-woken.json"
	maxLedgerFile = 1 << 20
)

// wokenNode is a node that was woken.
type wokenNode struct {
	At    time.Time     `json:"at"`              // when it was told to power on first
	Boot  string        `json:"boot"`            // of this machine, then, and
	Up    time.Duration `json:"up"`              // how long it had been up: clocks are put right
	Token string        `json:"token,omitempty"` // of the run of its agent that came of it; "": it has not been heard yet
	Told  time.Time     `json:"told,omitzero"`   // when it agreed to power itself off
}

// since is how long ago it was told to power on; false: nobody knows. This machine was off meanwhile, or does not say how long it has been up.
func (w wokenNode) since(boot string, up time.Duration) (time.Duration, bool) {
	return up - w.Up, boot != "" && w.Boot == boot && w.Up > 0 && up >= w.Up
}

// older reports whether that is longer ago than so long. By the clock on the wall only if this machine was off since; what
// that says of the future is no age.
func (w wokenNode) older(up time.Duration, now time.Time, than time.Duration) bool {
	if since, known := w.since(bootID(), up); known {
		return since >= than
	}
	return now.Before(w.At) || now.Sub(w.At) >= than
}

// ledger is the list of them. Its methods may be called from anywhere.
type ledger struct {
	dir   string
	mu    sync.Mutex
	nodes map[cluster.NodeID]wokenNode
}

// load reads it. What cannot be read is forgotten: those nodes stay on.
func (l *ledger) load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes = map[cluster.NodeID]wokenNode{}
	f, err := os.Open(filepath.Join(l.dir, ledgerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLedgerFile+1))
	if err == nil && len(b) > maxLedgerFile {
		err = fmt.Errorf("it has more than %d bytes", maxLedgerFile)
	}
	nodes := map[cluster.NodeID]wokenNode{}
	if err == nil {
		err = json.Unmarshal(b, &nodes)
	}
	if err == nil && nodes != nil {
		l.nodes = nodes
	}
	return err
}

func (l *ledger) get(n cluster.NodeID) (w wokenNode, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok = l.nodes[n]
	return w, ok
}

func (l *ledger) all() map[cluster.NodeID]wokenNode {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.nodes)
}

// put makes an entry durable before it returns.
func (l *ledger) put(n cluster.NodeID, w wokenNode) error {
	return l.change(func(nodes map[cluster.NodeID]wokenNode) { nodes[n] = w })
}

// renew is put for an entry that is still there: a person may have struck it out meanwhile.
func (l *ledger) renew(n cluster.NodeID, w wokenNode) error {
	return l.change(func(nodes map[cluster.NodeID]wokenNode) {
		if _, still := nodes[n]; still {
			nodes[n] = w
		}
	})
}

// drop forgets one. What cannot be written is forgotten by this process all the same.
func (l *ledger) drop(n cluster.NodeID) error {
	err := l.change(func(nodes map[cluster.NodeID]wokenNode) { delete(nodes, n) })
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.nodes, n)
	return err
}

func (l *ledger) change(do func(map[cluster.NodeID]wokenNode)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := maps.Clone(l.nodes)
	if next == nil {
		next = map[cluster.NodeID]wokenNode{}
	}
	do(next)
	b, err := json.Marshal(next)
	if err == nil {
		err = writeState(l.dir, ledgerFile, b)
	}
	if err == nil {
		l.nodes = next
	}
	return err
}
