package apply

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"revolve/internal/mirror/tree"
)

const (
	// pinSuffix makes a slot's name that of the file that pins it.
	pinSuffix = ".pinned"
	// maxPinFile bounds what is read of a pin's file: a few numbers.
	maxPinFile = 4 << 10
)

// Pin keeps a slot of the trash, whatever its age and size, until a person takes
// the pin away: more than half of the volume went within a minute, and only a
// person can say whether that was meant (promise P6).
type Pin struct {
	Slot    string    `json:"slot"`
	At      time.Time `json:"at"`      // when the alarm was raised
	Removed int       `json:"removed"` // names that went within the minute
	Left    int       `json:"left"`    // names that were left
}

// String says what happened, for a person.
func (p Pin) String() string {
	if p.Removed == 0 {
		return "the trash " + p.Slot + " is pinned"
	}
	return fmt.Sprintf("more than half of the volume was deleted within a minute: %d names at %s, %d left; the trash %s is pinned",
		p.Removed, p.At.Format(time.RFC3339), p.Left, p.Slot)
}

// pin makes a slot stay. What a pin said first, it goes on saying.
func pin(root *tree.Root, p Pin) error {
	file := trashDir + "/" + p.Slot + pinSuffix
	if _, err := root.Lstat(file); err == nil {
		return nil
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return errors.Join(root.MkdirAll(trashDir), root.WriteFile(file, b))
}

// Pins lists the pinned slots of a volume, oldest first.
func Pins(root *tree.Root) ([]Pin, error) {
	slots, err := root.List(trashDir)
	if err != nil {
		return nil, ignoreGone(err)
	}
	var pins []Pin
	for _, e := range slots {
		slot, ok := strings.CutSuffix(e.Name, pinSuffix)
		if !ok {
			continue
		}
		p := Pin{}
		if b, err := root.ReadFile(trashDir+"/"+e.Name, maxPinFile); err == nil {
			_ = json.Unmarshal(b, &p) // a pin whose words are unreadable pins all the same
		}
		p.Slot = slot
		pins = append(pins, p)
	}
	return pins, nil
}

// Unpin lets a pinned slot, or all of them if slot is empty, go by age and quota
// again. It returns those that it unpinned.
func Unpin(root *tree.Root, slot string) ([]Pin, error) {
	pins, err := Pins(root)
	if err != nil {
		return nil, err
	}
	gone := []Pin{}
	for _, p := range pins {
		if slot != "" && slot != p.Slot {
			continue
		}
		if err := ignoreGone(root.Remove(trashDir + "/" + p.Slot + pinSuffix)); err != nil {
			return gone, err
		}
		gone = append(gone, p)
	}
	return gone, nil
}
