package vm

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"

	"revolve/internal/problem"
)

// agentChannel is where a guest's agent listens (docs/interop of QEMU: qemu-ga); libvirt makes the socket.
const agentChannel = `<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`

// alone is the definition of a machine that shares nothing with anybody: another
// name and identity, network cards without a network, and no device but those that
// are known not to reach into this node or into what the machine itself may use.
// Its serial console is a file. hasAgent says whether it has a place for a guest's agent.
func alone(text string, g guestOnStage, console string) (out string, hasAgent bool, err error) {
	in := xml.NewDecoder(strings.NewReader(text))
	var b bytes.Buffer
	copied, depth, skipFrom := int64(0), 0, -1
	var begin int64
	devices := false
	var element string
	for {
		at := in.InputOffset()
		token, err := in.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", false, &problem.Problem{Op: "read definition of machine", Kind: problem.Corrupt, Err: err}
		}
		switch t := token.(type) {
		case xml.StartElement:
			devices = depth == 1 && t.Name.Local == "devices" || devices && depth > 1
			if skipFrom < 0 && (depth == 1 && notAlone(t.Name) || depth == 2 && devices && !keptDevice(t.Name.Local)) {
				skipFrom, begin, element = depth, at, t.Name.Local
			}
			depth++
		case xml.EndElement:
			depth--
			switch {
			case depth == skipFrom:
				whole := text[begin:in.InputOffset()]
				with, isAgent := instead(element, whole, g)
				hasAgent = hasAgent || isAgent
				b.WriteString(text[copied:begin])
				b.WriteString(with)
				copied, skipFrom = in.InputOffset(), -1
			case depth == 1 && t.Name.Local == "devices" && skipFrom < 0:
				b.WriteString(text[copied:at])
				fmt.Fprintf(&b, "<serial type='file'><source path='%s'/><target port='0'/></serial>", escaped(console))
				copied = at
			}
		}
	}
	b.WriteString(text[copied:])
	if d, err := readDomain(b.String()); err != nil || d.Name != g.Name || g.TPM != nil && d.UUID != g.TPM.UUID {
		return "", false, &problem.Problem{Op: "change definition of machine", Kind: problem.Corrupt, Err: fmt.Errorf("it is not %q's afterwards", g.Name)}
	}
	return b.String(), hasAgent, nil
}

// notAlone are the parts of a definition that make it this machine, and command
// lines past libvirt (namespace qemu), which may open anything.
func notAlone(n xml.Name) bool { return n.Local == "name" || n.Local == "uuid" || n.Space != "" }

// keptDevice are the devices that stay as they are: those known to end at the
// machine itself. Of the others something comes instead, or nothing; what libvirt
// will know one day is left out as well.
func keptDevice(name string) bool {
	switch name {
	case "emulator", "controller", "video", "memballoon", "watchdog", "panic", "iommu":
		return true
	}
	return false
}

// instead is what comes in the place of an element.
func instead(element, text string, g guestOnStage) (with string, agent bool) {
	switch element {
	case "name":
		return "<name>" + escaped(g.Name) + "</name>", false
	case "uuid":
		if g.TPM != nil { // else libvirt makes one
			return "<uuid>" + g.TPM.UUID + "</uuid>", false
		}
	case "tpm":
		if g.TPM != nil { // its state is a copy, found by that UUID
			return text, false
		}
	case "interface":
		return unplugged(text), false
	case "channel":
		if strings.Contains(text, "org.qemu.guest_agent.0") {
			return agentChannel, true
		}
	case "input", "memory": // not those that are a device or a file of this node: evdev, passthrough, nvdimm, virtio-pmem
		var d struct {
			Type  string `xml:"type,attr"`
			Model string `xml:"model,attr"`
		}
		if xml.Unmarshal([]byte(text), &d) == nil && (element == "input" && slices.Contains([]string{"mouse", "keyboard", "tablet"}, d.Type) || element == "memory" && d.Model == "dimm") {
			return text, false
		}
	case "rng": // a guest may wait for random numbers; they come from no file or port that is named
		return `<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>`, false
	case "disk":
		var d domainDisk
		if err := xml.Unmarshal([]byte(text), &d); err == nil && d.Device != "floppy" && (d.Type == "file" || d.Device != "cdrom" && d.ReadOnly == nil) {
			return text, false
		}
	}
	return "", false
}

// unplugged is a network card that the guest finds as it knows it, without a link:
// QEMU sets that before the guest's first instruction. (Type null, made for this,
// ended the daemon of libvirt 9.0.0 when the machine was created.)
func unplugged(text string) string {
	var nic struct {
		MAC struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Model struct {
			Type string `xml:"type,attr"`
		} `xml:"model"`
		Address struct {
			Attrs []xml.Attr `xml:",any,attr"`
		} `xml:"address"`
	}
	if xml.Unmarshal([]byte(text), &nic) != nil {
		return ""
	}
	var b strings.Builder
	b.WriteString("<interface type='user'>")
	if nic.MAC.Address != "" {
		fmt.Fprintf(&b, "<mac address='%s'/>", escaped(nic.MAC.Address))
	}
	if nic.Model.Type != "" {
		fmt.Fprintf(&b, "<model type='%s'/>", escaped(nic.Model.Type))
	}
	if len(nic.Address.Attrs) > 0 {
		b.WriteString("<address")
		for _, a := range nic.Address.Attrs {
			fmt.Fprintf(&b, " %s='%s'", a.Name.Local, escaped(a.Value))
		}
		b.WriteString("/>")
	}
	b.WriteString("<link state='down'/></interface>")
	return b.String()
}
