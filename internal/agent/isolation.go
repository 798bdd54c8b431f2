package agent

import (
	"fmt"
	"slices"
	"time"

	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/failover/beat"
	"revolve/internal/failover/witness"
)

// witnessOf reads the key of the configuration's witness. Without it the node does
// not start: it would find out that nobody answers when it matters.
func witnessOf(cfg *config.Config) (*beat.Witness, error) {
	w := cfg.Failover.Witness
	if w.KeyFile == "" || cfg.Failover.Engine == config.EngineExternal {
		return nil, nil
	}
	keys, err := witness.ReadKeys(w.KeyFile)
	if err != nil {
		return nil, err
	}
	return &beat.Witness{Addr: w.Addr, Key: keys[0]}, nil
}

// isolationStatus is what this node does, and would do, while it hears no other one.
func (a *Agent) isolationStatus(r *beat.Report, fresh bool) control.Isolation {
	f := a.o.Config.Failover
	s := control.Isolation{Policy: f.Isolation, Isolated: control.NotKnown, Patience: -1, References: []control.Reference{}}
	if fresh {
		s.Isolated, s.Patience = control.Known(r.Isolated), control.Count(r.Patience)
	}
	if a.witness != nil {
		s.Witness = &control.Witness{Address: a.witness.Addr.String(), State: string(beat.WitnessUnknown), Leads: control.Unknown}
	}
	if w := r.Witness; fresh && w != nil {
		s.Witness.State = string(w.State)
		if w.State == beat.WitnessReachable || w.State == beat.WitnessRefusing {
			s.Witness.Leads, s.Witness.Took = orNone(w.Leads), ms(w.Took)
		}
		s.Witness.Late, s.Witness.Slow = w.Late, w.Slow
	}
	for _, addr := range f.References {
		s.References = append(s.References, control.Reference{Address: addr.String(), Up: control.NotKnown})
	}
	for i, ref := range r.References {
		if fresh && ref.Known && i < len(s.References) {
			s.References[i].Up = control.Known(ref.Up)
		}
	}
	return s
}

// alone reports whether no other node is heard.
func alone(s *control.Status) bool {
	return !slices.ContainsFunc(s.Nodes, func(n control.Node) bool {
		return n.Name != s.Node && (n.State == string(beat.PeerAlive) || n.State == string(beat.PeerSuspect))
	})
}

func orNone(name string) string {
	if name == "" {
		return masterNone
	}
	return name
}

// judgeIsolation says what is not as it should be, and what would come of it.
func (a *Agent) judgeIsolation(s *control.Status) (critical, warning []string) {
	i := s.Isolation
	release := i.Policy == config.IsolationRelease
	switch w := i.Witness; {
	case w != nil && w.State == string(beat.WitnessRefusing) && alone(s):
		critical = append(critical, fmt.Sprintf("this node hears no other one, and the witness %s lets %s lead: this one does not serve; look at the links between the nodes", w.Address, w.Leads))
	case i.Isolated == control.Yes:
		critical = append(critical, "this node hears no other one, and nothing proves that it is not the one cut off: it does not serve (isolation: release); look at its cable and switch port, and at the witness or the reference")
	}
	if w := i.Witness; w != nil && w.State == string(beat.WitnessSilent) {
		then := "a node that hears no other one serves without its word"
		if release {
			then = "a node that hears no other one will not serve"
		}
		warning = append(warning, fmt.Sprintf("the witness %s does not answer: %s; does it run, is its UDP port open, has it the same key file? Ask it: revolve doctor", w.Address, then))
	}
	if w := i.Witness; w != nil && w.Slow {
		warning = append(warning, fmt.Sprintf("the witness %s takes %.0f ms to answer, which is too late to count (a heartbeat is %.0f ms): put it nearer, or choose a slower failover.profile", w.Address, w.Took, a.heartbeatMS()))
	}
	for _, ref := range i.References {
		if ref.Up == control.No && release && i.Witness == nil {
			warning = append(warning, fmt.Sprintf("the reference %s does not answer: a node that hears no other one will not serve", ref.Address))
		}
	}
	if i.Patience > 1 {
		warning = append(warning, fmt.Sprintf("masters that were taken for dead lived, several times in a minute: silence is now borne %d times as long; look at the links and at what keeps the nodes from running", i.Patience))
	}
	return critical, warning
}

// fresh reports whether a report is new enough to be believed.
func fresh(at time.Time) bool { return time.Since(at) <= reportAge }
