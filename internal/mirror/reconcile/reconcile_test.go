package reconcile_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"revolve/internal/cluster"
	"revolve/internal/mirror/reconcile"
)

func span(term cluster.Term, owner cluster.NodeID, last uint64) reconcile.Span {
	return reconcile.Span{Reign: cluster.Reign{Term: term, Owner: owner}, Last: last}
}

func pos(term cluster.Term, seq uint64) cluster.Position {
	return cluster.Position{Term: term, Seq: seq}
}

func TestDecide(t *testing.T) {
	master := reconcile.History{span(1, "a", 9), span(3, "b", 4), span(5, "c", 7)}
	for _, tc := range []struct {
		name     string
		follower reconcile.History
		oldest   cluster.Position
		want     reconcile.Plan
	}{
		{"nothing known", nil, pos(0, 0), reconcile.Plan{Action: reconcile.Compare}},
		{"level", master, pos(0, 0), reconcile.Plan{Action: reconcile.Continue, From: pos(5, 7), Known: true}},
		{"behind in the last reign", reconcile.History{span(1, "a", 9), span(3, "b", 4), span(5, "c", 2)}, pos(0, 0),
			reconcile.Plan{Action: reconcile.Continue, From: pos(5, 2), Known: true}},
		{"behind by a reign", reconcile.History{span(1, "a", 9), span(3, "b", 4)}, pos(3, 4),
			reconcile.Plan{Action: reconcile.Continue, From: pos(3, 4), Known: true}},
		{"behind the journal", reconcile.History{span(1, "a", 9), span(3, "b", 4)}, pos(5, 0),
			reconcile.Plan{Action: reconcile.Compare, From: pos(3, 4), Known: true}},
		{"more of an old reign", reconcile.History{span(1, "a", 12)}, pos(0, 0),
			reconcile.Plan{Action: reconcile.SetAside, From: pos(1, 9), Known: true, Tail: true}},
		{"a reign of its own", reconcile.History{span(1, "a", 9), span(4, "d", 1)}, pos(0, 0),
			reconcile.Plan{Action: reconcile.SetAside, From: pos(1, 9), Known: true, Tail: true}},
		{"a reign of its own without a change", reconcile.History{span(1, "a", 9), span(4, "d", 0)}, pos(0, 0),
			reconcile.Plan{Action: reconcile.SetAside, From: pos(1, 9), Known: true, Tail: true}},
		{"same term, other owner", reconcile.History{span(1, "a", 9), span(3, "x", 4)}, pos(0, 0),
			reconcile.Plan{Action: reconcile.SetAside, From: pos(1, 9), Known: true, Tail: true}},
		{"a tail that the journal does not reach", reconcile.History{span(1, "a", 12)}, pos(3, 0),
			reconcile.Plan{Action: reconcile.Compare, From: pos(1, 9), Known: true, Tail: true}},
		{"strangers", reconcile.History{span(2, "z", 9)}, pos(0, 0), reconcile.Plan{Action: reconcile.Compare, Tail: true}},
	} {
		if diff := cmp.Diff(tc.want, reconcile.Decide(master, tc.follower, tc.oldest)); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

// node is what the model knows: every change by name, one after the other.
type node struct {
	changes []string // "term@owner/seq"; seq 0 is the beginning of the reign
	history reconcile.History
}

func (n *node) append(r cluster.Reign, seq uint64) {
	n.changes = append(n.changes, fmt.Sprintf("%v/%d", r, seq))
	n.history = n.history.Extend(r, seq)
}

// common is how many changes two nodes share.
func common(a, b *node) (n int) {
	for n < min(len(a.changes), len(b.changes)) && a.changes[n] == b.changes[n] {
		n++
	}
	return n
}

// end is the position and the history after n changes of the node's.
func (n *node) end(changes int) (at cluster.Position) {
	if changes == 0 {
		return at
	}
	var owner string
	if _, err := fmt.Sscanf(strings.NewReplacer("@", " ", "/", " ").Replace(n.changes[changes-1]), "%d %s %d", &at.Term, &owner, &at.Seq); err != nil {
		panic(err)
	}
	return at
}

// TestAgreesWithAModel lets nodes reign, write and follow each other in any
// order, also two of them at once, and compares what Common, Until and Decide
// say with lists of all changes.
func TestAgreesWithAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []cluster.NodeID{"a", "b", "c"}
		nodes := map[cluster.NodeID]*node{"a": {}, "b": {}, "c": {}}
		top := map[cluster.NodeID]cluster.Term{} // a node never reigns twice in a term
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "node")
			n := nodes[name]
			switch rapid.SampledFrom([]string{"reign", "write", "write", "follow", "follow"}).Draw(t, "what") {
			case "reign":
				term := max(top[name], n.history.Reign().Term) + cluster.Term(rapid.IntRange(1, 2).Draw(t, "up"))
				top[name] = term
				n.append(cluster.Reign{Term: term, Owner: name}, 0)
			case "write":
				if r := n.history.Reign(); r.Owner == name {
					n.append(r, n.history.End().Seq+1)
				}
			case "follow":
				follow(t, n, nodes[rapid.SampledFrom(names).Draw(t, "master")])
			}
			top[name] = max(top[name], n.history.Reign().Term)
			for _, other := range nodes {
				agrees(t, n, other)
			}
		}
	})
}

func follow(t *rapid.T, n, master *node) {
	plan := reconcile.Decide(master.history, n.history, cluster.Position{})
	shared := common(master, n)
	if !plan.Known {
		n.changes, n.history = slices.Clone(master.changes), slices.Clone(master.history) // compared
		return
	}
	n.changes, n.history = n.changes[:shared], n.history.Until(plan.From)
	upto := rapid.IntRange(shared, len(master.changes)).Draw(t, "upto")
	for i := shared; i < upto; i++ {
		at := master.end(i + 1)
		owner, _, _ := strings.Cut(master.changes[i][strings.IndexByte(master.changes[i], '@')+1:], "/")
		n.append(cluster.Reign{Term: at.Term, Owner: cluster.NodeID(owner)}, at.Seq)
	}
}

func agrees(t *rapid.T, a, b *node) {
	n := common(a, b)
	at, known := reconcile.Common(a.history, b.history)
	if known != (n > 0) || at != a.end(n) {
		t.Fatalf("common of %v and %v is %v (%v), the model says %v after %d", a.changes, b.changes, at, known, a.end(n), n)
	}
	if a.history.End() != a.end(len(a.changes)) {
		t.Fatalf("%v ends at %v", a.changes, a.history.End())
	}
	cut := a.history.Until(at)
	if known && cut.End() != at {
		t.Fatalf("%v until %v ends at %v", a.history, at, cut.End())
	}
	plan := reconcile.Decide(a.history, b.history, cluster.Position{})
	if plan.Known && plan.Tail != (n < len(b.changes)) {
		t.Fatalf("%v follows %v: tail %v", b.changes, a.changes, plan.Tail)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	var h reconcile.History
	for i := range cluster.Term(reconcile.MaxSpans + 10) {
		h = h.Extend(cluster.Reign{Term: i + 1, Owner: "a"}, 1)
	}
	if len(h) != reconcile.MaxSpans || h[0].Term != 11 || h.End() != pos(reconcile.MaxSpans+10, 1) {
		t.Errorf("%d spans from %v to %v", len(h), h[0], h.End())
	}
}

func TestExtendDoesNotTouchACopy(t *testing.T) {
	h := reconcile.History{span(1, "a", 5)}
	cut := h.Until(pos(1, 3))
	if cut.Extend(cluster.Reign{Term: 2, Owner: "b"}, 1); h[0].Last != 5 || cut[0].Last != 3 {
		t.Errorf("%v, %v", h, cut)
	}
}

// TestOwedAgreesWithAModel compares Owed with the definition of its methods.
func TestOwedAgreesWithAModel(t *testing.T) {
	path := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab"}), 1, 3).Draw(t, "parts"), "/")
	})
	below := func(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
	rapid.Check(t, func(t *rapid.T) {
		var owed reconcile.Owed
		model := map[string]reconcile.Debt{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			a, b := path.Draw(t, "path"), path.Draw(t, "other")
			was := owed.Clone()
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				d := reconcile.Debt{Path: a, Tree: rapid.Bool().Draw(t, "tree"), ID: rapid.Uint64Range(0, 3).Draw(t, "id")}
				owed.Add(d)
				model[a] = d
			case 1:
				whole := rapid.Bool().Draw(t, "whole")
				owed.Pay(a, whole)
				if whole || !model[a].Tree {
					delete(model, a)
				}
			case 2:
				owed.Removed(a)
				maps.DeleteFunc(model, func(p string, _ reconcile.Debt) bool { return below(p, a) })
			case 3:
				if below(a, b) || below(b, a) {
					continue
				}
				moved := owed.Renamed(a, b)
				next := map[string]reconcile.Debt{}
				for p, d := range model {
					if below(p, a) {
						d.Path = b + p[len(a):]
						next[d.Path] = d
					} else if !below(p, b) {
						if _, taken := next[p]; !taken {
							next[p] = d
						}
					}
				}
				model = next
				for _, d := range moved {
					if got, ok := owed.Get(d.Path); !ok || got != d {
						t.Fatalf("%+v was said to be owed and is %+v", d, got)
					}
				}
			}
			want := slices.SortedFunc(maps.Values(model), func(x, y reconcile.Debt) int { return strings.Compare(x.Path, y.Path) })
			if diff := cmp.Diff(want, owed.List()); diff != "" && len(want)+owed.Len() > 0 {
				t.Fatalf("from %+v: %s", was.List(), diff)
			}
			want = slices.DeleteFunc(want, func(d reconcile.Debt) bool { return !below(d.Path, a) })
			if diff := cmp.Diff(want, owed.Under(a)); diff != "" && len(want)+len(owed.Under(a)) > 0 {
				t.Fatalf("under %q: %s", a, diff)
			}
			trees := 0
			for _, d := range model {
				if d.Tree {
					trees++
				}
			}
			if owed.Trees() != trees {
				t.Fatalf("%d trees, want %d", owed.Trees(), trees)
			}
		}
	})
}

// TestManyDebts: what is owed is not looked through for each name that goes,
// which would take hours for as many as a flood makes.
func TestManyDebts(t *testing.T) {
	const many = 200_000
	var owed reconcile.Owed
	name := func(i int) string { return fmt.Sprintf("d%d/f%d", i%100, i) }
	for i := range many {
		owed.Add(reconcile.Debt{Path: name(i)})
	}
	for i := range many / 2 {
		owed.Removed(name(i))
		owed.Renamed(name(i+many/2), name(i))
	}
	for i := range many / 2 {
		if len(owed.Under(name(i))) != 1 {
			t.Fatalf("%s is not owed", name(i))
		}
		owed.Removed(name(i))
	}
	if owed.Len() != 0 {
		t.Errorf("%d are left", owed.Len())
	}
}
