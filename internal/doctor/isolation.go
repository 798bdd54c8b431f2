package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"revolve/internal/config"
	"revolve/internal/failover/election"
	"revolve/internal/failover/witness"
	"revolve/internal/problem"
)

// witnessWithin bounds the questions to the witness: five of them may get lost.
const witnessWithin = time.Second

// isolation asks those whose answer counts when no other node is heard.
func (e *examination) isolation(ctx context.Context) {
	f := e.Config.Failover
	if f.Engine == config.EngineExternal {
		return
	}
	if f.Witness.KeyFile != "" {
		e.witness(ctx, f)
		return
	}
	if f.Isolation == config.IsolationRelease {
		for _, addr := range f.References {
			e.reference(addr)
		}
	}
}

// alone is what a node does that hears no other one and gets no answer.
func alone(f config.Failover) string {
	if f.Isolation == config.IsolationRelease {
		return "a node that hears no other one will not serve"
	}
	return "a node that hears no other one serves without its word: two may"
}

func (e *examination) witness(ctx context.Context, f config.Failover) {
	subject := "witness " + f.Witness.Addr.String()
	keys, err := witness.ReadKeys(f.Witness.KeyFile)
	if err != nil {
		e.add(Critical, subject, err.Error(), "the agent does not start without its key", problem.HintOf(err))
		return
	}
	timers, _ := election.Profile(f.Profile)
	ctx, cancel := context.WithTimeout(ctx, witnessWithin)
	defer cancel()
	look, err := witness.LookAt(ctx, f.Witness.Addr, keys[0], witness.Who{Cluster: e.Config.Cluster, Node: string(e.Node), Dead: time.Duration(timers.Dead)})
	if err != nil {
		e.add(Critical, subject, errors.Unwrap(err).Error(), alone(f), problem.HintOf(err))
		return
	}
	leads := "lets nobody lead yet"
	if look.Holder != "" {
		leads = "lets " + look.Holder + " lead"
	}
	found := fmt.Sprintf("answers after %.1f ms; %s", float64(look.Took.Microseconds())/1000, leads)
	if heartbeat := time.Duration(timers.Heartbeat); look.Took > heartbeat/2 {
		e.add(Warning, subject, found, fmt.Sprintf("an answer after more than a heartbeat (%v) does not count", heartbeat), "put it nearer, or choose a slower failover.profile")
		return
	}
	e.add(OK, subject, found, "", "")
}

// reference asks a machine that is no node whether it is there, on every link with a VIP.
func (e *examination) reference(addr netip.Addr) {
	subject := "reference " + addr.String()
	asked := false
	for _, v := range e.Config.VIPs {
		i := e.cardOf(v)
		if i == nil || len(i.HardwareAddr) != 6 {
			continue
		}
		mac, err := whoHas(i, addr)
		if err != nil {
			e.add(Info, subject, "was not asked: "+err.Error(), "", "run the doctor as the agent's user (sudo)")
			return
		}
		if asked = true; mac != "" {
			e.add(OK, subject, "the card "+mac+" answers on "+i.Name, "", "")
			return
		}
	}
	if asked {
		e.add(Critical, subject, "nobody answers for it on the links of the VIPs", alone(e.Config.Failover), "name a machine on the link itself that is no node, such as the router: ip route show default")
	}
}
