package config

import (
	"strings"
	"testing"
)

// powerMistakes are about how nodes are woken.
func powerMistakes() []mistake {
	with := func(power string) string { return "candidate: false, power: { mode: on-demand, " + power + " }" }
	return []mistake{
		{"woken twice", "candidate: false", with(`wake: "02:00:00:00:00:0b", on: x`), ":6: wake and on both say how it is woken; keep one of them", false},
		{"woken by nothing", "candidate: false", with(`on: " "`), ":6: nodes.c.power.on is empty; write a command", false},
		{"wake", "candidate: false", with("wake: b"), `:6: "b" is not a MAC address; write it as`, true},
		{"wake of everybody", "candidate: false", with(`wake: "ff:ff:ff:ff:ff:ff"`), `:6: "ff:ff:ff:ff:ff:ff" is the address of no single card; write that of`, false},
		{"wake of nobody", "candidate: false", with(`wake: "00:00:00:00:00:00"`), `:6: "00:00:00:00:00:00" is the address of no single card; write that of`, false},
		{"ipmi of a group", "candidate: false", with("ipmi: { address: 224.0.0.1, user: u, password_file: /p }"), `:6: "224.0.0.1" is where no single management controller listens`, false},
		{"ipmi of everybody", "candidate: false", with("ipmi: { address: 255.255.255.255, user: u, password_file: /p }"), `:6: "255.255.255.255" is where no single`, false},
		{"ipmi of nobody", "candidate: false", with(`ipmi: { address: "::", user: u, password_file: /p }`), `:6: "::" is where no single`, false},
		{"ipmi without a port", "candidate: false", with(`ipmi: { address: "10.77.1.12:0", user: u, password_file: /p }`), `:6: "10.77.1.12:0" is where no single`, false},
		{"ipmi by name", "candidate: false", with("ipmi: { address: bmc.lan, user: u, password_file: /p }"), `:6: "bmc.lan" is not an address; write a literal address`, true},
		{"ipmi without a password", "candidate: false", with("ipmi: { address: 10.77.1.12, user: u }"), `:6: key "password_file" is missing in nodes.c.power.ipmi`, true},
		{"ipmi user", "candidate: false", with("ipmi: { address: 10.77.1.12, user: a-user-that-is-too-long, password_file: /p }"), `:6: "a-user-that-is-too-long" is no user`, false},
		{"ipmi password", "candidate: false", with("ipmi: { address: 10.77.1.12, user: u, password_file: p }"), `:6: path "p" is not absolute`, true},
	}
}

// A card belongs to one node, however it is written; and what a node that is always on would do to be off is said to be in vain.
func TestPowerOfSeveralNodes(t *testing.T) {
	text := func(b, c string) string {
		return "cluster: x\nnodes:\n  a: { links: { lan: 10.77.0.11 } }\n  b: { links: { lan: 10.77.0.12 }, power: { " + b + " } }\n  c: { links: { lan: 10.77.0.13 }, power: { " + c + " } }\n"
	}
	_, err := Parse("test", []byte(text(`mode: on-demand, wake: "02:00:00:00:00:0b"`, `mode: on-demand, wake: "02:00:00:00:00:0B"`)))
	if err == nil || !strings.Contains(err.Error(), "test:5: 02:00:00:00:00:0b is the card of node b, too") {
		t.Errorf("one card for two nodes: %v", err)
	}
	c, err := Parse("test", []byte(text(`mode: on-demand, off: poweroff, wake: "02:00:00:00:00:0b"`, `off: poweroff, wake: "02:00:00:00:00:0c"`)))
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "test:5: nodes.c.power.off has no effect") {
		t.Errorf("%v, %v", err, c.Warnings)
	}
}
