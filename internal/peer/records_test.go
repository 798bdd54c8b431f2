package peer

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// TestBufferedTellsOfEveryRecord: a follower that was busy has to see that more came meanwhile, else it commits each change
// alone. crypto/tls must not hide records that it read ahead.
func TestBufferedTellsOfEveryRecord(t *testing.T) {
	ids := newCluster(t, "homelab", "a", "b")
	const frames = 50
	sent := make(chan error, 1)
	hold := make(chan struct{})
	l, _ := start(t, ids["a"], all, func(_ context.Context, c *Conn) {
		for i := range frames {
			if err := c.Write(byte(i+1), make([]byte, 10+i)); err != nil {
				sent <- err
				return
			}
			if err := c.Flush(); err != nil { // a record of its own for each
				sent <- err
				return
			}
		}
		sent <- nil
		<-hold
	}, "127.0.0.1")
	defer close(hold)
	c, err := Dial(t.Context(), ids["b"], "a", to(l, 0), "s")
	must(t, err)
	defer c.Close()
	must(t, <-sent)
	must(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
	for i := range frames {
		kind, payload, err := c.Read()
		must(t, err)
		if int(kind) != i+1 || len(payload) != 10+i {
			t.Fatalf("frame %d of %d bytes", kind, len(payload))
		}
		if more := c.Buffered() > 0; more != (i < frames-1) {
			t.Fatalf("after frame %d of %d: more is here: %v", i+1, frames, more)
		}
	}
}

// wire is the end of a connection that counts its writes; from the one after left on they fail.
type wire struct {
	net.Conn
	got    bytes.Buffer
	writes int
	left   int
}

func (w *wire) Write(b []byte) (int, error) {
	if w.writes++; w.writes > w.left {
		return 0, io.ErrClosedPipe
	}
	return w.got.Write(b)
}

// inRecords writes as crypto/tls does: one record by a call.
type inRecords struct{ below io.Writer }

func (t inRecords) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var m int
		m, err = t.below.Write(b[:min(len(b), oneRecord)])
		n, b = n+m, b[m:]
	}
	return n, err
}

func TestRecordsLeaveTogether(t *testing.T) {
	data := make([]byte, 40*oneRecord+7)
	for i := range data {
		data[i] = byte(i * i >> 9)
	}
	w := &wire{left: 1000}
	r := newRecords(w)
	n, err := r.together(inRecords{r}, data)
	if n != len(data) || err != nil || !bytes.Equal(w.got.Bytes(), data) {
		t.Errorf("%d of %d bytes were written, %d came: %v", n, len(data), w.got.Len(), err)
	}
	if most := len(data)/recordsOut + 1; w.writes > most {
		t.Errorf("%d writes, want at most %d", w.writes, most)
	}
	before := w.writes
	if _, err := r.Write(data[:10]); err != nil || w.writes != before+1 {
		t.Errorf("a lone record made %d writes (%v), want one at once", w.writes-before, err)
	}
	for left := range 3 { // the last one is what is left at the end
		w := &wire{left: left}
		r := newRecords(w)
		if _, err := r.together(inRecords{r}, data[:recordsOut*5/2]); err == nil {
			t.Errorf("a connection that breaks after %d writes is not noticed", left)
		}
	}
}
