package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"revolve/internal/vm/libvirt"
)

// InUse says why this node must not be powered off: a machine that runs here, a copy
// that comes or goes, a start. "" if nothing speaks against it.
func (e *Engine) InUse(ctx context.Context) string {
	why := ""
	e.change(func() {
		for _, j := range e.jobs {
			if !j.Ended {
				why = "copies of machines are ordered on it"
			}
		}
		for vm := range e.starting {
			why = vm + " is being started on it"
		}
		if e.receiving > 0 {
			why = "points of machines come to it"
		}
		if e.serving > 0 {
			why = "it carries out an order about a machine"
		}
	})
	if why != "" {
		return why
	}
	list, err := e.o.Host.Machines(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED): // a node that only stores
		return ""
	case err != nil:
		return "its libvirt cannot be asked what runs: " + err.Error()
	}
	for _, m := range list {
		if m.State != libvirt.Off {
			return fmt.Sprintf("machine %s is %s on it", m.Name, m.State)
		}
	}
	return ""
}

// during counts something that is under way.
func (e *Engine) during(n *int) (done func()) {
	e.change(func() { *n++ })
	return func() { e.change(func() { *n-- }) }
}
