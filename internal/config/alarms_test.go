package config

// alarmMistakes are those about where alarms go.
func alarmMistakes() []mistake {
	return []mistake{
		{"alarm of two kinds", "failover:", "alarms: [ { ntfy: { url: https://ntfy.sh/x }, discord: { url_file: /d } } ]\nfailover:", "alarms[0] names 2 places", true},
		{"alarm of none", "failover:", "alarms: [ {} ]\nfailover:", "alarms[0] names 0 places", true},
		{"alarm without place", "failover:", "alarms: [ { webhook: {} } ]\nfailover:", "alarms[0].webhook needs url or url_file", false},
		{"alarm with password", "failover:", "alarms: [ { webhook: { url: \"https://me:secret@example.org/\" } } ]\nfailover:", "the URL has a password in it", false},
		{"alarm to no URL", "failover:", "alarms: [ { ntfy: { url: ntfy.sh } } ]\nfailover:", "is not the address of a place", true},
		{"mail without password", "failover:", "alarms: [ { email: { server: \"m:587\", from: a@b, to: [ c@d ], user: me } } ]\nfailover:", "user and password_file go together", false},
		{"mail in clear", "failover:", "alarms: [ { email: { server: \"m:25\", from: a@b, to: [ c@d ], user: me, password_file: /p, tls: none } } ]\nfailover:", "without TLS no password is sent", false},
		{"mail to nobody", "failover:", "alarms: [ { email: { server: \"m:25\", from: a@b, to: [] } } ]\nfailover:", "0 addresses", true},
		{"mail with a name", "failover:", "alarms: [ { email: { server: \"m:25\", from: \"Me <a@b>\", to: [ c@d ] } } ]\nfailover:", "is not a mail address", true},
		{"mail server", "failover:", "alarms: [ { email: { server: m, from: a@b, to: [ c@d ] } } ]\nfailover:", "is not a mail server", true},
		{"heartbeat", "failover:", "alarms: [ { heartbeat: { url: https://h/x, dialect: morse } } ]\nfailover:", "alarms[0].heartbeat.dialect is", true},
		{"heartbeat too often", "failover:", "alarms: [ { heartbeat: { url: https://h/x, every: 1s } } ]\nfailover:", "1s is out of range", false},
		{"alarm test", "failover:", "alarm_test: { window: never }\nfailover:", `"never" is not a window`, true},
		{"alarm", "failover:", "alarms: [ { discord: { url: x } } ]\nfailover:", `key "url_file" is missing in alarms[0].discord`, true},
	}
}
