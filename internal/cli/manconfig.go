package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"revolve/internal/problem"
)

// keySchema is what a manual page tells of a part of a JSON Schema. Its
// properties stay in the order of the file.
type keySchema struct {
	Type        any             `json:"type"`
	Description string          `json:"description"`
	Default     json.RawMessage `json:"default"`
	Enum        []any           `json:"enum"`
	Minimum     *float64        `json:"minimum"`
	Maximum     *float64        `json:"maximum"`
	Required    []string        `json:"required"`
	Properties  ordered         `json:"properties"`
	Items       *keySchema      `json:"items"`
	AnyOf       []keySchema     `json:"anyOf"`
	OneOf       []keySchema     `json:"oneOf"`
	Additional  json.RawMessage `json:"additionalProperties"`
}

// ordered are properties in the order in which the schema has them.
type ordered []struct {
	name string
	keySchema
}

// UnmarshalJSON reads an object without losing its order.
func (o *ordered) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var s keySchema
		if err := d.Decode(&s); err != nil {
			return err
		}
		*o = append(*o, struct {
			name string
			keySchema
		}{fmt.Sprint(name), s})
	}
	return nil
}

// configurationPage is revolve.yaml(5), made from the schema.
func configurationPage(schema []byte) (string, error) {
	var s keySchema
	if err := json.Unmarshal(schema, &s); err != nil {
		return "", &problem.Problem{Op: "read the configuration's schema", Kind: problem.Internal, Err: err, Hint: "report it"}
	}
	p := newPage(configPage, 5, "the configuration of a Revolve cluster")
	p.section("DESCRIPTION")
	p.text("One YAML file, the same on all nodes; each node is told its name on the command line. Unknown keys, duplicates, wrong types and contradictions are mistakes, all reported at once by revolve config check.")
	p.section("KEYS")
	p.keys("", s)
	p.section("EXAMPLE")
	p.b.WriteString(".nf\n")
	for line := range strings.Lines(exampleConfig) {
		p.b.WriteString(strings.NewReplacer("\\", "\\e", "-", "\\-").Replace(line))
	}
	p.b.WriteString(".fi\n")
	p.section("SEE ALSO")
	p.text("revolve(1), revolve-config(1), revolve-agent(1)")
	return p.b.String(), nil
}

// exampleConfig is read by a test: an example that does not pass the check is worse than none.
const exampleConfig = `cluster: homelab
nodes:
  a: { links: { lan: 10.77.0.11, fast: 10.78.0.11 }, priority: 110 }
  b: { links: { lan: 10.77.0.12, fast: 10.78.0.12 } }
  c: { links: { lan: 10.77.0.13 } }
vips:
  - { address: 10.77.0.200/24, link: lan }
volumes:
  home: { path: /srv/home, exclude: ["*.tmp"] }
`

// keys writes an item for every key at or below a place.
func (p *roff) keys(at string, s keySchema) {
	for _, k := range s.Properties {
		name := strings.TrimPrefix(at+"."+k.name, ".")
		p.item(name, meaningOf(k.keySchema, s.Required, k.name))
		p.below(name, k.keySchema)
	}
}

// below goes on with what a key holds: an object, a list of them, or a map of them by name.
func (p *roff) below(name string, s keySchema) {
	p.keys(name, s)
	for _, way := range append(s.AnyOf, s.OneOf...) {
		p.below(name, way)
	}
	if s.Items != nil {
		p.keys(name+"[]", *s.Items)
	}
	var each keySchema
	if len(s.Additional) > 0 && s.Additional[0] == '{' && json.Unmarshal(s.Additional, &each) == nil {
		p.keys(name+".NAME", each)
	}
}

func meaningOf(s keySchema, required []string, name string) string {
	parts := []string{s.Description}
	if len(s.Enum) > 0 {
		var words []string
		for _, w := range s.Enum {
			words = append(words, fmt.Sprint(w))
		}
		parts = append(parts, "One of "+strings.Join(words, ", ")+".")
	}
	if s.Minimum != nil && s.Maximum != nil {
		parts = append(parts, fmt.Sprintf("From %v to %v.", *s.Minimum, *s.Maximum))
	}
	if len(s.Default) > 0 {
		parts = append(parts, "Default: "+strings.Trim(string(s.Default), `"`)+".")
	}
	for _, r := range required {
		if r == name {
			parts = append(parts, "Required.")
		}
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}
