package metrics

import (
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/failover/history"
)

// sample is a status in which every field says something, and names try to get out of their quotes.
func sample() control.Status {
	now := time.Now()
	rto, rpo, missing, aside := 320.5, 12.0, uint64(3), 2
	quality := &control.Quality{Heard: 1200, Loss: 0.01, Silences: 1, Jitter: 0.4, Gap: 48, GapMax: 90}
	node := func(name, role string) control.Node {
		return control.Node{Name: cluster.NodeID(name), State: "alive", Since: now, Role: role, Eligible: control.Yes, InSync: control.Yes, Class: "in-sync", Hold: control.No, Maintenance: control.No,
			Links: []control.Link{{Name: "lan", Up: control.Yes, Quality: quality}, {Name: "fast", Up: control.No}, {Name: "slow", Up: control.NotKnown, Limit: 5 << 20}}}
	}
	c := node("c", "standby")
	c.State, c.Eligible, c.InSync, c.Role = "off", control.NotKnown, control.NotKnown, "unknown"
	standby := control.Standby{Node: "b", State: "in-sync", Since: now, LagMS: 4, Pending: 2, Owed: 1, Position: cluster.Position{Term: 7, Seq: 9}, Proven: now.Add(-time.Hour),
		Progress: &control.Progress{Began: now, BytesPerSecond: 1 << 20, LeftSeconds: 12}}
	lost := control.Standby{Node: "c", State: "<b>new</b>", LagMS: -1, Pending: -1, Owed: -1}
	return control.Status{
		AsOf: now, Cluster: "home\"lab\\\n\xff", Node: "a", Term: 7, Master: "a", Verdict: control.Warning, Reasons: []string{"it is a sample"}, Engine: "builtin",
		Nodes: []control.Node{node("a", "master"), node("b", "standby"), c},
		VIPs:  []control.VIP{{Address: "10.77.0.200/24", Holder: "a"}}, Duplicates: []control.Duplicate{{Address: "10.77.0.200", Link: "lan", MAC: "02:00:00:00:00:99", Since: now}},
		Volumes: []control.Volume{{Name: "home", State: "leading", Position: cluster.Position{Term: 7, Seq: 11}, Owed: 1, Divergent: 2, Alarm: "half of it is gone",
			Trash: control.Trash{Kept: 9, Bytes: 1 << 20, Skipped: 1, Dropped: 1, Pinned: []string{"x"}}, Standbys: []control.Standby{standby, lost}, OnChange: "it failed",
			Proof: &control.ProofStatus{Began: now, Ended: now, Files: 12, Bytes: 3 << 20}}},
		Alarms:    control.Alarms{Speaks: true, Open: []control.AlarmEntry{{Kind: "node-dead", Subject: "<i>b</i>", Text: "it is dead", Silenced: now}}, Channels: []control.AlarmChannel{{Name: "ntfy", Arrived: now, Failed: now, Error: "it answered with status 500"}}, Tested: now},
		Services:  []control.Service{{Name: "dns", State: "healthy", Since: now, Required: true, Restarts: 2}},
		Failovers: control.Failovers{Here: 2, ByCause: map[string]int64{history.CauseSilence: 1}, Known: 4, Last: &history.Record{Term: 7, Master: "a", From: "b", Cause: history.CauseSilence, At: now, RTO: &rto, Volumes: []history.Volume{{Name: "home", RPO: &rpo, Missing: &missing, KeptAside: &aside}}}},
		Rehearsal: &history.Rehearsal{Node: "a", Began: now, Result: history.Done},
		Isolation: control.Isolation{Policy: "keep", Isolated: control.No, Patience: 1, Witness: &control.Witness{Address: "10.77.0.250:7374", State: "reachable", Took: 2}, References: []control.Reference{{Address: "10.77.0.1", Up: control.Yes}}},
		Beat:      control.Beat{RealTime: true, LateMax: 3, LateP99: 0.2, Every: 40}, ClientsKnown: 3, Generation: 2, CertificateUntil: now.Add(365 * 24 * time.Hour),
	}
}
