package peer

import (
	"encoding/binary"
	"errors"
	"time"

	"revolve/internal/problem"
)

// ServiceClock is the service that tells the time: one frame each way.
const ServiceClock = "clock"

const (
	frameTime byte = 1
	// clockWithin bounds the question: it is answered by no disk.
	clockWithin = 3 * time.Second
)

// TellTime answers one question of AskTime and closes the connection.
func TellTime(c *Conn) error {
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(clockWithin)); err != nil {
		return err
	}
	if _, _, err := c.Read(); err != nil {
		return err
	}
	return errors.Join(c.Write(frameTime, binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))), c.Flush())
}

// AskTime asks the other node for its time, and says how much later it is there
// than here, give or take within.
func AskTime(c *Conn) (ahead, within time.Duration, err error) {
	began := time.Now()
	if err := errors.Join(c.SetReadDeadline(began.Add(clockWithin)), c.Write(frameTime), c.Flush()); err != nil {
		return 0, 0, err
	}
	kind, payload, err := c.Read()
	if err != nil {
		return 0, 0, err
	}
	if kind != frameTime || len(payload) != 8 {
		return 0, 0, &problem.Problem{Op: "ask for the time", Kind: problem.Corrupt, Subject: string(c.Peer()), Err: errors.New("that is no time")}
	}
	took := time.Since(began)
	there := time.Unix(0, int64(binary.BigEndian.Uint64(payload)))
	return there.Sub(began.Add(took / 2)), took / 2, nil
}
