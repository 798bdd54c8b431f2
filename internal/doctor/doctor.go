// Package doctor looks at a machine that is to be a node, or is one, and says in
// plain words what it gives and what it lacks, and what to type about it.
//
// It changes nothing that lasts: what it tries (changes of every kind in
// .revolve of a volume, an address of the loopback interface) it takes back. It works beside a running agent and without one,
// and without privileges; then it says what it could not look at.
//
//	report := doctor.Examine(ctx, doctor.Patient{Config: cfg, Node: "a", State: dir})
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// Level is how bad a finding is.
type Level string

// The levels, and what they mean for the node.
const (
	OK       Level = "ok"
	Info     Level = "info"     // good to know; nothing to do
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

// Report is everything that was looked at.
type Report struct {
	Findings []Finding `json:"findings"`
	Sights   []Sight   `json:"sights"` // what the watcher told of each kind of change, per volume
}

// Patient is who is examined.
type Patient struct {
	Config *config.Config
	Node   cluster.NodeID
	State  string
}

type examination struct {
	Patient
	self   *config.Node
	report Report
	status *control.Status // the running agent's, nil if none answers
}

// Examine looks at everything, the machine first.
func Examine(ctx context.Context, p Patient) Report {
	self, known := p.Config.Node(p.Node)
	e := &examination{Patient: p, self: self, report: Report{Findings: []Finding{}, Sights: []Sight{}}}
	if !known {
		e.add(Critical, "node", fmt.Sprintf("%q is not in the configuration", p.Node), "", "name one of its nodes with --node")
		return e.report
	}
	for _, w := range p.Config.Warnings {
		e.add(Warning, "configuration", w, "", "")
	}
	e.agent(ctx)
	e.privileges()
	e.realTime()
	e.clock()
	e.identity()
	e.links()
	e.fast()
	e.addresses(ctx)
	e.isolation(ctx)
	for _, v := range p.Config.Volumes {
		e.volume(ctx, v)
	}
	e.services(ctx)
	e.others(ctx)
	return e.report
}

func (e *examination) add(level Level, subject, found, why, what string) {
	e.report.Findings = append(e.report.Findings, Finding{level, subject, found, why, what})
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
			e.add(c.level, "privileges", c.name+" is missing", c.why, cmp.Or(containerHint(), "run it as root, or as the user of the agent's unit"))
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
