package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

// maxNesting is how many brackets the YAML library is trusted to recurse into;
// a configuration needs four, and a file of opening brackets alone would
// exhaust its stack.
const maxNesting = 64

// maxKeys is how many keys and items one line is trusted to have. The library's
// time grows with their square: a line of 500,000 keys took 170 s, 1,000 take 1 ms.
const maxKeys = 1000

// unparsable says why data should not be given to the YAML library at all, "" if it may.
func unparsable(data []byte) string {
	if len(data) > MaxBytes {
		return fmt.Sprintf("it has %d bytes, at most %d are read", len(data), MaxBytes)
	}
	if !utf8.Valid(data) {
		return "it is not UTF-8 text"
	}
	if i := bytes.IndexFunc(data, func(c rune) bool { return c < ' ' && c != '\n' && c != '\r' && c != '\t' }); i >= 0 {
		return fmt.Sprintf("it has a control character at byte %d", i)
	}
	depth, indent := 0, 0
	for _, line := range bytes.Split(data, []byte("\n")) {
		text := bytes.TrimLeft(line, " ")
		indent = len(line) - len(text)
		for _, c := range text {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(depth-1, 0)
			}
		}
		dashes := bytes.Count(text, []byte("- ")) + bytes.Count(text, []byte("? "))
		if bytes.Count(text, []byte(":"))+bytes.Count(text, []byte(",")) > maxKeys {
			return fmt.Sprintf("it has a line with more than %d colons and commas", maxKeys)
		}
		if depth > maxNesting || indent > 4*maxNesting || dashes > maxNesting {
			return fmt.Sprintf("it is nested more than %d deep", maxNesting)
		}
	}
	return ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func lineOf(node ast.Node) int {
	if node == nil {
		return 1
	}
	// The token of a block mapping is the colon of its first entry, which may
	// be on another line than the key's text only in "? key" style.
	if t := node.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

// keyText is a key as the person wrote it: a node may be called 1 or true.
func keyText(key ast.MapKeyNode) string {
	if s, ok := key.(*ast.StringNode); ok {
		return s.Value
	}
	if t := key.GetToken(); t != nil {
		return strings.TrimSpace(t.Value)
	}
	return ""
}

func join(place, key string) string {
	if place == "" {
		return key
	}
	return place + "." + key
}

// in says where, for a sentence; nothing at the top of the file.
func in(place string) string {
	if place == "" {
		return ""
	}
	return " in " + place
}

func quotePlace(place string) string {
	if place == "" {
		return "the file"
	}
	return place
}

// kindWord is a type in a person's words.
func kindWord(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	}
	return "text"
}

// wants is what to write for a value of type t, with an example where one helps.
func wants(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[nameText]():
		return "a name of lower-case letters, digits and dashes"
	case reflect.TypeFor[addrText]():
		return "an address such as 10.77.0.11"
	case reflect.TypeFor[hostText]():
		return "an address such as 10.77.0.250, or with a port 10.77.0.250:7374"
	case reflect.TypeFor[[]neighborText]():
		return "a list of addresses such as [ 10.77.0.1 ]"
	case reflect.TypeFor[prefixText]():
		return "an address with its length such as 10.77.0.200/24"
	case reflect.TypeFor[pathText]():
		return "an absolute path"
	case reflect.TypeFor[trashDocument]():
		return "a time such as 7d, 12h or 30m, or a mapping such as { age: 7d, quota: 5% }"
	case reflect.TypeFor[quotaText]():
		return "a share or a size such as 5% or 10GiB"
	case reflect.TypeFor[durationText]():
		return "a time such as 7d, 12h or 30m"
	case reflect.TypeFor[spanText]():
		return "a time such as 500ms, 2s or 1m"
	case reflect.TypeFor[windowText]():
		return `a window such as "Sun 03:00-05:00"`
	case reflect.TypeFor[whenText]():
		return `a time such as "Sun 03:00", "daily 22:00-06:00" or "every 15m"`
	case reflect.TypeFor[[]groupText]():
		return "all, critical, or a list of machines such as [ ad1, web ]"
	case reflect.TypeFor[rateText]():
		return "a rate such as 10MiB, or none"
	case reflect.TypeFor[map[string]bandwidthDocument]():
		return "a mapping such as { lan: { rate: 50MiB } }"
	case reflect.TypeFor[bandwidthDocument]():
		return "a mapping such as { rate: 50MiB }"
	case reflect.TypeFor[webDocument]():
		return `a mapping such as { listen: [ ":8480" ] }`
	case reflect.TypeFor[[]listenText]():
		return `a list such as [ ":8480" ]`
	case reflect.TypeFor[checkText]():
		return `a check such as "tcp://127.0.0.1:53"`
	case reflect.TypeFor[urlText]():
		return "an address such as https://ntfy.sh/TOPIC"
	case reflect.TypeFor[mailText]():
		return "an address such as name@example.org"
	case reflect.TypeFor[[]mailText]():
		return "a list of addresses such as [ name@example.org ]"
	case reflect.TypeFor[serverText]():
		return "a mail server with its port such as mail.example.org:587"
	case reflect.TypeFor[macText]():
		return `a MAC address such as "02:00:00:00:00:0b"`
	case reflect.TypeFor[map[string]addrText]():
		return "a mapping such as { lan: 10.77.0.11 }"
	case reflect.TypeFor[map[string]nodeDocument]():
		return "a mapping such as { a: { links: { lan: 10.77.0.11 } } }"
	case reflect.TypeFor[[]vipDocument]():
		return "a list such as [ { address: 10.77.0.200/24, link: lan } ]"
	}
	return kindWord(t)
}

// has is what a node is, in a person's words.
func has(node ast.Node) string {
	switch n := node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return fmt.Sprint(n.Value)
	case *ast.IntegerNode:
		return "the number " + n.Token.Value
	case *ast.FloatNode:
		return "the number " + n.Token.Value
	case *ast.StringNode:
		return fmt.Sprintf("the text %q", n.Value)
	case *ast.LiteralNode:
		return "text"
	}
	return "something else"
}

// fieldByKey is the field of a document struct that a key of the file means.
func fieldByKey(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); name == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func keysOf(t reflect.Type) []string {
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return keys
}

// didYouMean is a hint that names the nearest of the words, or all of them if
// none is near.
func didYouMean(got string, words []string) string {
	if len(words) == 0 {
		return ""
	}
	best, distance := "", 3 // one typo, or two letters swapped or forgotten
	for _, w := range words {
		if d := editDistance(strings.ToLower(got), w); d < distance && d < len(w) {
			best, distance = w, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "known here: " + strings.Join(words, ", ")
}

// editDistance is the number of letters to insert, remove or replace (Levenshtein).
func editDistance(a, b string) int {
	if len(a) > 64 { // no word of ours is near to it
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
