package mirror

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"time"

	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/wire"
)

// sayEvery bounds how often a standby looks for what it has to say of itself.
const sayEvery = time.Second

// say tells the master what a person should know of this standby, when that has
// changed: whoever looks at `revolve status` looks on the master.
func (s *session) say() error {
	if time.Since(s.saidAt) < sayEvery {
		return nil
	}
	s.saidAt = time.Now()
	absent := s.o.applier.Absent()
	said := wire.Said{Alarm: alarmText(s.v.counter.Pins(s.o.root)), Absent: absent.Names, Sample: absent.Sample}
	said.Divergent, _ = s.v.counter.Divergent(s.o.root) // unreadable: what was counted
	if reflect.DeepEqual(said, s.said) {
		return nil
	}
	s.said = said
	b, err := json.Marshal(said)
	if err != nil {
		return err
	}
	return errors.Join(s.conn.Write(wire.FrameSaid, b), s.conn.Flush())
}

// alarmText is what the pins of a volume's trash say.
func alarmText(pins []apply.Pin) string {
	var parts []string
	for _, p := range pins {
		parts = append(parts, p.String())
	}
	text := strings.Join(parts, "; ")
	if len(text) > wire.MaxAlarm {
		text = text[:wire.MaxAlarm]
	}
	return text
}
