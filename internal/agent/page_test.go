package agent

import (
	"net/netip"
	"slices"
	"testing"

	"revolve/internal/config"
)

// The status page is told which addresses float: it takes no orders by them, and names its cookie for the node.
func TestThePageKnowsTheFloatingAddresses(t *testing.T) {
	cfg, err := config.Parse("test", []byte(`{cluster: home, nodes: {a: {links: {lan: 10.77.0.11}}, b: {links: {lan: 10.77.0.12}}}, vips: [{address: 10.77.0.200/24, link: lan}, {address: "fd77::200/64", link: lan}], web: {listen: [":8480"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	o := (&Agent{o: Options{Config: cfg, Node: "a"}}).pageOptions()
	if !slices.Equal(o.VIPs, []netip.Addr{netip.MustParseAddr("10.77.0.200"), netip.MustParseAddr("fd77::200")}) || o.Node != "a" || o.Cluster != "home" {
		t.Errorf("%+v", o)
	}
}
