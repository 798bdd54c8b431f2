package cli

import (
	"context"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

type volumeCommand struct {
	Resume volumeResumeCommand `cmd:"" help:"Let a paused volume go on."`
}

type volumeResumeCommand struct {
	Volume          string `arg:"" help:"The volume."`
	AcceptDeletions bool   `help:"On the master: delete on the standbys, into their trash, what was not found here."`
	NotMounted      bool   `help:"The volume is a plain directory from now on, although something was mounted there."`
}

// Help is printed under the usage.
func (volumeResumeCommand) Help() string {
	return "A volume pauses when its directory is not the one it was (unmounted, swapped, emptied, on a fresh disk). If the right one comes back it goes on by itself. Else type this on that node: the directory is filled from the other nodes, what is in it and differs is kept as divergent, and nothing is deleted anywhere. " +
		"On the master it is about names that were missing after a scan, when nobody saw them go: the standbys keep them, and only --accept-deletions deletes them there. It is refused while the reason still holds, and says how many names are concerned."
}

// Run lets it go on.
func (c *volumeResumeCommand) Run(ctx context.Context, e *env) error {
	said, err := control.Dial(e.state).Resume(ctx, control.Resuming{Volume: cluster.VolumeID(c.Volume), AcceptDeletions: c.AcceptDeletions, NotMounted: c.NotMounted})
	if err != nil {
		return err
	}
	return e.answer(map[string]string{"volume": c.Volume, "said": said}, said)
}
