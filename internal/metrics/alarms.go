package metrics

import (
	"revolve/internal/alarm"
	"revolve/internal/control"
)

// alarmMetrics is what people are told, as this node knows it. Kinds are a fixed list, and channels are named by the configuration.
func (p *page) alarmMetrics(a *control.Alarms) {
	open, silenced := map[string]int{}, map[string]int{}
	for _, o := range a.Open {
		open[o.Kind]++
		silenced[o.Kind] += boolInt(!o.Silenced.IsZero())
	}
	p.family("alarms_open", gauge, "Alarms of the kind that stand.")
	for _, k := range alarm.Kinds() {
		p.sample(float64(open[k.Name]), "alarm", k.Name)
	}
	p.family("alarms_silenced", gauge, "Alarms of the kind that stand and of which nobody is told.")
	for _, k := range alarm.Kinds() {
		p.sample(float64(silenced[k.Name]), "alarm", k.Name)
	}
	p.one("alarms_speaker", gauge, "1: this node is the one that tells people.", float64(boolInt(a.Speaks)))
	p.family("alarm_channel_failing", gauge, "1: the last message was not accepted there.")
	for _, c := range a.Channels {
		p.sample(float64(boolInt(c.Error != "")), "channel", c.Name)
	}
	p.family("alarm_channel_dropped_total", counter, "Messages that were refused there for good, and dropped.")
	for _, c := range a.Channels {
		p.sample(float64(c.Dropped), "channel", c.Name)
	}
	p.family("alarm_channel_arrived_timestamp_seconds", gauge, "When something was accepted there last from this node.")
	for _, c := range a.Channels {
		p.when(c.Arrived, "channel", c.Name)
	}
	p.family("alarms_tested_timestamp_seconds", gauge, "When the last test alarm of the schedule was sent.")
	p.when(a.Tested)
}
