package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"revolve/internal/vm/schedule"
)

// This file keeps what became of scheduled copies, over restarts.

const (
	// schedulesFile is in the state directory.
	schedulesFile    = "vm-schedules.json"
	maxSchedulesFile = 4 << 20
)

// keptPast is one of the file.
type keptPast struct {
	Schedule string        `json:"schedule"`
	VM       string        `json:"vm"`
	Past     schedule.Past `json:"past"`
}

// dropPasts forgets what is not this node's any more: a machine that comes back has missed nothing.
func (e *Engine) dropPasts(list []Schedule) {
	e.change(func() {
		for k := range e.diary.pasts {
			if !e.carries(list, k) {
				delete(e.diary.pasts, k)
			}
		}
	})
}

// packPasts is the file's text, always in the same order.
func (e *Engine) packPasts() []byte {
	list := []keptPast{}
	for k, p := range e.diary.pasts {
		list = append(list, keptPast{k.Schedule, k.VM, p})
	}
	slices.SortFunc(list, func(x, y keptPast) int {
		return strings.Compare(x.Schedule+"\x00"+x.VM, y.Schedule+"\x00"+y.VM)
	})
	b, err := json.Marshal(list)
	if err != nil { // times beyond the year 9999
		e.o.Log.Error("what became of scheduled copies cannot be written down", "err", err)
	}
	return b
}

func (e *Engine) savePasts(b []byte) {
	if len(b) == 0 {
		return
	}
	e.diary.saved = b
	if err := writeState(e.o.State, schedulesFile, b); err != nil {
		e.diary.saved = nil // it is tried again
		e.loudly("schedules", "what became of scheduled copies is not written down; after a restart some may be made again", "err", err)
	}
}

// readPasts reads the file. One that cannot be read is begun anew: the worst is that nothing is known to have been missed.
func (e *Engine) readPasts() map[scheduleKey]schedule.Past {
	pasts := map[scheduleKey]schedule.Past{}
	name := filepath.Join(e.o.State, schedulesFile)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return pasts
	}
	var b []byte
	if err == nil && info.Size() > maxSchedulesFile {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	if err == nil {
		b, err = os.ReadFile(name)
	}
	var list []keptPast
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		e.o.Log.Warn("what became of scheduled copies is not known any more; they are counted from now on", "file", name, "err", err)
		return pasts
	}
	for _, k := range list {
		pasts[scheduleKey{k.Schedule, k.VM}] = k.Past.Sane()
	}
	return pasts
}
