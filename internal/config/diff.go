package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Effect is when a difference between the configuration in force and a new one takes effect.
type Effect string

// The effects, mildest first.
const (
	EffectNow     Effect = "at once"                                     // on every node, while it serves
	EffectAnew    Effect = "the agents concerned start anew, one by one" // by themselves
	EffectRestart Effect = "on each node when its agent is restarted"
	EffectRefused Effect = "not while the cluster serves"
)

// Difference is one key that two configurations say something else about.
type Difference struct {
	Key    string `json:"key"`
	Was    string `json:"was,omitempty"` // as JSON; "" if the key is not there
	Now    string `json:"now,omitempty"`
	Effect Effect `json:"effect"`
}

// String is the difference on one line.
func (d Difference) String() string {
	switch {
	case d.Was == "":
		return fmt.Sprintf("+ %s: %s", d.Key, d.Now)
	case d.Now == "":
		return fmt.Sprintf("- %s: %s", d.Key, d.Was)
	}
	return fmt.Sprintf("~ %s: %s -> %s", d.Key, d.Was, d.Now)
}

// Diff lists what differs between two configurations that Parse accepts, by key.
// Comments, order and the form of writing are no difference; a default that is
// written out is one.
func Diff(was, now []byte) ([]Difference, error) {
	var docs [2]map[string]any
	for i, text := range [][]byte{was, now} {
		if err := yaml.Unmarshal(text, &docs[i]); err != nil {
			return nil, err
		}
	}
	list := []Difference{}
	compareMaps("", docs[0], docs[1], &list)
	slices.SortFunc(list, func(x, y Difference) int { return cmp.Compare(x.Key, y.Key) })
	return list, nil
}

func compareMaps(place string, was, now map[string]any, list *[]Difference) {
	keys := map[string]bool{}
	for _, m := range []map[string]any{was, now} {
		for k := range m {
			keys[k] = true
		}
	}
	for k := range keys {
		at := join(place, k)
		w, okW := was[k]
		n, okN := now[k]
		mw, isW := w.(map[string]any)
		mn, isN := n.(map[string]any)
		if isW && isN {
			compareMaps(at, mw, mn, list)
			continue
		}
		d := Difference{Key: at, Was: compact(w, okW), Now: compact(n, okN), Effect: effect(at, okW && okN)}
		if d.Was != d.Now {
			*list = append(*list, d)
		}
	}
}

// compact is a value in one form, however the file writes it.
func compact(v any, there bool) string {
	if !there {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v) // what JSON has no word for is not accepted by Parse either
	}
	return string(b)
}

// effect is when a key takes effect. both: it is there before and after.
func effect(key string, both bool) Effect {
	parts := strings.Split(key, ".")
	switch parts[0] {
	case "nodes":
		switch {
		case len(parts) < 3 && !both: // a node that comes or goes
			return EffectNow
		case len(parts) >= 3 && parts[2] == "links":
			return EffectAnew
		case len(parts) >= 3 && parts[2] == "paths":
			return EffectRestart
		}
		return EffectNow
	case "vips":
		return EffectAnew
	case "bandwidth", "vms", "schedules":
		return EffectNow
	case "failover":
		if len(parts) > 1 && (parts[1] == "failback" || parts[1] == "rehearsal") {
			return EffectRestart
		}
		return EffectRefused
	case "volumes", "services", "web", "alarms", "alarm_test", "vm_storage":
		return EffectRestart
	}
	return EffectRefused // the cluster's name, the port
}
