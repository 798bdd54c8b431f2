package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"revolve/internal/control"
	"revolve/internal/failover/beat"
)

// What a node would do that hears no other one, as status tells it.
func TestIsolationIsTold(t *testing.T) {
	at := netip.MustParseAddrPort("10.77.0.250:7374")
	router := netip.MustParseAddr("10.77.0.1")
	with := func(failover string) *Agent {
		return &Agent{o: Options{Node: "a", Config: parse(t, before+"failover: { "+failover+" }\n")}}
	}
	watched := with("isolation: release, witness: { address: 10.77.0.250, key_file: /k }")
	watched.witness = &beat.Witness{Addr: at}
	obeying := with("witness: { address: 10.77.0.250, key_file: /k }")
	obeying.witness = watched.witness
	referred := with("isolation: release, reference: [10.77.0.1]")
	third := func(state beat.WitnessState, leads string, took time.Duration) *beat.WitnessReport {
		return &beat.WitnessReport{Addr: at, State: state, Leads: leads, Took: took}
	}
	alive, dead := []control.Node{{Name: "a"}, {Name: "b", State: "alive"}}, []control.Node{{Name: "a"}, {Name: "b", State: "dead"}}
	for name, c := range map[string]struct {
		a                          *Agent
		report                     beat.Report
		old                        bool
		nodes                      []control.Node
		state, leads               string
		isolated                   control.Tri
		critical, warning, nothing string
	}{
		"all is well":         {a: watched, report: beat.Report{Patience: 1, Witness: third(beat.WitnessReachable, "b", time.Millisecond)}, nodes: alive, state: "reachable", leads: "b", isolated: control.No},
		"nobody leads yet":    {a: watched, report: beat.Report{Patience: 1, Witness: third(beat.WitnessReachable, "", time.Millisecond)}, nodes: alive, state: "reachable", leads: "none", isolated: control.No},
		"no report":           {a: watched, old: true, nodes: dead, state: "unknown", leads: "unknown"},
		"refused":             {a: watched, report: beat.Report{Patience: 1, Isolated: true, Witness: third(beat.WitnessRefusing, "b", time.Millisecond)}, nodes: dead, state: "refusing", leads: "b", isolated: control.Yes, critical: "the witness 10.77.0.250:7374 lets b lead: this one does not serve"},
		"refused, with peers": {a: watched, report: beat.Report{Patience: 1, Witness: third(beat.WitnessRefusing, "b", time.Millisecond)}, nodes: alive, state: "refusing", leads: "b", isolated: control.No},
		"silent":              {a: watched, report: beat.Report{Patience: 1, Witness: third(beat.WitnessSilent, "", 0)}, nodes: alive, state: "silent", leads: "unknown", isolated: control.No, warning: "a node that hears no other one will not serve"},
		"silent, and obeyed":  {a: obeying, report: beat.Report{Patience: 1, Witness: third(beat.WitnessSilent, "", 0)}, nodes: alive, state: "silent", leads: "unknown", isolated: control.No, warning: "serves without its word"},
		"slow":                {a: watched, report: beat.Report{Patience: 1, Witness: &beat.WitnessReport{Addr: at, State: beat.WitnessReachable, Leads: "a", Took: 80 * time.Millisecond, Slow: true}}, nodes: alive, state: "reachable", leads: "a", isolated: control.No, warning: "takes 80 ms to answer, which is too late to count (a heartbeat is 50 ms)"},
		"cut off":             {a: referred, report: beat.Report{Patience: 1, Isolated: true, References: []beat.ReferenceReport{{Addr: router, Known: true}}}, nodes: dead, isolated: control.Yes, critical: "nothing proves that it is not the one cut off", warning: "the reference 10.77.0.1 does not answer"},
		"the router is there": {a: referred, report: beat.Report{Patience: 1, References: []beat.ReferenceReport{{Addr: router, Known: true, Up: true}}}, nodes: alive, isolated: control.No},
		"damped":              {a: referred, report: beat.Report{Patience: 2, References: []beat.ReferenceReport{{Addr: router}}}, nodes: alive, isolated: control.No, warning: "silence is now borne 2 times as long"},
	} {
		s := control.Status{Node: "a", Nodes: c.nodes, Isolation: c.a.isolationStatus(&c.report, !c.old)}
		i := s.Isolation
		if i.Isolated != c.isolated || (i.Witness != nil) != (c.state != "") || i.Witness != nil && (i.Witness.State != c.state || i.Witness.Leads != c.leads) {
			t.Errorf("%s: %+v %+v", name, i, i.Witness)
		}
		critical, warning := c.a.judgeIsolation(&s)
		for what, want := range map[string]string{strings.Join(critical, "; "): c.critical, strings.Join(warning, "; "): c.warning} {
			if want == "" && what != "" && what != strings.Join(critical, "; ")+strings.Join(warning, "; ") || !strings.Contains(what, want) {
				t.Errorf("%s: says %q, want %q", name, what, want)
			}
		}
		if c.critical == "" && len(critical) > 0 || c.warning == "" && len(warning) > 0 {
			t.Errorf("%s: %q %q", name, critical, warning)
		}
	}
}
