package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"revolve/internal/config"
)

type configCommand struct {
	Check  configCheckCommand  `cmd:"" help:"Say whether a configuration is correct, and everything that is not."`
	Show   configShowCommand   `cmd:"" help:"Print the configuration that is in force."`
	Diff   configDiffCommand   `cmd:"" help:"Say how a file differs from the configuration in force, and when each difference would take effect."`
	Apply  configApplyCommand  `cmd:"" help:"Give the running cluster a new configuration: nodes come and go while it serves."`
	Schema configSchemaCommand `cmd:"" help:"Print the JSON Schema of the configuration, for editors."`
}

type configCheckCommand struct {
	File string `arg:"" help:"The configuration."`
}

// Help is printed under the usage.
func (configCheckCommand) Help() string {
	return "Every mistake is printed at once as FILE:LINE: what is wrong; what to do. What is accepted but not acted on by this version is printed as a warning, and is no failure."
}

type checkAnswer struct {
	File     string   `json:"file"`
	Cluster  string   `json:"cluster"`
	Nodes    []string `json:"nodes"`
	VIPs     []string `json:"vips"`
	Volumes  []string `json:"volumes"`
	Warnings []string `json:"warnings"`
}

// Run checks the file.
func (c *configCheckCommand) Run(_ context.Context, e *env) error {
	cfg, err := config.Load(c.File)
	if err != nil {
		return err
	}
	a := checkAnswer{File: c.File, Cluster: cfg.Cluster, Nodes: []string{}, VIPs: []string{}, Volumes: []string{}, Warnings: list(cfg.Warnings)}
	for _, n := range cfg.Nodes {
		a.Nodes = append(a.Nodes, string(n.Name))
	}
	for _, v := range cfg.VIPs {
		a.VIPs = append(a.VIPs, v.Prefix.String())
	}
	for _, v := range cfg.Volumes {
		a.Volumes = append(a.Volumes, string(v.Name))
	}
	var text strings.Builder
	warnings(&text, cfg)
	fmt.Fprintf(&text, "%s is correct: cluster %s\n  nodes    %s\n  vips     %s\n  volumes  %s\n", c.File, cfg.Cluster,
		words(a.Nodes), words(a.VIPs), words(a.Volumes))
	return e.answer(a, text.String())
}

type configSchemaCommand struct{}

// Run prints the schema; with --json it is the same, on one line.
func (configSchemaCommand) Run(_ context.Context, e *env) error {
	return e.answer(json.RawMessage(config.Schema()), string(config.Schema()))
}

// warnings prints what the configuration says that has no effect, or is likely a mistake.
func warnings(w io.Writer, cfg *config.Config) {
	for _, text := range cfg.Warnings {
		fmt.Fprintf(w, "warning: %s\n", text)
	}
}

// words is a list for a person.
func words(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " ")
}

// list is never null in JSON.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
