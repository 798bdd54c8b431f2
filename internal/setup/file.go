package setup

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"revolve/internal/config"
)

// firstPriority makes the node that writes the file the first master: it is where the files are.
const firstPriority = config.DefaultPriority + 10

// File is the configuration, with a comment for every key. What was not asked for stands there with its
// default, as a line that begins with # and no space: without the # it is in force.
func (a *Answers) File() string {
	k := &keys{}
	if err := json.Unmarshal(config.Schema(), &k.schema); err != nil {
		panic("setup: the schema cannot be read: " + err.Error()) // a test runs this
	}
	k.line(0, "# The configuration of the cluster "+a.Cluster+", the same on all nodes. Made by revolve init on "+a.Node+".")
	k.line(0, "# Mistakes: revolve config check FILE. All keys: man revolve.yaml. Once the nodes run, change a copy of what revolve config show prints, and: revolve config apply FILE")
	k.says("cluster").key(0, "cluster: "+quotedName(a.Cluster))
	k.says("port").key(0, "#port: "+k.standard("port"))
	a.nodes(k)
	k.says("vips").says("vips", "address").key(0, "vips:")
	k.line(1, fmt.Sprintf("- { address: %q, link: %s }", a.VIP, link))
	a.volume(k)
	k.says("failover").says("failover", "profile").says("failover", "isolation")
	k.key(0, fmt.Sprintf("#failover: { profile: %s, isolation: %s }", k.standard("failover", "profile"), k.standard("failover", "isolation")))
	k.says("services").key(0, `#services: { dns: { unit: named.service, check: "dns://127.0.0.1:53/www.example.lan", required: true } }`)
	k.says("web").key(0, `#web: { listen: [ ":8480" ] }`)
	k.says("alarms").key(0, `#alarms: [ { discord: { url_file: /etc/revolve/discord.url } } ]`)
	k.says("vms").key(0, "#vms: { NAME: { critical: true, keep: { last: 3, weekly: 4 } } }")
	k.says("vm_storage").key(0, "#vm_storage: "+config.DefaultVMStorage)
	return strings.Join(k.lines, "\n") + "\n"
}

func (a *Answers) nodes(k *keys) {
	k.says("nodes").says("nodes", "links").says("nodes", "priority").key(0, "nodes:")
	k.line(1, fmt.Sprintf("%s: { links: { %s: %s }, priority: %d } # this machine, on %s: your files are here, so it leads first; the others have %s", quotedName(a.Node), link, quoted(a.Address.Addr().String()), firstPriority, a.Card, k.standard("nodes", "priority")))
	for _, o := range a.Others {
		k.line(1, fmt.Sprintf("%s: { links: { %s: %s } }", quotedName(o.Name), link, quoted(o.Addr.String())))
	}
}

func (a *Answers) volume(k *keys) {
	k.says("volumes").key(0, "volumes:")
	k.line(1, quotedName(a.Volume)+":")
	k.says("volumes", "path").key(2, "path: "+quoted(a.Path))
	k.says("volumes", "exclude").key(2, `#exclude: ["*.tmp"]`)
	k.says("volumes", "trash").key(2, "#trash: "+k.standard("volumes", "trash"))
	k.says("volumes", "sync").key(2, "#sync: "+k.standard("volumes", "sync"))
}

// quoted is a text of any characters as YAML reads it: JSON is YAML.
func quoted(text string) string {
	if regexp.MustCompile(`^[/a-zA-Z0-9][/a-zA-Z0-9._-]*$`).MatchString(text) && !regexp.MustCompile(`^[0-9._-]+$`).MatchString(text) && !isWord(text) || regexp.MustCompile(`^[0-9]+(\.[0-9]+){3}$`).MatchString(text) {
		return text
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string always can be
	return strings.TrimSpace(b.String())
}

// quotedName is a name: with quotes where YAML would take it for a number or a truth value.
func quotedName(name string) string {
	if c := name[0]; c < 'a' || c > 'z' || isWord(name) {
		return `"` + name + `"`
	}
	return name
}

// isWord: YAML 1.1 and 1.2 read these as something else than text.
func isWord(text string) bool {
	return slices.Contains([]string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}, strings.ToLower(text))
}

// keys is the file in the making. What it says of a key, and its default, are the schema's.
type keys struct {
	schema part
	lines  []string
	said   []string // comments of the key that comes
}

// part is what is needed of a JSON Schema.
type part struct {
	Description string          `json:"description"`
	Default     json.RawMessage `json:"default"`
	Properties  map[string]part `json:"properties"`
	Items       *part           `json:"items"`
	Additional  json.RawMessage `json:"additionalProperties"`
}

// of is a key: names that a person gives (nodes, volumes) and places in lists are passed over.
func (k *keys) of(path ...string) part {
	at := k.schema
	for _, name := range path {
		var each part
		switch {
		case at.Items != nil:
			at = *at.Items
		case len(at.Properties) == 0 && json.Unmarshal(at.Additional, &each) == nil:
			at = each
		}
		next, ok := at.Properties[name]
		if !ok {
			panic("setup: the configuration has no key " + strings.Join(path, ".")) // a test writes the file
		}
		at = next
	}
	return at
}

// standard is the default of a key as it is written.
func (k *keys) standard(path ...string) string {
	text := string(k.of(path...).Default)
	if text == "" {
		panic("setup: there is no default of " + strings.Join(path, ".")) // a test writes the file
	}
	return strings.Trim(text, `"`)
}

// says adds what the schema says of a key to the comments of the next line; of a key inside it with its name.
func (k *keys) says(path ...string) *keys {
	text := k.of(path...).Description
	if len(path) > 1 && len(k.said) > 0 {
		text = path[len(path)-1] + ": " + text
	}
	k.said = append(k.said, "# "+text)
	return k
}

// key adds a line below its comments.
func (k *keys) key(depth int, line string) {
	if depth == 0 {
		k.line(0, "")
	}
	for _, c := range append(k.said, line) {
		k.line(depth, c)
	}
	k.said = nil
}

func (k *keys) line(depth int, text string) {
	if text != "" {
		text = strings.Repeat("  ", depth) + text
	}
	k.lines = append(k.lines, text)
}
