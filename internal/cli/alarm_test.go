package cli

import (
	"context"
	"errors"
	"time"

	"revolve/internal/control"
	"revolve/internal/problem"
)

// TestAlarm answers with two ways out, of which one is closed.
func (f *fakeAgent) TestAlarm(context.Context) ([]control.AlarmChannel, error) {
	return []control.AlarmChannel{{Name: "ntfy", Arrived: time.Unix(1, 0)}, {Name: "email", Failed: time.Unix(1, 0), Error: "the mail server refuses the user or the password"}}, nil
}

// Silence knows one alarm.
func (f *fakeAgent) Silence(_ context.Context, o control.SilenceOrder) error {
	if o.Kind != "node-dead" {
		return &problem.Problem{Op: "silence", Kind: problem.Invalid, Subject: o.Kind, Err: errors.New("there is no such alarm"), Hint: "revolve alarm list"}
	}
	return nil
}
