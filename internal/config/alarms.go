package config

import (
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strings"
	"time"
)

// MaxAlarms bounds the places that alarms go to: each is a connection for each message.
const MaxAlarms = 16

const (
	// DefaultBeat is how often a dead-man's switch hears from us: its grace should be a few times as long.
	DefaultBeat = time.Minute
	minBeat     = 10 * time.Second
	maxBeat     = 10 * time.Minute
	maxMails    = 16 // addresses of one mail
)

// The kinds of places that alarms go to.
const (
	AlarmDiscord      = "discord"
	AlarmWebhook      = "webhook"
	AlarmNtfy         = "ntfy"
	AlarmEmail        = "email"
	AlarmAlertmanager = "alertmanager"
	AlarmHeartbeat    = "heartbeat" // a dead-man's switch, which alarms by itself when it hears nothing
)

// How a mail server is spoken to, and how a dead-man's switch is.
const (
	MailSTARTTLS = "starttls"
	MailTLS      = "tls"
	MailPlain    = "none"

	DialectHealthchecks = "healthchecks"
	DialectKuma         = "uptime-kuma"
)

// Alarm is one place that alarms go to.
type Alarm struct {
	Kind string
	Name string // the kind; with a number from the second of its kind on

	URL       string // either the one
	URLFile   string // or the file with the other
	TokenFile string // a bearer token, "" for none

	Server, From, User, PasswordFile, TLS, CAFile string // AlarmEmail
	To                                            []string

	Dialect string // AlarmHeartbeat
	Every   time.Duration
}

type (
	urlText     string
	mailText    string
	serverText  string
	tlsText     string
	dialectText string
)

type alarmDocument struct {
	Discord      discordDocument   `json:"discord,omitzero" jsonschema:"A webhook of a Discord channel; its message is edited when the alarm is over."`
	Webhook      placeDocument     `json:"webhook,omitzero" jsonschema:"Any address that takes JSON by POST."`
	Ntfy         placeDocument     `json:"ntfy,omitzero" jsonschema:"A topic of ntfy: https://ntfy.sh/TOPIC."`
	Email        emailDocument     `json:"email,omitzero" jsonschema:"Mail, over a mail server."`
	Alertmanager placeDocument     `json:"alertmanager,omitzero" jsonschema:"An Alertmanager of Prometheus (API v2), which groups and repeats by itself: http://HOST:9093."`
	Heartbeat    heartbeatDocument `json:"heartbeat,omitzero" jsonschema:"A dead-man's switch outside, which alarms by itself when it hears nothing."`
}

type discordDocument struct {
	URLFile pathText `json:"url_file" jsonschema:"The file with the webhook's URL; only the agent's user may read it (chmod 600)."`
}

type placeDocument struct {
	URL       urlText  `json:"url,omitempty" jsonschema:"Where it is, if nobody needs to hide it."`
	URLFile   pathText `json:"url_file,omitempty" jsonschema:"Or the file with the URL; only the agent's user may read it (chmod 600)."`
	TokenFile pathText `json:"token_file,omitempty" jsonschema:"The file with a token that is sent along (Authorization: Bearer)."`
}

type emailDocument struct {
	Server       serverText `json:"server" jsonschema:"The mail server: mail.example.org:587."`
	From         mailText   `json:"from" jsonschema:"The sender's address."`
	To           []mailText `json:"to" jsonschema:"Who gets it."`
	User         string     `json:"user,omitempty" jsonschema:"Whom to log in as."`
	PasswordFile pathText   `json:"password_file,omitempty" jsonschema:"The file with the password; only the agent's user may read it (chmod 600)."`
	TLS          tlsText    `json:"tls,omitempty" jsonschema:"starttls (port 587), tls from the first byte (port 465), or none, which goes without a password only."`
	CAFile       pathText   `json:"ca_file,omitempty" jsonschema:"The certificate of whoever signed the server's, if the system does not know it."`
}

type heartbeatDocument struct {
	URL     urlText     `json:"url,omitempty" jsonschema:"Where it is, if nobody needs to hide it."`
	URLFile pathText    `json:"url_file,omitempty" jsonschema:"Or the file with the URL; only the agent's user may read it (chmod 600)."`
	Dialect dialectText `json:"dialect,omitempty" jsonschema:"healthchecks: the ping URL of Healthchecks; uptime-kuma: the push URL of Uptime Kuma."`
	Every   spanText    `json:"every,omitempty" jsonschema:"Between two heartbeats: 10s to 10m."`
}

type alarmTestDocument struct {
	Window windowText `json:"window" jsonschema:"When a test alarm goes to all places, once in every opening, in the speaking node's local time: Mon 09:00-10:00."`
}

// alarms reads where alarms go.
func (c *checker) alarms(cfg *Config) {
	if at := "alarm_test.window"; c.ok(at) {
		cfg.AlarmTest = c.window(at, string(c.doc.AlarmTest.Window))
		if len(c.doc.Alarms) == 0 {
			c.warn(at, at+" has no effect without alarms", "say under alarms: where they go")
		}
	}
	if !c.ok("alarms") {
		return
	}
	c.count("alarms", "places for alarms", len(c.doc.Alarms), MaxAlarms)
	number := map[string]int{}
	for i := range c.doc.Alarms {
		place := fmt.Sprintf("alarms[%d]", i)
		if !c.ok(place) {
			continue
		}
		for _, a := range c.alarm(place, &c.doc.Alarms[i]) {
			number[a.Kind]++
			if a.Name = a.Kind; number[a.Kind] > 1 {
				a.Name = fmt.Sprintf("%s-%d", a.Kind, number[a.Kind])
			}
			cfg.Alarms = append(cfg.Alarms, a)
		}
	}
}

// alarm reads one element, which should be of one kind.
func (c *checker) alarm(place string, d *alarmDocument) (list []Alarm) {
	if at := join(place, AlarmDiscord); c.there(at) {
		list = append(list, Alarm{Kind: AlarmDiscord, URLFile: c.fileAt(join(at, "url_file"), d.Discord.URLFile)})
	}
	for kind, p := range map[string]placeDocument{AlarmWebhook: d.Webhook, AlarmNtfy: d.Ntfy, AlarmAlertmanager: d.Alertmanager} {
		if at := join(place, kind); c.ok(at) {
			a := Alarm{Kind: kind, TokenFile: c.fileAt(join(at, "token_file"), p.TokenFile)}
			a.URL, a.URLFile = c.place(at, p.URL, p.URLFile)
			list = append(list, a)
		}
	}
	if at := join(place, AlarmEmail); c.ok(at) {
		list = append(list, c.email(at, &d.Email))
	}
	if at := join(place, AlarmHeartbeat); c.ok(at) {
		a := Alarm{Kind: AlarmHeartbeat, Dialect: DialectHealthchecks, Every: DefaultBeat}
		a.URL, a.URLFile = c.place(at, d.Heartbeat.URL, d.Heartbeat.URLFile)
		if at := join(at, "dialect"); c.ok(at) {
			a.Dialect = string(d.Heartbeat.Dialect)
			c.oneOf(at, a.Dialect, DialectHealthchecks, DialectKuma)
		}
		c.span(join(at, "every"), string(d.Heartbeat.Every), &a.Every, minBeat, maxBeat)
		list = append(list, a)
	}
	if n := len(c.kindsIn(place)); n != 1 && !c.bad[place] {
		c.add(place, fmt.Sprintf("%s names %d places", place, n), "each element is one: - { discord: { url_file: /etc/revolve/discord.url } }")
	}
	return list
}

// kindsIn are the kinds that an element names, right or wrong.
func (c *checker) kindsIn(place string) (kinds []string) {
	for _, k := range []string{AlarmDiscord, AlarmWebhook, AlarmNtfy, AlarmEmail, AlarmAlertmanager, AlarmHeartbeat} {
		if c.there(join(place, k)) {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

func (c *checker) fileAt(at string, path pathText) string {
	if c.ok(at) && c.path(at, string(path)) {
		return string(path)
	}
	return ""
}

// place reads a URL, or the file with one.
func (c *checker) place(at string, text urlText, file pathText) (string, string) {
	one, other := c.there(join(at, "url")), c.there(join(at, "url_file"))
	if one == other {
		c.add(at, at+" needs url or url_file, and not both", "url_file: /etc/revolve/NAME.url keeps a URL that is a secret out of this file")
		return "", ""
	}
	if at := join(at, "url"); c.ok(at) {
		u, err := url.Parse(string(text))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			c.add(at, fmt.Sprintf("%q is not the address of a place", text), "write https://HOST/PATH")
		}
		if err == nil && u.User != nil {
			c.add(at, "the URL has a password in it", "write it into a file, and name that: url_file")
		}
	}
	return string(text), c.fileAt(join(at, "url_file"), file)
}

func (c *checker) email(at string, d *emailDocument) Alarm {
	a := Alarm{Kind: AlarmEmail, TLS: MailSTARTTLS, User: d.User, Server: string(d.Server), From: string(d.From),
		PasswordFile: c.fileAt(join(at, "password_file"), d.PasswordFile), CAFile: c.fileAt(join(at, "ca_file"), d.CAFile)}
	if at := join(at, "server"); c.ok(at) {
		if host, port, err := net.SplitHostPort(a.Server); err != nil || host == "" || port == "" {
			c.add(at, fmt.Sprintf("%q is not a mail server", a.Server), "write it with its port: mail.example.org:587")
		}
	}
	if at := join(at, "from"); c.ok(at) {
		c.mailAddress(at, a.From)
	}
	if at := join(at, "to"); c.ok(at) {
		if n := len(d.To); n < 1 || n > maxMails {
			c.add(at, fmt.Sprintf("%d addresses", n), fmt.Sprintf("name 1 to %d", maxMails))
		}
		for i, to := range d.To {
			c.mailAddress(fmt.Sprintf("%s[%d]", at, i), string(to))
			a.To = append(a.To, string(to))
		}
	}
	if at := join(at, "tls"); c.ok(at) {
		a.TLS = string(d.TLS)
		c.oneOf(at, a.TLS, MailSTARTTLS, MailTLS, MailPlain)
	}
	if (a.User == "") == c.there(join(at, "password_file")) {
		c.add(at, "user and password_file go together", "name both, or neither")
	} else if a.User != "" && a.TLS == MailPlain {
		c.add(join(at, "tls"), "without TLS no password is sent", "use starttls or tls, or remove user and password_file")
	}
	return a
}

// mailAddress wants an address alone: a name beside it would go into the protocol.
func (c *checker) mailAddress(at, text string) {
	if a, err := mail.ParseAddress(text); (err != nil || a.Address != text || strings.ContainsAny(text, "\r\n<> ")) && !c.bad[at] {
		c.add(at, fmt.Sprintf("%q is not a mail address", text), "write it alone: name@example.org")
	}
}
