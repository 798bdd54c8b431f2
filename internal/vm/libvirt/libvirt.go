// Package libvirt asks libvirt's daemon of this machine, over its socket, without
// any C library (decision 0018). Every question has a connection and a deadline
// of its own: a daemon that hangs costs that question and nothing else.
//
// It decides nothing, and keeps nothing from one question to the next.
//
//	host := libvirt.At("/run/libvirt/libvirt-sock")
//	machines, err := host.Machines(ctx)
package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	lib "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"revolve/internal/problem"
)

// DefaultSocket is where Debian's and Fedora's daemons listen.
const DefaultSocket = "/run/libvirt/libvirt-sock"

// answerWithin bounds a question; none of them waits for a guest.
const answerWithin = 15 * time.Second

// Host is the daemon of one machine.
type Host struct{ socket string }

// At prepares questions to the daemon that listens at a socket; nothing is opened yet.
func At(socket string) *Host { return &Host{socket} }

// State is what a machine does.
type State string

// The states that are told apart.
const (
	Running State = "running"
	Paused  State = "paused"
	Off     State = "off"
	Other   State = "other" // shutting down, crashed, suspended by its own power management
)

// Machine is one that libvirt knows.
type Machine struct {
	Name  string
	UUID  string
	State State
}

// do asks one question. When ctx or the deadline ends its connection is closed, and with it the question.
func (h *Host) do(ctx context.Context, op, subject string, ask func(l *lib.Libvirt) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", h.socket)
	if err != nil {
		return &problem.Problem{Op: "reach libvirt", Kind: problem.Unavailable, Subject: h.socket, Err: err, Hint: "start it: systemctl start libvirtd (or virtqemud), or install it on the nodes that have VMs"}
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close() // the daemon forgets the connection; nothing more has to be said
	l := lib.NewWithDialer(dialers.NewAlreadyConnected(conn))
	if err = l.ConnectToURI(lib.QEMUSystem); err == nil {
		err = ask(l)
	}
	return h.problem(ctx, op, subject, err)
}

func (h *Host) problem(ctx context.Context, op, subject string, err error) error {
	if err == nil {
		return nil
	}
	p := &problem.Problem{Op: op, Kind: problem.Unavailable, Subject: subject, Err: err}
	var refused lib.Error
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		p.Kind, p.Err = problem.Timeout, fmt.Errorf("libvirt at %s did not answer within %s", h.socket, answerWithin)
		p.Hint = "look at it: systemctl status libvirtd; virsh list --all"
	case errors.As(err, &refused) && lib.ErrorNumber(refused.Code) == lib.ErrNoDomain:
		p.Kind, p.Hint = problem.NotFound, "see the names: virsh list --all"
	case errors.As(err, &refused) && lib.ErrorNumber(refused.Code) == lib.ErrOperationInvalid:
		p.Kind = problem.Conflict
	}
	return p
}

// with asks a question about one machine.
func (h *Host) with(ctx context.Context, op, name string, ask func(l *lib.Libvirt, d lib.Domain) error) error {
	return h.do(ctx, op, name, func(l *lib.Libvirt) error {
		d, err := l.DomainLookupByName(name)
		if err != nil {
			return err
		}
		return ask(l, d)
	})
}

// Machines lists all of them, running or not.
func (h *Host) Machines(ctx context.Context) (list []Machine, err error) {
	err = h.do(ctx, "list machines", "", func(l *lib.Libvirt) error {
		domains, _, err := l.ConnectListAllDomains(1, 0)
		if err == nil {
			list, err = states(domains, l.DomainGetState)
		}
		return err
	})
	return list, err
}

// states asks what each of them does. If one cannot be told, none is: not known is not off.
func states(domains []lib.Domain, state func(d lib.Domain, flags uint32) (int32, int32, error)) (list []Machine, err error) {
	for _, d := range domains {
		n, _, err := state(d, 0)
		if lib.IsNotFound(err) {
			continue // it went away meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, Machine{Name: d.Name, UUID: fmt.Sprintf("%x", d.UUID), State: stateOf(n)})
	}
	return list, nil
}

func stateOf(n int32) State {
	switch lib.DomainState(n) {
	case lib.DomainRunning, lib.DomainBlocked:
		return Running
	case lib.DomainPaused:
		return Paused
	case lib.DomainShutoff:
		return Off
	}
	return Other
}

// State is what one machine does. problem.NotFound: libvirt knows none of that name.
func (h *Host) State(ctx context.Context, name string) (s State, err error) {
	err = h.with(ctx, "look at machine", name, func(l *lib.Libvirt, d lib.Domain) error {
		n, _, err := l.DomainGetState(d, 0)
		s = stateOf(n)
		return err
	})
	return s, err
}

// Saved reports whether a machine that is off goes on with the memory that it had when it starts (virsh managedsave;
// libvirt-guests(8) saves all at a shutdown where ON_SHUTDOWN is suspend).
func (h *Host) Saved(ctx context.Context, name string) (yes bool, err error) {
	err = h.with(ctx, "look for saved memory of", name, func(l *lib.Libvirt, d lib.Domain) error {
		n, err := l.DomainHasManagedSaveImage(d, 0)
		yes = n > 0
		return err
	})
	return yes, err
}

// Definition is the XML with which the machine starts the next time.
func (h *Host) Definition(ctx context.Context, name string) (xml string, err error) {
	err = h.with(ctx, "read definition of", name, func(l *lib.Libvirt, d lib.Domain) (err error) {
		xml, err = l.DomainGetXMLDesc(d, lib.DomainXMLInactive|lib.DomainXMLSecure) // without the passwords a copy would start with an open console
		return err
	})
	return xml, err
}

// Suspend stops a machine's processors; what it wrote is written (QEMU flushes its disks when it stops a machine).
func (h *Host) Suspend(ctx context.Context, name string) error {
	return h.with(ctx, "suspend", name, func(l *lib.Libvirt, d lib.Domain) error { return l.DomainSuspend(d) })
}

// Resume goes on after Suspend.
func (h *Host) Resume(ctx context.Context, name string) error {
	return h.with(ctx, "resume", name, func(l *lib.Libvirt, d lib.Domain) error { return l.DomainResume(d) })
}

// Freeze has the guest's agent bring its file systems to rest, and says how many.
func (h *Host) Freeze(ctx context.Context, name string) (n int, err error) {
	err = h.with(ctx, "freeze the file systems of", name, func(l *lib.Libvirt, d lib.Domain) error {
		count, err := l.DomainFsfreeze(d, nil, 0)
		n = int(count)
		return err
	})
	return n, err
}

// Thaw lets them go on.
func (h *Host) Thaw(ctx context.Context, name string) error {
	return h.with(ctx, "thaw the file systems of", name, func(l *lib.Libvirt, d lib.Domain) error {
		_, err := l.DomainFsthaw(d, nil, 0)
		return err
	})
}

// PressPower asks the guest to shut down, as its power button does; the guest decides when.
func (h *Host) PressPower(ctx context.Context, name string) error {
	return h.with(ctx, "shut down", name, func(l *lib.Libvirt, d lib.Domain) error {
		return l.DomainShutdownFlags(d, lib.DomainShutdownAcpiPowerBtn)
	})
}

// Start starts a machine that is off.
func (h *Host) Start(ctx context.Context, name string) error {
	return h.with(ctx, "start", name, func(l *lib.Libvirt, d lib.Domain) error { return l.DomainCreate(d) })
}

// Define makes a machine known, or changes it.
func (h *Host) Define(ctx context.Context, xml string) error {
	return h.do(ctx, "define machine", "", func(l *lib.Libvirt) error {
		_, err := l.DomainDefineXML(xml)
		return err
	})
}

// Create starts a machine that libvirt forgets when it ends.
func (h *Host) Create(ctx context.Context, xml string) error {
	return h.do(ctx, "create machine", "", func(l *lib.Libvirt) error {
		_, err := l.DomainCreateXML(xml, 0)
		return err
	})
}

// Destroy ends a machine at once, as a power cut does.
func (h *Host) Destroy(ctx context.Context, name string) error {
	return h.with(ctx, "end", name, func(l *lib.Libvirt, d lib.Domain) error { return l.DomainDestroy(d) })
}

// pingWithin bounds a question to a guest's agent, in seconds: one that is up answers at once.
const pingWithin = 2

// Ping asks the guest's agent whether it is there.
func (h *Host) Ping(ctx context.Context, name string) error {
	return h.with(ctx, "ask the agent of", name, func(l *lib.Libvirt, d lib.Domain) error {
		_, err := l.QEMUDomainAgentCommand(d, `{"execute":"guest-ping"}`, pingWithin, 0)
		return err
	})
}
