package demo

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/problem"
)

// What connects to the address reaches the socket of the stage; when the demo ends nothing of it is left.
func TestWithPage(t *testing.T) {
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := WithPage(t.Context(), address, func() error { return nil }); problem.KindOf(err) != problem.Conflict || !strings.Contains(problem.HintOf(err), "--web") {
		t.Errorf("a port that is taken: %v", err)
	}
	_ = free.Close()
	t.Setenv(envPage, "")
	told := errors.New("what the demo said")
	err = WithPage(t.Context(), address, func() error {
		if c, err := net.Dial("tcp4", address); err != nil {
			t.Error(err)
		} else if n, err := c.Read(make([]byte, 1)); err != io.EOF { // the stage is not there yet
			t.Errorf("got %d bytes, %v", n, err)
		}
		info, err := os.Stat(filepath.Dir(PageSocket()))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the socket's directory: %v %v", info, err)
		}
		l, err := net.Listen("unix", PageSocket())
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the page") }), ReadHeaderTimeout: time.Minute}
		over := make(chan error, 1)
		go func() { over <- srv.Serve(l) }()
		c, err := net.Dial("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r.Body); string(b) != "the page" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		_ = srv.Close()
		<-over
		return told
	})
	if !errors.Is(err, told) {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("tcp4", address); err == nil {
		t.Error("the address is still served")
	}
	if _, err := os.Stat(filepath.Dir(PageSocket())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
	ran := false
	if err := WithPage(context.Background(), "", func() error { ran = true; return nil }); err != nil || !ran {
		t.Error("without an address it does not run")
	}
}
