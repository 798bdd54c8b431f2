package cli

import (
	"context"
	"fmt"

	"revolve/internal/control"
)

type eligibleCommand struct{}

// Help is printed under the usage.
func (eligibleCommand) Help() string {
	return "For another engine's health check (engine: external): whether the floating addresses should come to this node, or stay. It answers within half a second, from memory; an agent that does not answer is not eligible."
}

func (eligibleCommand) exitStatuses() []exitStatus {
	return []exitStatus{{1, "the node is not eligible, or its agent does not answer"}}
}

// unfit ends the command with status 1.
type unfit struct{}

func (unfit) Error() string   { return "not eligible" }
func (unfit) exitStatus() int { return 1 }

// Run asks the agent.
func (c *eligibleCommand) Run(ctx context.Context, e *env) error {
	f, err := control.Dial(e.state).Fitness(ctx)
	if err != nil {
		report(e, err)
		return unfit{}
	}
	word := "eligible"
	if !f.Eligible {
		word = "not eligible"
	}
	if err := e.answer(f, fmt.Sprintf("%s is %s: %s", f.Node, word, f.Why)); err != nil {
		return err
	}
	if !f.Eligible {
		return unfit{}
	}
	return nil
}
