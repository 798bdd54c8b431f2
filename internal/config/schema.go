package config

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"

	"github.com/google/jsonschema-go/jsonschema"

	"revolve/internal/calendar"
)

// Schema is the JSON Schema (2020-12) of the file, as published in
// docs/config.schema.json. It says what a value looks like; what contradicts
// what (an unknown link, a nested volume) only Parse finds.
func Schema() []byte {
	text := func(form string) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Pattern: form} }
	shortest := len("7d") // durationForm alone would accept nothing at all
	words := func(def string, w ...any) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Enum: w, Default: json.RawMessage(`"` + def + `"`)}
	}
	s, err := jsonschema.For[document](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[nameText]():     text(nameForm),
		reflect.TypeFor[addrText]():     text(`^[0-9A-Fa-f:.]+$`),
		reflect.TypeFor[prefixText]():   text(`^[0-9A-Fa-f:.]+/[0-9]{1,3}$`),
		reflect.TypeFor[pathText]():     text(`^/.`),
		reflect.TypeFor[patternText]():  text(`^[^/]`),
		reflect.TypeFor[durationText](): {Type: "string", Pattern: durationForm, MinLength: &shortest},
		reflect.TypeFor[quotaText]():    text(quotaForm),
		reflect.TypeFor[macText]():      text(macForm),
		reflect.TypeFor[spanText]():     text(spanForm),
		reflect.TypeFor[checkText]():    text(checkForm),
		reflect.TypeFor[windowText]():   text(windowForm),
		reflect.TypeFor[rateText]():     text(rateForm),
		reflect.TypeFor[whenText]():     text(calendar.Form),
		reflect.TypeFor[missedText]():   words(MissedSoon, MissedSoon, MissedWait),
		reflect.TypeFor[engineText]():   words(EngineBuiltin, EngineBuiltin, EngineExternal),
		reflect.TypeFor[profileText]():  words(ProfileDefault, ProfileDefault, ProfileFast, ProfilePatient),
		reflect.TypeFor[syncText]():     words(SyncGroup, SyncGroup, SyncFull),
		reflect.TypeFor[levelText]():    words(ConsistencySuspend, ConsistencyLive, ConsistencySuspend, ConsistencyFreeze, ConsistencyShutdown),
		reflect.TypeFor[policyText]():   words(IsolationKeep, IsolationKeep, IsolationRelease),
		reflect.TypeFor[hostText]():     text(`^[0-9A-Fa-f:.\[\]]+$`),
		reflect.TypeFor[neighborText](): text(`^[0-9A-Fa-f:.]+$`),
		reflect.TypeFor[listenText]():   text(listenForm),
		reflect.TypeFor[siteText]():     text(siteForm),
		reflect.TypeFor[urlText]():      text(`^https?://.`),
		reflect.TypeFor[mailText]():     text(`^[^@<>\s]+@[^@<>\s]+$`),
		reflect.TypeFor[serverText]():   text(`^.+:[0-9]{1,5}$`),
		reflect.TypeFor[tlsText]():      words(MailSTARTTLS, MailSTARTTLS, MailTLS, MailPlain),
		reflect.TypeFor[dialectText]():  words(DialectHealthchecks, DialectHealthchecks, DialectKuma),
		reflect.TypeFor[sourceText]():   words(SourceCluster, SourceCluster, SourceFile),
		reflect.TypeFor[modeText]():     words(PowerAlways, PowerAlways, PowerOnDemand),
	}})
	if err != nil {
		panic("config: the document types have no schema: " + err.Error()) // a test runs this
	}
	limit(s, shortest)
	out, err := json.Marshal(s)
	if err != nil {
		panic("config: the schema cannot be written: " + err.Error())
	}
	var b bytes.Buffer
	if err := json.Indent(&b, out, "", "  "); err != nil {
		panic("config: the schema cannot be indented: " + err.Error())
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// limit adds what Go types cannot say: sizes, ranges, defaults, the form of keys.
func limit(s *jsonschema.Schema, shortest int) {
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "Revolve configuration"
	between := func(p *jsonschema.Schema, low, high float64, def string) {
		p.Minimum, p.Maximum, p.Default = &low, &high, json.RawMessage(def)
	}
	names := func(p *jsonschema.Schema, low, high int) {
		p.PropertyNames = &jsonschema.Schema{Pattern: nameForm}
		p.MinProperties, p.MaxProperties = &low, &high
	}
	// A nil map or list of Go is "null" in JSON, but a key without a value is a
	// mistake in the file.
	notNull(s)
	p := s.Properties
	between(p["port"], 1, 65535, "7373")
	names(p["nodes"], 1, MaxNodes)
	maxVIPs := MaxVIPs
	p["vips"].MaxItems = &maxVIPs
	maxReferences := MaxReferences
	p["failover"].Properties["reference"].MaxItems = &maxReferences
	minListen, maxListen, maxSites := 1, MaxListen, MaxSites
	p["web"].Properties["listen"].MinItems, p["web"].Properties["listen"].MaxItems = &minListen, &maxListen
	p["web"].Properties["names"].MaxItems = &maxSites
	names(p["volumes"], 0, MaxVolumes)
	names(p["services"], 0, MaxServices)
	names(p["bandwidth"], 0, MaxLinks*MaxNodes)
	maxRates := maxRateWindows
	p["bandwidth"].AdditionalProperties.Properties["windows"].MaxItems = &maxRates
	service := p["services"].AdditionalProperties.Properties
	between(service["status"], minStatus, maxStatus, "0")
	service["status"].Default = nil
	between(service["rise"], 1, maxCount, strconv.Itoa(DefaultRise))
	between(service["fall"], 1, maxCount, strconv.Itoa(DefaultFall))
	service["interval"].Default = json.RawMessage(`"` + DefaultInterval.String() + `"`)
	service["timeout"].Default = json.RawMessage(`"` + DefaultTimeout.String() + `"`)
	service["required"].Default = json.RawMessage("false")
	limitAlarms(p["alarms"])
	names(p["schedules"], 0, maxSchedules)
	shortGroup(p["schedules"].AdditionalProperties.Properties)
	shortTrash(p["volumes"].AdditionalProperties.Properties, shortest)
	node := p["nodes"].AdditionalProperties.Properties
	names(node["links"], 1, MaxLinks)
	between(node["priority"], 0, maxPriority, "100")
	node["candidate"].Default = json.RawMessage("true")
}

func limitAlarms(p *jsonschema.Schema) {
	maxAlarms, one, maxTo := MaxAlarms, 1, maxMails
	p.MaxItems = &maxAlarms
	p.Items.MinProperties, p.Items.MaxProperties = &one, &one
	p.Items.Properties["email"].Properties["to"].MinItems, p.Items.Properties["email"].Properties["to"].MaxItems = &one, &maxTo
	p.Items.Properties["heartbeat"].Properties["every"].Default = json.RawMessage(`"1m"`)
}

// shortTrash lets the trash of a volume be written as its age alone.
func shortTrash(volume map[string]*jsonschema.Schema, shortest int) {
	long := *volume["trash"]
	short := &jsonschema.Schema{Type: "string", Pattern: durationForm, MinLength: &shortest}
	volume["trash"] = &jsonschema.Schema{Description: long.Description, Default: json.RawMessage(`"7d"`), AnyOf: []*jsonschema.Schema{short, &long}}
	long.Description = ""
	for key, def := range map[string]string{"age": "7d", "quota": "5%", "every": "10m"} {
		long.Properties[key].Default = json.RawMessage(`"` + def + `"`)
	}
}

// shortGroup lets the machines of a schedule be written as one word.
func shortGroup(schedule map[string]*jsonschema.Schema) {
	long := *schedule["vms"]
	schedule["vms"] = &jsonschema.Schema{Description: long.Description, Default: json.RawMessage(`"all"`), AnyOf: []*jsonschema.Schema{{Type: "string"}, &long}}
	long.Description = ""
}

// notNull removes "null" from the types of s and everything in it.
func notNull(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if len(s.Types) == 2 && s.Types[0] == "null" {
		s.Type, s.Types = s.Types[1], nil
	}
	for _, p := range s.Properties {
		notNull(p)
	}
	notNull(s.Items)
	notNull(s.AdditionalProperties)
}
