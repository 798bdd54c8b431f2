package config

// powerMistakes are about how nodes are woken.
func powerMistakes() []mistake {
	with := func(power string) string { return "candidate: false, power: { mode: on-demand, " + power + " }" }
	return []mistake{
		{"woken twice", "candidate: false", with(`wake: "02:00:00:00:00:0b", on: x`), ":6: wake and on both say how it is woken; keep one of them", false},
		{"woken by nothing", "candidate: false", with(`on: " "`), ":6: nodes.c.power.on is empty; write a command", false},
		{"wake", "candidate: false", with("wake: b"), `:6: "b" is not a MAC address; write it as`, true},
		{"wake of everybody", "candidate: false", with(`wake: "ff:ff:ff:ff:ff:ff"`), `:6: "ff:ff:ff:ff:ff:ff" is the address of no single card; write that of`, false},
		{"wake of nobody", "candidate: false", with(`wake: "00:00:00:00:00:00"`), `:6: "00:00:00:00:00:00" is the address of no single card; write that of`, false},
		{"ipmi by name", "candidate: false", with("ipmi: { address: bmc.lan, user: u, password_file: /p }"), `:6: "bmc.lan" is not an address; write a literal address`, true},
		{"ipmi without a password", "candidate: false", with("ipmi: { address: 10.77.1.12, user: u }"), `:6: key "password_file" is missing in nodes.c.power.ipmi`, true},
		{"ipmi user", "candidate: false", with("ipmi: { address: 10.77.1.12, user: a-user-that-is-too-long, password_file: /p }"), `:6: "a-user-that-is-too-long" is no user`, false},
		{"ipmi password", "candidate: false", with("ipmi: { address: 10.77.1.12, user: u, password_file: p }"), `:6: path "p" is not absolute`, true},
	}
}
