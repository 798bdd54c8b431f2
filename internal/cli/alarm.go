package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"revolve/internal/alarm"
	"revolve/internal/control"
	"revolve/internal/problem"
)

type alarmCommand struct {
	List    alarmListCommand    `cmd:"" help:"What people are told now, what is silenced, and whether it arrives."`
	Test    alarmTestCommand    `cmd:"" help:"Send a test to every place that alarms go to."`
	Silence alarmSilenceCommand `cmd:"" help:"Tell nobody of a kind of alarms for a while."`
}

type alarmListCommand struct {
	Kinds bool `help:"All kinds of alarms that there are, and what they mean."`
}

// Help is printed under the usage.
func (alarmListCommand) Help() string {
	return "The alarms that stand as the node that speaks sees them: the master, or while nobody leads the first by name of those that are heard. What each means and what to do is in docs/operations.md."
}

// Run prints the alarms.
func (c *alarmListCommand) Run(ctx context.Context, e *env) error {
	if c.Kinds {
		return e.answer(alarm.Kinds(), kindsText())
	}
	s, err := control.Dial(e.state).Status(ctx)
	if err != nil {
		return err
	}
	return e.answer(s.Alarms, alarmsText(s.Alarms, s.AsOf))
}

func kindsText() string {
	var b strings.Builder
	for _, k := range alarm.Kinds() {
		fmt.Fprintf(&b, "%s (%s, after %s): %s\n", k.Name, k.Severity, k.After, k.Means)
	}
	return b.String()
}

// calming is how long ago an alarm that stands was seen last when its cause is gone; it is looked every second, and told by others every five.
const calming = 20 * time.Second

func alarmsText(a control.Alarms, now time.Time) string {
	var b strings.Builder
	if len(a.Open) == 0 {
		b.WriteString("no alarm stands\n")
	}
	for _, o := range a.Open {
		what := "told"
		switch {
		case !o.Silenced.IsZero():
			what = "silenced until " + o.Silenced.Local().Format(time.DateTime)
		case !o.Told:
			what = "not told yet"
		}
		if gone := now.Sub(o.Seen); !o.Seen.IsZero() && gone >= calming {
			what += fmt.Sprintf(", gone for %s: it is over when it stays so", gone.Round(time.Second))
		}
		fmt.Fprintf(&b, "%s: %s: %s (since %s, %s)\n", o.Severity, o.Kind, o.Text, now.Sub(o.Since).Round(time.Second), what)
	}
	for _, s := range a.Silences {
		fmt.Fprintf(&b, "silenced: %s until %s, by %s\n", strings.TrimSpace(s.Kind+" "+s.Subject), s.Until.Local().Format(time.DateTime), s.By)
	}
	if len(a.Channels) == 0 {
		b.WriteString("alarms go nowhere: say under alarms: in the configuration where they should go\n")
	}
	b.WriteString(channelsText(a.Channels))
	return b.String()
}

func channelsText(channels []control.AlarmChannel) string {
	if len(channels) == 0 {
		return ""
	}
	rows := [][]string{{"GOES TO", "ARRIVED", "FAILED"}}
	var why strings.Builder
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Local().Format(time.DateTime)
	}
	for _, c := range channels {
		rows = append(rows, []string{c.Name, at(c.Arrived), at(c.Failed)})
		if c.Error != "" {
			fmt.Fprintf(&why, "%s: %s\n", c.Name, c.Error)
		}
		if c.Dropped > 0 {
			fmt.Fprintf(&why, "%s: refused for good and not sent again: %d messages, the last at %s: %s\n", c.Name, c.Dropped, at(c.DroppedAt), c.DroppedWhy)
		}
	}
	return table(rows) + why.String()
}

type alarmTestCommand struct{}

// Help is printed under the usage.
func (alarmTestCommand) Help() string {
	return "This node sends a test over every way out, now, and says of each whether it was accepted. It fails if one was not. That a person got it only that person can say. alarm_test in the configuration does it by itself."
}

// Run sends the test.
func (c *alarmTestCommand) Run(ctx context.Context, e *env) error {
	channels, err := control.Dial(e.state).TestAlarm(ctx)
	if err != nil {
		return err
	}
	if err := e.answer(channels, channelsText(channels)); err != nil {
		return err
	}
	var failed []string
	for _, x := range channels {
		if x.Error != "" {
			failed = append(failed, x.Name)
		}
	}
	if len(failed) > 0 {
		return &problem.Problem{Op: "test alarms", Kind: problem.Unavailable, Subject: strings.Join(failed, ", "), Err: fmt.Errorf("%d of %d did not accept it", len(failed), len(channels)),
			Hint: "the reasons are above; correct them, and try again: revolve alarm test"}
	}
	return nil
}

type alarmSilenceCommand struct {
	Alarm   string        `arg:"" help:"The kind of alarm, as revolve alarm list shows it; all for every one."`
	Subject string        `arg:"" optional:"" help:"Only the one about this: a node, \"VOLUME on NODE\"."`
	For     time.Duration `default:"2h" help:"For how long (2h; at most 720h)."`
	Off     bool          `help:"Take the silence back."`
}

// Help is printed under the usage.
func (alarmSilenceCommand) Help() string {
	return "What is silenced still stands in revolve status and in revolve alarm list; only no message goes out about it. When the silence ends and the alarm still stands, it is told. It can be typed on any node, and holds for all."
}

// Run orders it.
func (c *alarmSilenceCommand) Run(ctx context.Context, e *env) error {
	o := control.SilenceOrder{Kind: c.Alarm, Subject: c.Subject, For: c.For}
	text := fmt.Sprintf("silenced for %s: %s", c.For, strings.TrimSpace(c.Alarm+" "+c.Subject))
	if c.Off {
		o.For, text = 0, "no longer silenced: "+strings.TrimSpace(c.Alarm+" "+c.Subject)
	} else if c.For <= 0 {
		return &problem.Problem{Op: "silence", Kind: problem.Invalid, Subject: c.Alarm, Err: fmt.Errorf("%s is no time", c.For), Hint: "revolve alarm silence " + c.Alarm + " --for 2h; or --off"}
	}
	if err := control.Dial(e.state).Silence(ctx, o); err != nil {
		return err
	}
	return e.answer(o, text)
}
