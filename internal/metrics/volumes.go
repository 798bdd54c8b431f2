package metrics

import (
	"strings"

	"revolve/internal/control"
)

// sameAddress reports whether a VIP, with or without the length of its network, is that address.
func sameAddress(vip, address string) bool {
	host, _, _ := strings.Cut(vip, "/")
	return host == address
}

// family of one value for every volume.
func (p *page) eachVolume(volumes []control.Volume, name, kind, help string, write func(v *control.Volume, label ...string)) {
	p.family(name, kind, help)
	for i := range volumes {
		write(&volumes[i], "volume", string(volumes[i].Name))
	}
}

// volumeStates: what is none of these counts as unknown.
func volumeStates() []string {
	return []string{"leading", "following", "waiting", "broken", "paused", "unknown"}
}

func (p *page) volumeMetrics(volumes []control.Volume) {
	value := func(name, help string, of func(v *control.Volume) float64) {
		p.eachVolume(volumes, name, gauge, help, func(v *control.Volume, l ...string) { p.sample(of(v), l...) })
	}
	p.eachVolume(volumes, "volume_state", gauge, "1 for the state of the volume on this node.", func(v *control.Volume, l ...string) { p.state(v.State, volumeStates(), l...) })
	value("volume_position_term", "Term of the volume's position on this node.", func(v *control.Volume) float64 { return float64(v.Position.Term) })
	value("volume_position_sequence", "Sequence of the volume's position on this node, within its term.", func(v *control.Volume) float64 { return float64(v.Position.Seq) })
	value("volume_owed_files", "Large files that are still under way to this node.", func(v *control.Volume) float64 { return float64(v.Owed) })
	value("volume_divergent_changes", "Changes that are kept aside on this node.", func(v *control.Volume) float64 { return float64(v.Divergent) })
	value("volume_mass_deletion", "1: more than half of the volume was deleted at once; its trash is pinned.", func(v *control.Volume) float64 { return float64(boolInt(v.Alarm != "")) })
	value("volume_on_change_failed", "1: the volume's command failed the last time it ran on this node.", func(v *control.Volume) float64 { return float64(boolInt(v.OnChange != "")) })
	value("volume_chown_refused", "Files whose owner this node may not set.", func(v *control.Volume) float64 { return float64(v.Refused) })
	value("volume_xattr_refused", "Files with attributes or ACLs that this node cannot hold.", func(v *control.Volume) float64 { return float64(v.NoXattrs) })
	value("volume_nodes_refused", "Devices that this node may not make.", func(v *control.Volume) float64 { return float64(v.NoNodes) })
	value("volume_links_refused", "Names of one file that are files of their own here.", func(v *control.Volume) float64 { return float64(v.NoLinks) })
}

func (p *page) trashMetrics(volumes []control.Volume) {
	value := func(name, kind, help string, of func(t *control.Trash) float64) {
		p.eachVolume(volumes, name, kind, help, func(v *control.Volume, l ...string) { p.sample(of(&v.Trash), l...) })
	}
	value("trash_bytes", gauge, "Held in the trash of the volume on this node, when it was counted last.", func(t *control.Trash) float64 { return float64(t.Bytes) })
	value("trash_pinned", gauge, "Parts of the trash that stay until a person unpins them.", func(t *control.Trash) float64 { return float64(len(t.Pinned)) })
	value("trash_kept_total", counter, "Versions that went to the trash since the agent's start.", func(t *control.Trash) float64 { return float64(t.Kept) })
	value("trash_skipped_total", counter, "Versions that were not kept since the agent's start: too large, or one was kept shortly before.", func(t *control.Trash) float64 { return float64(t.Skipped) })
	value("trash_dropped_total", counter, "Versions that went before their age since the agent's start: for the quota, or for a full disk.", func(t *control.Trash) float64 { return float64(t.Dropped) })
}

func (p *page) proofMetrics(volumes []control.Volume) {
	proof := func(name, help string, write func(x *control.ProofStatus, l ...string)) {
		p.eachVolume(volumes, name, gauge, help, func(v *control.Volume, l ...string) {
			if v.Proof != nil {
				write(v.Proof, l...)
			}
		})
	}
	proof("proof_running", "1: a proof of the contents runs.", func(x *control.ProofStatus, l ...string) { p.sample(float64(boolInt(x.Running)), l...) })
	proof("proof_ended_timestamp_seconds", "When the last proof came to its end that this node made as master.", func(x *control.ProofStatus, l ...string) { p.when(x.Ended, l...) })
	proof("proof_differences", "Differences that it found and did not repair.", func(x *control.ProofStatus, l ...string) { p.sample(float64(x.Differences), l...) })
	proof("proof_files", "Files that it compared.", func(x *control.ProofStatus, l ...string) { p.sample(float64(x.Files), l...) })
	proof("proof_bytes", "Bytes that it compared.", func(x *control.ProofStatus, l ...string) { p.sample(float64(x.Bytes), l...) })
}

func standbyStates() []string { return []string{"in-sync", "lagging", "catching-up", "unknown"} }

// standbyMetrics is what the master says of each standby of each volume; the others repeat it.
func (p *page) standbyMetrics(volumes []control.Volume) {
	each := func(name, help string, write func(s *control.Standby, label ...string)) {
		p.family(name, gauge, help)
		for i := range volumes {
			for j := range volumes[i].Standbys {
				s := &volumes[i].Standbys[j]
				write(s, "volume", string(volumes[i].Name), "node", string(s.Node))
			}
		}
	}
	each("standby_state", "1 for the state of the standby, as the master says.", func(s *control.Standby, l ...string) { p.state(s.State, standbyStates(), l...) })
	each("standby_state_since_timestamp_seconds", "Since when the standby is in its state.", func(s *control.Standby, l ...string) { p.when(s.Since, l...) })
	each("standby_lag_seconds", "How far the standby is behind. No sample: not known.", func(s *control.Standby, l ...string) { p.count(s.LagMS, 1e-3, l...) })
	each("standby_pending_changes", "Changes that it has not acknowledged. No sample: not known.", func(s *control.Standby, l ...string) { p.count(s.Pending, 1, l...) })
	each("standby_owed_files", "Large files that are still under way to it. No sample: not known.", func(s *control.Standby, l ...string) { p.count(s.Owed, 1, l...) })
	each("standby_divergent_changes", "Changes that are kept aside there.", func(s *control.Standby, l ...string) { p.sample(float64(s.Divergent), l...) })
	each("standby_mass_deletion", "1: more than half of the volume was deleted at once there; its trash is pinned.", func(s *control.Standby, l ...string) { p.sample(float64(boolInt(s.Alarm != "")), l...) })
	each("standby_absent_names", "Names that are kept there although they were not found on the master.", func(s *control.Standby, l ...string) { p.sample(float64(s.Absent), l...) })
	each("standby_proven_timestamp_seconds", "The standby had the same bytes, as a proof found that began then.", func(s *control.Standby, l ...string) { p.when(s.Proven, l...) })
	each("standby_catch_up_bytes_per_second", "Rate at which it catches up. No sample: it has everything.", func(s *control.Standby, l ...string) {
		if s.Progress != nil {
			p.sample(float64(s.Progress.BytesPerSecond), l...)
		}
	})
	each("standby_catch_up_left_seconds", "How long it still needs at the present rate. No sample: it has everything, or it is not known.", func(s *control.Standby, l ...string) {
		if s.Progress != nil {
			p.count(s.Progress.LeftSeconds, 1, l...)
		}
	})
}
