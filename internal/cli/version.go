package cli

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// packaged is "VERSION COMMIT" of the package that this program is part of (scripts/package.sh),
// because what the compiler records depends on what kind of checkout it runs in.
//
//tidy:constant the linker sets it (-X), and only variables can be set
var packaged = ""

type versionCommand struct{}

type versionAnswer struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`   // "unknown" if it was built outside of a repository
	Modified bool   `json:"modified"` // built from a tree with changes that no commit has
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Run says what the build recorded about itself.
func (versionCommand) Run(_ context.Context, e *env) error {
	a := versionAnswer{Version: "unknown", Commit: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			a.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				a.Commit = s.Value
			case "vcs.modified":
				a.Modified = s.Value == "true"
			}
		}
	}
	if version, commit, ok := strings.Cut(packaged, " "); ok {
		a.Version, a.Commit, a.Modified = version, commit, strings.HasSuffix(version, "+changed")
	}
	changed := ""
	if a.Modified {
		changed = ", changed"
	}
	return e.answer(a, fmt.Sprintf("revolve %s (commit %s%s, %s, %s)", a.Version, a.Commit, changed, a.Go, a.Platform))
}
