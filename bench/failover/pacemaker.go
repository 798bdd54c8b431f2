package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// machineScript makes a node's own /etc, /var and /run for Corosync and Pacemaker, and runs them.
//
//go:embed pacemaker.sh
var machineScript string

// pacemaker is Corosync and Pacemaker as they come, with one IPaddr2.
type pacemaker struct{}

func (p *pacemaker) name() string { return "pacemaker" }
func (p *pacemaker) about() string {
	return fmt.Sprintf("%s, %s; every timer by default (token 3 s + 0.65 s), one IPaddr2 with monitor 5 s, no fencing, stickiness 100", firstLine("pacemakerd", "--version"), firstLine("corosync", "-v"))
}

// settle is what it takes until a manager that has just changed its mind is done.
func (p *pacemaker) settle() time.Duration { return 3 * time.Second }

func (p *pacemaker) prepare(_ context.Context, l *lab) error {
	var conf strings.Builder
	conf.WriteString("totem {\n version: 2\n cluster_name: bench\n transport: knet\n}\nquorum {\n provider: corosync_votequorum\n}\nlogging {\n to_stderr: yes\n to_syslog: no\n}\nnodelist {\n")
	for _, n := range l.nodes {
		fmt.Fprintf(&conf, " node {\n  nodeid: %d\n  name: %s\n  ring0_addr: %s\n  ring1_addr: %s\n }\n", n.index+1, n.name, n.addr, n.other)
	}
	conf.WriteString("}\n")
	for _, n := range l.nodes {
		err := errors.Join(os.WriteFile(n.root("corosync.conf"), []byte(conf.String()), 0o644), os.WriteFile(n.root("machine.sh"), []byte(machineScript), 0o644))
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pacemaker) start(_ context.Context, n *node) error {
	_, err := n.start("pacemaker", "sh", n.self("machine.sh"), n.self("corosync.conf"))
	return err
}

func (p *pacemaker) processes(n *node) (out []int) {
	for _, program := range []string{"corosync", "pacemakerd", "pacemaker-based", "pacemaker-fenced", "pacemaker-execd", "pacemaker-attrd", "pacemaker-schedulerd", "pacemaker-controld"} {
		out = append(out, named(n, program)...)
	}
	return out
}

func (p *pacemaker) plan(ctx context.Context, n *node) error {
	_, err := n.Run(ctx, "crm_attribute", "--node", n.name, "--name", "standby", "--update", "on")
	return err
}

func (p *pacemaker) replan(ctx context.Context, n *node) error {
	_, err := n.Run(ctx, "crm_attribute", "--node", n.name, "--name", "standby", "--delete")
	return err
}

const addressXML = `<primitive id="vip" class="ocf" provider="heartbeat" type="IPaddr2"><instance_attributes id="vip-p"><nvpair id="vip-ip" name="ip" value="` + vip +
	`"/><nvpair id="vip-mask" name="cidr_netmask" value="24"/><nvpair id="vip-nic" name="nic" value="lan"/></instance_attributes>` +
	`<meta_attributes id="vip-m"><nvpair id="vip-s" name="resource-stickiness" value="100"/></meta_attributes>` +
	`<operations><op id="vip-monitor" name="monitor" interval="5s" timeout="20s"/></operations></primitive>`

// configure gives the cluster its one address, once it is there.
func (p *pacemaker) configure(ctx context.Context, l *lab) error {
	n := l.nodes[0]
	out, err := n.Run(ctx, "crm_node", "-p")
	if err == nil && len(strings.Fields(string(out))) != len(l.nodes) {
		err = fmt.Errorf("nodes %q", out)
	}
	if err == nil {
		_, err = n.Run(ctx, "crm_attribute", "--type", "crm_config", "--name", "stonith-enabled", "--update", "false")
	}
	if err == nil {
		_, err = n.Run(ctx, "cibadmin", "--create", "--scope", "resources", "--xml-text", addressXML)
	}
	return err
}

func (p *pacemaker) whole(ctx context.Context, l *lab, _ *node) error {
	for _, n := range l.nodes {
		out, err := n.Run(ctx, "crm_mon", "-1", "--output-as", "xml")
		if err != nil {
			return err
		}
		if online := strings.Count(string(out), `online="true" standby="false"`); online != len(l.nodes) {
			return fmt.Errorf("%s sees %d nodes online", n.name, online)
		}
	}
	return nil
}
