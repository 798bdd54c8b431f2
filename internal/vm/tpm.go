package vm

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"revolve/internal/problem"
	"revolve/internal/syswait"
	"revolve/internal/vm/tpm"
)

// domainTPM is a TPM of a definition (libvirt: docs/formatdomain.rst, "TPM device").
type domainTPM struct {
	Backend struct {
		Type    string `xml:"type,attr"`
		Version string `xml:"version,attr"`
		Parts   []struct {
			XMLName xml.Name
		} `xml:",any"`
	} `xml:"backend"`
}

// tpm is the TPM of which a point keeps the state; nil: the machine has none. A TPM
// that is part of a node, or whose state only that node can read, cannot go to another.
func (d domain) tpm() (*tpm.Which, error) {
	refuse := func(why, hint string) error {
		return &problem.Problem{Op: "take a point of", Kind: problem.Invalid, Subject: d.Name, Err: errors.New(why), Hint: hint}
	}
	without := "remove it if the guest does not need it: virsh edit " + d.Name
	if len(d.TPMs) == 0 {
		return nil, nil
	}
	if len(d.TPMs) > 1 {
		return nil, refuse("it has more than one TPM", "only one that libvirt emulates is kept; "+without)
	}
	b := d.TPMs[0].Backend
	if b.Type != "emulator" {
		return nil, refuse(fmt.Sprintf("its TPM is of type %q: what that knows does not leave this node", b.Type),
			"only one that libvirt emulates can move (backend type='emulator'); what was sealed with this one has to be sealed anew, so note the guest's recovery keys first; or "+without)
	}
	for _, part := range b.Parts {
		switch part.XMLName.Local {
		case "active_pcr_banks", "profile":
		case "encryption":
			return nil, refuse("the state of its TPM is encrypted with a secret that only this node's libvirt has: no other node could use it", "encrypt the disks below vm_storage instead, on each node, and give the machine a TPM without <encryption>; its guest needs its recovery keys then: virsh edit "+d.Name)
		default:
			return nil, refuse("the state of its TPM is not where libvirt keeps those by itself (<"+part.XMLName.Local+">)", "only those are kept so far; take that out of the TPM's definition: virsh edit "+d.Name)
		}
	}
	w := tpm.Which{UUID: strings.ToLower(strings.TrimSpace(d.UUID)), Version: b.Version}
	return &w, w.Check()
}

// formerTPM is, beside the disks that were made of a point, the state of the TPM that
// was there until then: who goes on with other disks has no other copy of it.
const formerTPM = "former-" + tpmFile

// meanwhileTPM is the state with which libvirt started a machine with its new disks before the one of these was in its place.
const meanwhileTPM = "meanwhile-" + tpmFile

// stageTPM makes the state that a point has the machine's next one. What is used stays until the machine is defined.
func (e *Engine) stageTPM(w tpm.Which, dir string) error {
	content, err := takeTPM(dir)
	if err != nil {
		return err
	}
	if err := keepFormer(e.o.TPM.File(w), filepath.Join(dir, formerTPM), content); err != nil {
		return err
	}
	return e.o.TPM.Stage(w, content)
}

// takeTPM reads the state that came out of a point, and removes the file. nil: it has none, its guest never ran.
func takeTPM(dir string) ([]byte, error) {
	name := filepath.Join(dir, tpmFile)
	content, err := readState(name)
	if err != nil || content == nil {
		return nil, err
	}
	return content, os.Remove(name)
}

func readState(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, tpm.MaxState+1))
	if err == nil && len(content) > tpm.MaxState {
		err = fmt.Errorf("it has more than %d bytes", tpm.MaxState)
	}
	if err != nil {
		return nil, &problem.Problem{Op: "read state of TPM", Kind: problem.Corrupt, Subject: name, Err: err}
	}
	return append([]byte{}, content...), nil
}

// keepMeanwhile keeps the state that is used, if it was written to since the one that is staged was. Where none is used, a try before
// this one ended while the staged one took its place (tpm.Place.Swap): that one has kept it.
func keepMeanwhile(used, dir, staged string) error {
	if is, err := readState(used); err != nil || is == nil {
		return err
	}
	to := filepath.Join(dir, meanwhileTPM)
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) { // half of it, where a try before this one ended
		return err
	}
	former, err := readState(filepath.Join(dir, formerTPM))
	if err == nil && former == nil { // it was as the next one
		former, err = readState(staged)
	}
	if err != nil {
		return err
	}
	return keepFormer(used, to, former)
}

// keepFormer keeps what is at a name, if it is another state than the next one.
func keepFormer(from, to string, next []byte) error {
	was, err := readState(from)
	if err != nil || was == nil || string(was) == string(next) && next != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(was)
	return errors.Join(err, syswait.Sync(f), f.Close(), syncDir(filepath.Dir(to)))
}
