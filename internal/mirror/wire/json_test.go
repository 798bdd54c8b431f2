package wire_test

import (
	"encoding/json"
	"testing"

	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
)

// FuzzQuestions: what a follower asks for or owes lies in the volume.
func FuzzQuestions(f *testing.F) {
	for _, s := range []string{`{}`, `{"names":["YQ=="],"trees":["YS9i"],"ids":[1]}`, `{"job":1,"dir":"YQ==","names":["Li4="]}`, `{"owed":[{"path":"Li4vLi4=","tree":true}]}`,
		`{"from":{"term":1,"seq":2},"owed":[{"path":"LnJldm9sdmU="}]}`, `{"job":-1}`, `null`, `[]`, `{"dir":"L2V0Yw==","names":["cGFzc3dk"]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var w wire.Wants
		if json.Unmarshal(b, &w) == nil && w.Check() == nil {
			for _, p := range w.Trees {
				inside(t, string(p))
			}
			for _, n := range w.Names {
				inside(t, tree.Join(string(w.Dir), string(n)))
			}
		}
		var r wire.Ready
		if json.Unmarshal(b, &r) == nil && r.Check() == nil {
			for _, d := range r.Owed {
				inside(t, string(d.Path))
			}
		}
	})
}

// FuzzOtherFrames: no other frame of a peer's can do more than be refused.
func FuzzOtherFrames(f *testing.F) {
	for _, s := range []string{`{}`, `{"volume":"home","reign":{"term":1,"owner":"a"},"history":[{"term":1,"owner":"a","last":7}]}`, `{"plan":{"action":255,"known":true}}`,
		`{"head":{"term":18446744073709551615},"lag_ms":-1,"report":[{}]}`, `{"job":1,"absent":-1,"sample":["YQ=="]}`, `{"kind":300}`} {
		f.Add([]byte(s))
	}
	f.Add(wire.AppendID(wire.AppendID(nil, 1), 1<<63))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, into := range []any{&wire.Hello{}, &wire.Welcome{}, &wire.Refuse{}, &wire.Compared{}, &wire.Ping{}} {
			if json.Unmarshal(b, into) == nil {
				if _, err := json.Marshal(into); err != nil {
					t.Fatalf("%T is read and cannot be written: %v", into, err)
				}
			}
		}
		id, rest, err := wire.DecodeID(b)
		if err == nil && string(wire.AppendID(nil, id))+string(rest) != string(b) {
			t.Fatalf("%x is read as %d and %x", b, id, rest)
		}
	})
}
