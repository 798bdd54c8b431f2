package config

// scheduleMistakes are about when machines are copied.
func scheduleMistakes() []mistake {
	return []mistake{
		{"schedule", "failover:", "schedules: { weekly: { when: Sunday } }\nfailover:", `:9: "Sunday" is not a time; write "Sun 03:00"`, true},
		{"schedule without a time", "failover:", "schedules: { weekly: { finish: 3h } }\nfailover:", `:9: key "when" is missing in schedules.weekly; add it: a time such as "Sun 03:00"`, true},
		{"schedule name", "failover:", "schedules: { Weekly: { when: \"Sun 03:00\" } }\nfailover:", `:9: "Weekly" is not a name`, true},
		{"schedule of nobody", "failover:", "vms: { ad1: {} }\nschedules: { weekly: { when: \"Sun 03:00\", vms: [ad2] } }\nfailover:", `:10: unknown machine "ad2"; did you mean "ad1"?`, false},
		{"schedule of one", "failover:", "vms: { ad1: {} }\nschedules: { weekly: { when: \"Sun 03:00\", vms: ad } }\nfailover:", `:10: unknown machine "ad"; did you mean "ad1"?`, false},
		{"schedule of a number", "failover:", "schedules: { weekly: { when: \"Sun 03:00\", vms: 3 } }\nfailover:", `:9: schedules.weekly.vms is the number 3, not a list; write all, critical, or a list of machines`, true},
		{"finish", "failover:", "schedules: { nightly: { when: \"daily 01:00\", finish: 25h } }\nfailover:", ":9: 25h is longer than from one run to the next; choose at most 1d", false},
		{"finish of minutes", "failover:", "schedules: { often: { when: every 15m, finish: 1h } }\nfailover:", ":9: 1h is longer than from one run to the next; choose at most 15m", false},
		{"finish twice", "failover:", "schedules: { nightly: { when: \"daily 01:00-03:00\", finish: 1h } }\nfailover:", `:9: "daily 01:00-03:00" says already when it is finished`, false},
		{"missed", "failover:", "schedules: { nightly: { when: \"daily 01:00\", missed: son } }\nfailover:", `:9: schedules.nightly.missed is "son"; did you mean "soon"?`, true},
	}
}
