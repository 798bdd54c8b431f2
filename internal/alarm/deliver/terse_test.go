package deliver

import (
	"io"
	"net"
	"testing"
)

// A mail server that never ends a line is not listened to for ever.
func TestAMailServerSaysSoMuch(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		for line := make([]byte, 1<<10); ; {
			if _, err := b.Write(line); err != nil {
				return
			}
		}
	}()
	n, err := io.Copy(io.Discard, &terse{Conn: a, left: maxMail})
	if n != maxMail || err == nil {
		t.Errorf("%d bytes were read, %v", n, err)
	}
}
