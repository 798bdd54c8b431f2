package stories

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Parts of TestVMs: what docs/vms.md tells people to type, and to write into the configuration, as it stands there. Only
// names are put in: of the machine, of points, and of the day.

// ofPage is the first block of a section of docs/vms.md.
func ofPage(t *testing.T, section string) []string {
	t.Helper()
	b, err := os.ReadFile("../../docs/vms.md")
	must(t, err)
	_, rest, found := strings.Cut(string(b), "\n## "+section+"\n")
	rest, _, _ = strings.Cut(rest, "\n## ")
	_, block, fenced := strings.Cut(rest, "\n```")
	block, _, ended := strings.Cut(block, "\n```")
	if !found || !fenced || !ended {
		t.Fatalf("docs/vms.md has no section %q with a block", section)
	}
	return strings.Split(block, "\n")[1:]
}

// recipe is what is typed in a section, each command without "revolve vm"; verbs are what its commands do, so that
// whoever changes the page sees that here.
func recipe(t *testing.T, section string, verbs ...string) (steps [][]string) {
	t.Helper()
	var got []string
	for _, line := range ofPage(t, section) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "revolve" || words[1] != "vm" {
			t.Fatalf("%s: %q is none of its commands", section, line)
		}
		got, steps = append(got, words[2]), append(steps, words[2:])
	}
	if !slices.Equal(got, verbs) {
		t.Fatalf("%s: the page types %v, this story %v", section, got, verbs)
	}
	return steps
}

// types one step of a recipe on a node.
func (n *node) types(v any, step []string, put ...string) {
	n.lab.t.Helper()
	step = slices.Clone(step)
	names := append([]string{"ad1", guestName}, put...)
	for i, w := range step {
		for k := 0; k < len(names); k += 2 {
			if w == names[k] {
				step[i] = names[k+1]
			}
		}
	}
	if complaint, status := n.vmJSON(v, step...); status != 0 {
		n.lab.t.Fatalf("vm %q on %s: exit status %d: %s", step, n.name, status, complaint)
	}
}

// runsIn is how long from now the weekly run of the page begins at least: by then the agents are there.
const runsIn = 30 * time.Second

// weekly is the part of the configuration that "By itself" shows. The critical machine is the one that does nothing, and its
// day and time are about now.
func weekly(t *testing.T) string {
	t.Helper()
	now := time.Now().Add(runsIn + time.Minute)
	text := strings.Join(ofPage(t, "By itself"), "\n") + "\n"
	for _, put := range [][2]string{{"  ad1: { nodes: [b, c]", "  " + idleName + ": { nodes: [a, b]"}, {`"Sun 03:00"`, now.Format(`"Mon 15:04"`)}} {
		if strings.Count(text, put[0]) != 1 {
			t.Fatalf("By itself: %q is not there once:\n%s", put[0], text)
		}
		text = strings.Replace(text, put[0], put[1], 1)
	}
	return text
}
