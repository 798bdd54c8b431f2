package control

import (
	"encoding/json"
	"reflect"

	"github.com/google/jsonschema-go/jsonschema"

	"revolve/internal/problem"
)

// Schema is the JSON Schema (2020-12) of what `revolve status --json` answers,
// as published in docs/status.schema.json.
func Schema() ([]byte, error) {
	unknown := []any{Unknown}
	s, err := jsonschema.For[Status](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[Tri]():   {AnyOf: []*jsonschema.Schema{{Type: "boolean"}, {Enum: unknown}}},
		reflect.TypeFor[Count](): {AnyOf: []*jsonschema.Schema{{Type: "integer"}, {Enum: unknown}}},
	}})
	if err != nil {
		return nil, &problem.Problem{Op: "make status schema", Kind: problem.Internal, Err: err}
	}
	s.Schema, s.Title = "https://json-schema.org/draft/2020-12/schema", "revolve status --json"
	s.Description = "It only ever gains fields. What is not known says unknown."
	s.Properties["verdict"].Enum = []any{OK, Unknown, Warning, Critical}
	open(s)
	out, err := json.MarshalIndent(s, "", "  ")
	return append(out, '\n'), err
}

// open lets later versions add fields.
func open(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	s.AdditionalProperties = nil
	for _, p := range s.Properties {
		open(p)
	}
	open(s.Items)
}
