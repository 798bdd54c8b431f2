package vm

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"revolve/internal/problem"
	"revolve/internal/vm/points"
	"revolve/internal/vm/tpm"
)

// domain is what is read of a machine's definition; everything else of it is kept as it is.
type domain struct {
	Name   string `xml:"name"`
	UUID   string `xml:"uuid"`
	Memory struct {
		Unit string `xml:"unit,attr"`
		N    int64  `xml:",chardata"`
	} `xml:"memory"`
	VCPU int `xml:"vcpu"`
	OS   struct {
		NVRAM string `xml:"nvram"`
	} `xml:"os"`
	Disks []domainDisk `xml:"devices>disk"`
	TPMs  []domainTPM  `xml:"devices>tpm"`
}

type domainDisk struct {
	Device string `xml:"device,attr"`
	Type   string `xml:"type,attr"`
	Driver struct {
		Type string `xml:"type,attr"`
	} `xml:"driver"`
	Source struct {
		File string `xml:"file,attr"`
	} `xml:"source"`
	Target struct {
		Dev string `xml:"dev,attr"`
	} `xml:"target"`
	ReadOnly *struct{} `xml:"readonly"`
}

// parts of a point that are no disks.
const (
	definitionFile = "domain.xml"
	nvramFile      = "nvram.fd"
	tpmFile        = "tpm.state"
)

// fileOf is what a disk is called in a point.
func (d domainDisk) fileOf() string { return d.Target.Dev + "." + d.Driver.Type }

func readDomain(text string) (d domain, err error) {
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		return d, &problem.Problem{Op: "read definition of machine", Kind: problem.Corrupt, Err: err}
	}
	return d, nil
}

// images are the files of a machine of which a point is made. What cannot be
// kept is refused here, before anything is stopped: half a machine is none.
func images(d domain, text string, place tpm.Place) (list []points.Image, err error) {
	refuse := func(why, hint string) error {
		return &problem.Problem{Op: "take a point of", Kind: problem.Invalid, Subject: d.Name, Err: errors.New(why), Hint: hint}
	}
	list = append(list, points.Image{Name: definitionFile, Bytes: []byte(text)})
	for _, disk := range d.Disks {
		if disk.Device == "cdrom" || disk.Device == "floppy" || disk.ReadOnly != nil {
			continue // what only can be read is not the machine's state
		}
		if disk.Type != "file" || disk.Source.File == "" {
			return nil, refuse(fmt.Sprintf("disk %s is not a file but of type %s", disk.Target.Dev, disk.Type), "only images in files are copied so far")
		}
		if disk.Driver.Type != "raw" && disk.Driver.Type != "qcow2" {
			return nil, refuse(fmt.Sprintf("disk %s has format %q", disk.Target.Dev, disk.Driver.Type), "raw and qcow2 images are copied; name the format in the definition: virsh edit "+d.Name)
		}
		if backing, err := hasBacking(disk); err != nil || backing {
			if err != nil {
				return nil, err
			}
			return nil, refuse(fmt.Sprintf("disk %s stands on another image (a snapshot or a template)", disk.Target.Dev), "merge them: virsh blockpull, or qemu-img rebase -b '' while it is off")
		}
		list = append(list, points.Image{Name: disk.fileOf(), Path: disk.Source.File})
	}
	w, err := d.tpm()
	if err != nil {
		return nil, err
	}
	if w != nil {
		if _, err := os.Lstat(place.File(*w)); err == nil { // it is made at the first start
			list = append(list, points.Image{Name: tpmFile, Path: place.File(*w), Most: tpm.MaxState})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, &problem.Problem{Op: "find the TPM's state of", Kind: problem.Unavailable, Subject: d.Name, Err: err}
		}
	}
	if d.OS.NVRAM != "" {
		if _, err := os.Stat(d.OS.NVRAM); err == nil { // it is made at the first start
			list = append(list, points.Image{Name: nvramFile, Path: d.OS.NVRAM})
		}
	}
	return list, nil
}

// hasBacking reads the head of a qcow2 (docs/interop/qcow2.txt of QEMU: magic, version, offset of the backing file's name).
func hasBacking(disk domainDisk) (bool, error) {
	if disk.Driver.Type != "qcow2" {
		return false, nil
	}
	f, err := os.Open(disk.Source.File)
	if err != nil {
		return false, &problem.Problem{Op: "open image", Kind: problem.Unavailable, Subject: disk.Source.File, Err: err}
	}
	defer f.Close()
	head := make([]byte, 16)
	if _, err := io.ReadFull(f, head); err != nil || string(head[:4]) != "QFI\xfb" {
		return false, &problem.Problem{Op: "open image", Kind: problem.Corrupt, Subject: disk.Source.File, Err: errors.New("it is no qcow2, and the definition says so")}
	}
	return binary.BigEndian.Uint64(head[8:]) != 0, nil
}

// moved is a definition whose files are elsewhere. Only these names are replaced;
// every other byte of it stays, also what this program knows nothing of.
func moved(text string, where map[string]string) (string, error) {
	in := xml.NewDecoder(strings.NewReader(text))
	var out bytes.Buffer
	copied := int64(0)
	var inside []string
	done := 0
	for {
		begin := in.InputOffset()
		token, err := in.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", &problem.Problem{Op: "read definition of machine", Kind: problem.Corrupt, Err: err}
		}
		end := in.InputOffset()
		at := strings.Join(inside, "/")
		switch t := token.(type) {
		case xml.StartElement:
			if t.Name.Local == "source" && strings.HasSuffix(at, "devices/disk") {
				for _, a := range t.Attr {
					if to, ok := where[a.Value]; ok && a.Name.Local == "file" {
						tag, replaced := replaceFile(text[begin:end], to)
						out.WriteString(text[copied:begin])
						out.WriteString(tag)
						copied = end
						if replaced {
							done++
						}
					}
				}
			}
			inside = append(inside, t.Name.Local)
		case xml.EndElement:
			inside = inside[:max(len(inside)-1, 0)]
		case xml.CharData:
			if to, ok := where[strings.TrimSpace(string(t))]; ok && strings.HasSuffix(at, "os/nvram") {
				out.WriteString(text[copied:begin])
				out.WriteString(escaped(to))
				copied = end
				done++
			}
		}
	}
	out.WriteString(text[copied:])
	if done != len(where) {
		return "", &problem.Problem{Op: "change definition of machine", Kind: problem.Corrupt, Err: fmt.Errorf("%d of its %d files are named in it", done, len(where))}
	}
	return out.String(), nil
}

func escaped(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}

// replaceFile replaces the value of a tag's file attribute, however it is written.
func replaceFile(tag, now string) (string, bool) {
	for at := 0; ; {
		i := strings.Index(tag[at:], "file")
		if i < 0 {
			return tag, false
		}
		at += i + len("file")
		rest := strings.TrimLeft(tag[at:], " \t\r\n")
		value, isAttr := strings.CutPrefix(rest, "=")
		before := tag[at-len("file")-1]
		if value = strings.TrimLeft(value, " \t\r\n"); !isAttr || value == "" || !strings.ContainsRune(" \t\r\n", rune(before)) {
			continue
		}
		begin := len(tag) - len(value) + 1
		end := strings.IndexByte(tag[begin:], value[0])
		if end < 0 {
			return tag, false
		}
		return tag[:begin] + escaped(now) + tag[begin+end:], true
	}
}
