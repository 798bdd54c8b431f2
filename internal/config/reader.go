package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// reader fills a document from the syntax tree by reflection. The library's own
// decoder stops at the first error and forgets positions; here every error is
// kept, and every value's line stays known for the checks that follow.
//
// A place is the path of a value in the file: "nodes.a.links.lan", "vips[0].link".
type reader struct {
	file     string
	mistakes []Mistake
	lines    map[string]int      // place -> line of its key or element
	order    map[string][]string // place of a mapping -> its keys in file order
	bad      map[string]bool     // places whose value has the wrong type
}

// shortForm marks the place of a mapping that was written as its first value alone.
const shortForm = " (short)"

func newReader(file string) *reader {
	return &reader{file: file, lines: map[string]int{}, order: map[string][]string{}, bad: map[string]bool{}}
}

// read parses data into doc. It reports whether there is a document to check further.
func (r *reader) read(data []byte, doc *document) bool {
	if hint := unparsable(data); hint != "" {
		r.addLine(1, "this is not a configuration file", hint)
		return false
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		line, what := 1, err.Error()
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) {
			what = syntax.Message
			if syntax.Token != nil && syntax.Token.Position != nil {
				line = syntax.Token.Position.Line
			}
		}
		r.addLine(line, "not valid YAML: "+firstLine(what), "correct this first; nothing after it was checked")
		return false
	}
	var bodies []ast.Node
	for _, d := range file.Docs {
		if d != nil && d.Body != nil && d.Body.Type() != ast.CommentType {
			bodies = append(bodies, d.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		r.addLine(1, "the file is empty", `begin with "cluster: NAME"; see docs/configuration.md`)
		return false
	case len(bodies) > 1:
		r.addLine(lineOf(bodies[1]), "a second document begins here", `remove the "---"; one file is one configuration`)
	}
	r.value(bodies[0], reflect.ValueOf(doc).Elem(), "")
	return !r.bad[""]
}

// value reads node into v, which has the place.
func (r *reader) value(node ast.Node, v reflect.Value, place string) {
	switch n := node.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		r.wrong(place, node, "anchors, aliases and tags are not read", "write the value out")
		return
	case *ast.NullNode:
		r.wrong(place, node, quotePlace(place)+" has no value", "remove the key or give it "+wants(v.Type()))
		return
	case *ast.MappingValueNode: // a mapping with a single key, in older trees
		node = &ast.MappingNode{BaseNode: n.BaseNode, Start: n.Start, Values: []*ast.MappingValueNode{n}}
	}
	if _, text := node.(*ast.StringNode); text && v.Type() == reflect.TypeFor[trashDocument]() {
		r.lines[place+shortForm] = r.lineAt(place)
		v = v.FieldByName("Age")
	}
	if _, text := node.(*ast.StringNode); text && v.Type() == reflect.TypeFor[[]groupText]() { // one may be written without brackets
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		v = v.Index(0)
	}
	switch v.Kind() {
	case reflect.Struct, reflect.Map:
		m, ok := node.(*ast.MappingNode)
		if !ok {
			r.mismatch(place, node, v.Type())
			return
		}
		r.mapping(m, v, place)
	case reflect.Slice:
		s, ok := node.(*ast.SequenceNode)
		if !ok {
			r.mismatch(place, node, v.Type())
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
		for i, item := range s.Values {
			at := fmt.Sprintf("%s[%d]", place, i)
			r.lines[at] = lineOf(item)
			r.value(item, v.Index(i), at)
		}
	default:
		if !scalar(node, v) {
			r.mismatch(place, node, v.Type())
		}
	}
}

// mapping reads a YAML mapping into a struct (known keys) or a map (any key).
func (r *reader) mapping(m *ast.MappingNode, v reflect.Value, place string) {
	if v.Kind() == reflect.Map {
		v.Set(reflect.MakeMap(v.Type()))
	}
	first := map[string]int{}
	for _, entry := range m.Values {
		key, line := keyText(entry.Key), lineOf(entry.Key)
		at := join(place, key)
		if entry.Key.IsMergeKey() {
			r.addLine(line, `merge keys ("<<") are not read`, "write the values out")
			continue
		}
		if was, dup := first[key]; dup {
			r.addLine(line, fmt.Sprintf("duplicate key %q%s, first on line %d", key, in(place), was), "remove one of the two")
			continue
		}
		first[key] = line
		if v.Kind() == reflect.Map {
			r.lines[at] = line
			r.order[place] = append(r.order[place], key)
			item := reflect.New(v.Type().Elem()).Elem()
			r.value(entry.Value, item, at)
			v.SetMapIndex(reflect.ValueOf(key), item)
			continue
		}
		field, known := fieldByKey(v, key)
		if !known {
			r.addLine(line, fmt.Sprintf("unknown key %q%s", key, in(place)), didYouMean(key, keysOf(v.Type())))
			continue
		}
		r.lines[at] = line
		r.value(entry.Value, field, at)
	}
	r.required(v, place, first, m)
}

// required reports the keys without which a mapping means nothing.
func (r *reader) required(v reflect.Value, place string, have map[string]int, m *ast.MappingNode) {
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		name, optional, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if optional != "" {
			continue
		}
		if _, ok := have[name]; ok {
			continue
		}
		line := r.lineAt(place)
		if place == "" {
			line = lineOf(m)
		}
		r.addLine(line, fmt.Sprintf("key %q is missing%s", name, in(place)), "add it: "+wants(v.Field(i).Type()))
	}
}

// scalar sets v from a scalar node of the right type.
func scalar(node ast.Node, v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		switch n := node.(type) {
		case *ast.StringNode:
			v.SetString(n.Value)
			return true
		case *ast.LiteralNode:
			v.SetString(n.Value.Value)
			return true
		}
	case reflect.Bool:
		if n, ok := node.(*ast.BoolNode); ok {
			v.SetBool(n.Value)
			return true
		}
	case reflect.Int:
		if n, ok := node.(*ast.IntegerNode); ok {
			switch i := n.Value.(type) {
			case int64:
				v.SetInt(i)
				return true
			case uint64:
				if i <= 1<<62 {
					v.SetInt(int64(i))
					return true
				}
			}
		}
	}
	return false
}

// mismatch reports a value of the wrong type.
func (r *reader) mismatch(place string, node ast.Node, want reflect.Type) {
	hint := "write " + wants(want)
	if _, isInt := node.(*ast.IntegerNode); isInt && want.Kind() == reflect.String {
		hint = "put it in quotes, or write " + wants(want)
	}
	what := fmt.Sprintf("%s is %s, not %s", quotePlace(place), has(node), kindWord(want))
	r.wrong(place, node, what, hint)
}

// wrong reports a mistake about a value that is then not checked any further.
func (r *reader) wrong(place string, node ast.Node, what, hint string) {
	r.bad[place] = true
	line := r.lines[place]
	if line == 0 {
		line = lineOf(node)
	}
	r.addLine(line, what, hint)
}

func (r *reader) addLine(line int, what, hint string) {
	r.mistakes = append(r.mistakes, Mistake{File: r.file, Line: max(line, 1), What: what, Hint: hint})
}

// add reports a mistake about the value at place.
func (r *reader) add(place, what, hint string) { r.addLine(r.lineAt(place), what, hint) }

// lineAt is the line of the place, or of the nearest place around it.
func (r *reader) lineAt(place string) int {
	for place != "" {
		if line, ok := r.lines[place]; ok {
			return line
		}
		place = place[:max(strings.LastIndexAny(place, ".["), 0)]
	}
	return 1
}

// ok reports whether the file has a value of the right type at place.
func (r *reader) ok(place string) bool {
	_, there := r.lines[place]
	return there && !r.bad[place]
}
