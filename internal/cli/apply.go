package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/problem"
)

type configDiffCommand struct {
	File string `arg:"" help:"The file to compare."`
}

// Help is printed under the usage.
func (configDiffCommand) Help() string {
	return "It asks the agent of this node what is in force; if none runs, it reads the state directory. Each line is a key: + is only in the file, - only in force, ~ differs. Comments, order and the form of writing are no difference. Nothing is changed, and a difference is no failure."
}

type diffAnswer struct {
	File        string              `json:"file"`
	Generation  uint32              `json:"generation"`
	Differences []config.Difference `json:"differences"`
}

// Run compares.
func (c *configDiffCommand) Run(ctx context.Context, e *env) error {
	text, _, err := loadText(c.File)
	if err != nil {
		return err
	}
	now, err := inForce(ctx, e.state)
	if err != nil {
		return err
	}
	list, err := config.Diff([]byte(now.Config), text)
	if err != nil {
		return &problem.Problem{Op: "compare configurations", Kind: problem.Invalid, Subject: c.File, Err: err, Hint: "check it first: revolve config check " + c.File}
	}
	var out strings.Builder
	if len(list) == 0 {
		fmt.Fprintf(&out, "%s says what is in force, generation %d\n", c.File, now.Generation)
	}
	for _, d := range list {
		fmt.Fprintf(&out, "%s\n    %s\n", d, d.Effect)
	}
	return e.answer(diffAnswer{c.File, now.Generation, list}, out.String())
}

// loadText reads and checks a configuration, and keeps its text.
func loadText(file string) ([]byte, *config.Config, error) {
	cfg, err := config.Load(file)
	if err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, &problem.Problem{Op: "read configuration", Kind: problem.Unavailable, Subject: file, Err: err}
	}
	return text, cfg, nil
}

type configApplyCommand struct {
	File     string        `arg:"" help:"The new configuration."`
	DryRun   bool          `help:"Only have all nodes check it, and say what it would change."`
	Deadline time.Duration `default:"60s" placeholder:"TIME" help:"If the cluster does not come back with it in this time, every node goes back by itself; 10s to 10m. 0: it stays whatever happens."`
	Base     *uint32       `placeholder:"N" help:"Refuse if another generation than N is in force by now: somebody else changed something meanwhile."`
}

// Help is printed under the usage.
func (configApplyCommand) Help() string {
	return "It can be typed on any node. Every node that answers checks the file; then the master makes it the cluster's next generation, durably, and tells every node of the old list and of the new one; who is off gets what stays when it is back. The generation is tried first: when every node that answered before runs with it, and follows the master, it stays; otherwise every node goes back to the former configuration by itself when the deadline has passed, also one that is cut off or whose agent was killed. The command waits for that; if it is interrupted, nothing else changes. Nodes, priorities and candidates change while the cluster serves; for addresses and links of nodes and for floating addresses the agents concerned start anew by themselves; volumes, services, alarms and the status page take effect on each node when its agent is restarted (revolve config diff says which). Cluster name, port, engine and profile cannot change while the cluster serves. A node with source: file refuses what its own file does not say."
}

// Run applies the file.
func (c *configApplyCommand) Run(ctx context.Context, e *env) error {
	text, cfg, err := loadText(c.File)
	if err != nil {
		return err
	}
	done, err := control.Dial(e.state).Change(ctx, control.Change{Config: string(text), DryRun: c.DryRun, Base: c.Base, Deadline: c.Deadline})
	if err != nil {
		return err
	}
	if err := c.untried(done); err != nil {
		return err
	}
	var out strings.Builder
	warnings(&out, cfg)
	if done.Trial {
		if done.Generation, err = c.decided(ctx, e.state, string(text), done.Generation); err != nil {
			return err
		}
	}
	describe(&out, done, c.DryRun)
	return e.answer(done, out.String())
}

// untried is the failure of a change that was asked for with a way back and made without: an agent of an older version does not know of deadlines.
func (c *configApplyCommand) untried(done control.Changed) error {
	if c.Deadline == 0 || c.DryRun || done.Trial || !changes(done) {
		return nil
	}
	return &problem.Problem{Op: "apply configuration", Kind: problem.Conflict, Subject: c.File,
		Err:  fmt.Errorf("it is in force as generation %d, for good: the agent of this node or the master's is of a version that tries nothing, so nobody goes back by itself", done.Generation),
		Hint: "see whether the cluster serves: revolve status; if not, apply the former file; then upgrade the agents"}
}

const (
	// decidedEvery is how often the agent is asked how a trial stands.
	decidedEvery = 200 * time.Millisecond
	// decidedLate is how much later than the deadline the agent may be back: it starts anew for the former configuration.
	decidedLate = 15 * time.Second
)

// decided waits until the trial of a generation has ended here, and returns the generation that stays.
func (c *configApplyCommand) decided(ctx context.Context, state, text string, tried uint32) (uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Deadline+decidedLate)
	defer cancel()
	lack := ""
	for {
		now, err := control.Dial(state).Configuration(ctx)
		switch {
		case err != nil: // it starts anew
		case now.Trial != nil:
			lack = now.Trial.WaitsFor
		case now.Generation > tried && now.Config == text:
			return now.Generation, nil
		case now.Generation > tried:
			return 0, c.turnedBack(now, lack)
		}
		select {
		case <-ctx.Done():
			return 0, &problem.Problem{Op: "apply configuration", Kind: problem.Timeout, Subject: c.File, Err: fmt.Errorf("what became of generation %d is not known", tried),
				Hint: "see whether the agent runs and what is in force: revolve status; revolve config show --json"}
		case <-time.After(decidedEvery):
		}
	}
}

func (c *configApplyCommand) turnedBack(now control.Configuration, lack string) error {
	p := &problem.Problem{Op: "apply configuration", Kind: problem.Timeout, Subject: c.File, Err: errors.New("another configuration came after it"), Hint: "look at what is in force: revolve config show"}
	if now.TurnedBack {
		p.Err = fmt.Errorf("the cluster did not come back with it within %v: the former configuration is in force again, as generation %d", c.Deadline, now.Generation)
		p.Hint = "the log of the master's agent says which node it waited for: journalctl -u revolve"
	}
	if lack != "" {
		p.Hint = "it waited for: " + lack
	}
	return p
}
