package setup

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"revolve/internal/config"
)

// maxAnswer is longer than any answer that could be right: a path (PATH_MAX, limits.h).
const maxAnswer = 4096

// Take takes an answer, or says with a *Mistake what is wrong with it. The
// answers before it in the order of the topics must be there.
func (f *Form) Take(t Topic, text string, facts Facts) error {
	text = strings.TrimSpace(text)
	m := f.take(t, text, facts)
	if !utf8.ValidString(text) { // the file would name another path than the one that is made
		m = &Mistake{"not UTF-8", "use characters that a file in UTF-8 can hold"}
	}
	if len(text) > maxAnswer {
		m = &Mistake{fmt.Sprintf("%d characters", len(text)), fmt.Sprintf("write at most %d", maxAnswer)}
	}
	if m != nil {
		return m
	}
	f.known[t] = true
	return nil
}

func (f *Form) take(t Topic, text string, facts Facts) *Mistake {
	switch t {
	case Cluster:
		f.Answers.Cluster = text
		return isName(text)
	case Node:
		f.Answers.Node = text
		return isName(text)
	case Interface:
		return f.takeCard(text)
	case VIP:
		return f.takeVIP(text, facts.Holder)
	case Directory:
		return f.takeDirectory(text, facts.Place)
	}
	return f.takeOther(text)
}

func isName(text string) *Mistake {
	if !config.IsName(text) {
		return &Mistake{fmt.Sprintf("%q is not a name", short(text)), "use 1 to 32 lower-case letters, digits and dashes, beginning with a letter or digit"}
	}
	return nil
}

// short keeps a line a line.
func short(text string) string {
	if r := []rune(text); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return text
}

func (f *Form) takeCard(text string) *Mistake {
	var names []string
	for _, c := range f.Cards() {
		names = append(names, c.Name)
	}
	right := "choose one of " + strings.Join(names, ", ")
	if len(names) == 0 {
		right = "give one a cable and an address first"
	}
	i := slices.IndexFunc(f.Machine.Cards, func(c Card) bool { return c.Name == text })
	if i < 0 {
		return &Mistake{fmt.Sprintf("there is no interface %q", short(text)), right}
	}
	c := f.Machine.Cards[i]
	if why := c.unfit(); why != "" {
		return &Mistake{c.Name + " " + why, right}
	}
	f.Answers.Card, f.Answers.Address = c.Name, c.Addrs[0]
	return nil
}

// card is the one that was chosen, and its zero value before.
func (f *Form) card() Card {
	if i := slices.IndexFunc(f.Machine.Cards, func(c Card) bool { return c.Name == f.Answers.Card }); i >= 0 {
		return f.Machine.Cards[i]
	}
	return Card{}
}

// ParseVIP reads a floating address with the length of its network, or without one: then bits is -1.
func ParseVIP(text string) (addr netip.Addr, bits int, err error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), p.Bits(), nil
	}
	if strings.Contains(text, "/") {
		return addr, -1, errors.New("not an address with the length of its network")
	}
	addr, err = netip.ParseAddr(text)
	return addr, -1, err
}

func (f *Form) takeVIP(text, holder string) *Mistake {
	card := f.card()
	like := ""
	if p := f.vips(); len(p) > 0 {
		like = ", such as " + p[0].String()
	}
	addr, bits, err := ParseVIP(text)
	if err != nil || addr.Zone() != "" {
		return &Mistake{fmt.Sprintf("%q is not an address", short(text)), "write a free address of the network of " + card.Name + like}
	}
	own := slices.IndexFunc(card.Addrs, func(a CardAddr) bool { return a.Masked().Contains(addr) })
	if own < 0 {
		return &Mistake{fmt.Sprintf("%s is in no network of %s (%s)", addr, card.Name, addrsText(card)), "write a free address of it" + like}
	}
	network := card.Addrs[own].Prefix
	if bits < 0 {
		bits = network.Bits()
	}
	if bits != network.Bits() {
		return &Mistake{fmt.Sprintf("%s/%d: the network of %s is %s", addr, bits, card.Name, network.Masked()), fmt.Sprintf("write %s/%d", addr, network.Bits())}
	}
	vip := netip.PrefixFrom(addr, bits)
	if m := unlikeVIP(vip); m != nil {
		return m
	}
	if who := f.holder(addr, holder); who != "" {
		return &Mistake{who, "choose an address that nobody has" + like}
	}
	f.Answers.VIP, f.Answers.Address = vip, card.Addrs[own]
	return nil
}

// holder says whose the address is, in words; "" if it is free as far as is known.
func (f *Form) holder(addr netip.Addr, answers string) string {
	for _, c := range f.Machine.Cards {
		if slices.ContainsFunc(c.Addrs, func(a CardAddr) bool { return a.Addr() == addr }) {
			return fmt.Sprintf("%s is this machine's own, on %s", addr, c.Name)
		}
	}
	switch {
	case slices.Contains(f.Machine.Gateways, addr):
		return fmt.Sprintf("%s is the router's", addr)
	case answers != "":
		return fmt.Sprintf("the card %s answers for %s", answers, addr)
	}
	return ""
}

func addrsText(c Card) string {
	var list []string
	for _, a := range c.Addrs {
		list = append(list, a.String())
	}
	return strings.Join(list, ", ")
}

// SplitVolume reads PATH, or NAME=PATH; without a name the volume is called like the directory.
func SplitVolume(text string) (name, dir string) {
	if before, after, ok := strings.Cut(text, "="); ok && !strings.Contains(before, "/") {
		return before, after
	}
	return nameOf(path.Base(text), "data"), text
}

// nameOf makes a name of a text.
func nameOf(text, otherwise string) string {
	text = regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(text), "-")
	text = strings.Trim(text[:min(len(text), 32)], "-")
	if text == "" {
		return otherwise
	}
	return text
}

func (f *Form) takeDirectory(text string, at Place) *Mistake {
	name, dir := SplitVolume(text)
	if m := isName(name); m != nil {
		return m
	}
	if m := unlike(fmt.Sprintf("volumes: { %s: { path: %s } }", quotedName(name), quoted(dir)), standIn4); m != nil {
		return m
	}
	elsewhere := "name another directory"
	if p := f.Propose(Directory, nil).Text; p != "" {
		elsewhere += ", such as " + p
	}
	real := at.Real
	if real == "" {
		real = dir
	}
	on := f.under(real)
	switch {
	case at.Exists && !at.Dir:
		return &Mistake{dir + " is no directory", elsewhere}
	case !at.Exists && !at.Parent:
		return &Mistake{"there is no " + path.Dir(dir), "make it first (mkdir -p), or " + elsewhere}
	case ofSystem(real):
		return &Mistake{dir + " is the system's", elsewhere}
	case within(real, f.Machine.State) || within(f.Machine.State, real):
		return &Mistake{fmt.Sprintf("%s and the state directory %s are inside one another", dir, f.Machine.State), elsewhere}
	case on.ReadOnly:
		return &Mistake{fmt.Sprintf("%s, which has %s, is mounted read-only", on.At, dir), "mount it for writing, or " + elsewhere}
	case on.network():
		return &Mistake{fmt.Sprintf("%s is on a network filesystem (%s), and what other machines write there is not seen", dir, on.Kind), elsewhere}
	}
	f.Answers.Volume, f.Answers.Path, f.real = name, dir, real
	return nil
}

// link is what the network of the floating address is called in the file.
const link = "lan"

// unlike is the first mistake that the configuration's own check finds in a part of a file, beside a node
// with an address: the rules of the words are its, so that what is taken here is taken there.
func unlike(part, node string) *Mistake {
	_, err := config.Parse("", fmt.Appendf(nil, "cluster: c\nnodes: { n: { links: { %s: %q } } }\n%s\n", link, node, part))
	var list *config.Problems
	if !errors.As(err, &list) || len(list.Mistakes) == 0 {
		return nil
	}
	return &Mistake{list.Mistakes[0].What, list.Mistakes[0].Hint}
}

// unlikeVIP looks at it beside a node of the other family: with that one's network it is not compared.
func unlikeVIP(vip netip.Prefix) *Mistake {
	node := standIn6
	if vip.Addr().Is6() {
		node = standIn4
	}
	return unlike(fmt.Sprintf("vips: [ { address: %q, link: %s } ]", vip, link), node)
}

// The addresses of nodes that do not exist (RFC 5737, RFC 3849).
const standIn4, standIn6 = "192.0.2.1", "2001:db8::1"

func (f *Form) takeOther(text string) *Mistake {
	name, at, ok := strings.Cut(text, "=")
	name, at = strings.TrimSpace(name), strings.TrimSpace(at)
	network := f.Answers.Address.Masked()
	like := fmt.Sprintf("an address of %s, the network of %s", network, f.Answers.Card)
	if !ok {
		return &Mistake{fmt.Sprintf("%q is not NAME=ADDRESS", short(text)), "write the node's name and its address on this network, such as " + f.likeOther()}
	}
	if m := isName(name); m != nil {
		return m
	}
	addr, err := netip.ParseAddr(at)
	names := []string{f.Answers.Node}
	for _, o := range f.Answers.Others {
		names = append(names, o.Name)
		if err == nil && o.Addr == addr {
			return &Mistake{fmt.Sprintf("%s is that of %s already", addr, o.Name), "write that of " + name}
		}
	}
	switch {
	case err != nil || addr.Zone() != "":
		return &Mistake{fmt.Sprintf("%q is not an address", short(at)), "write " + like}
	case slices.Contains(names, name):
		return &Mistake{fmt.Sprintf("there is a node %s already", name), "give each its own name"}
	case f.Answers.Address.Addr() == addr:
		return &Mistake{fmt.Sprintf("%s is this machine's own", addr), "write that of " + name}
	case f.Answers.VIP.Addr() == addr:
		return &Mistake{fmt.Sprintf("%s is the floating address", addr), "write the address that " + name + " has itself"}
	case !network.Contains(addr):
		return &Mistake{fmt.Sprintf("%s is not in the network of %s", addr, f.Answers.Card), "write " + like}
	case len(f.Answers.Others)+1 >= config.MaxNodes:
		return &Mistake{fmt.Sprintf("%s would be node %d", name, len(f.Answers.Others)+2), fmt.Sprintf("at most %d are supported", config.MaxNodes)}
	}
	if unlikeVIP(netip.PrefixFrom(addr, network.Bits())) != nil { // the network's own, or its broadcast address
		return &Mistake{fmt.Sprintf("%s is no machine's address", addr), "write " + like}
	}
	f.Answers.Others = append(f.Answers.Others, Other{name, addr})
	return nil
}

func within(p, dir string) bool { return p == dir || dir != "" && strings.HasPrefix(p, dir+"/") }

// ofSystem reports whether a directory is one that must differ between machines.
func ofSystem(dir string) bool {
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/boot", "/bin", "/sbin", "/lib", "/usr", "/etc"} {
		if within(dir, d) {
			return true
		}
	}
	return slices.Contains([]string{"/", "/var", "/var/lib"}, dir)
}
