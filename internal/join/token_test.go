package join

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"revolve/internal/problem"
)

func TestTokens(t *testing.T) {
	h := newHouse(t)
	tok := h.token(t, "e", time.Hour)
	again, err := Parse("  " + tok.Text() + "\n")
	if err != nil || *again != *tok {
		t.Errorf("%v", err)
	}
	text := tok.Text()
	flipped := text[:20] + string(rune(text[20])^1) + text[21:]
	for what, s := range map[string]string{"empty": "", "cut": text[:len(text)-3], "mistyped": flipped, "something else": "hunter2"} {
		_, err := Parse(s)
		wants(t, what, err, problem.Invalid, "token")
		if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("%s: the error quotes it: %v", what, err)
		}
	}
	for _, s := range []string{tok.String(), tok.GoString()} {
		if strings.Contains(s, text[len(tokenPrefix):]) {
			t.Errorf("printed: %s", s)
		}
	}
	if _, err := Read("-", strings.NewReader(text)); err != nil {
		t.Errorf("from standard input: %v", err)
	}
	_, err = Read("-", strings.NewReader(strings.Repeat("x", 5000)))
	wants2(t, err, problem.Invalid)
	_, err = Read(filepath.Join(t.TempDir(), "none"), nil)
	wants2(t, err, problem.NotFound)
}

func wants2(t *testing.T, err error, kind problem.Kind) {
	t.Helper()
	if problem.KindOf(err) != kind {
		t.Errorf("%v", err)
	}
}

func TestTokensAreBounded(t *testing.T) {
	h := newHouse(t)
	for range maxRecords {
		h.token(t, "e", time.Hour)
	}
	_, err := Make(h.state, "e", Terms{Expires: time.Hour, Life: time.Hour}, time.Now())
	wants(t, "one more", err, problem.Conflict, "tokens")
	if _, err := Make(h.state, "e", Terms{Expires: time.Hour, Life: time.Hour}, time.Now().Add(remembered+2*time.Hour)); err != nil {
		t.Errorf("after they were forgotten: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(h.state, dirName, "*.json"))
	if err != nil || len(files) != 1 {
		t.Errorf("%d files stay, %v", len(files), err)
	}
}

// FuzzRequest is what a stranger may say: any bytes, to the decoder and to what reads the request.
func FuzzRequest(f *testing.F) {
	good, err := json.Marshal(Request{Node: "e", CSR: []byte{0x30, 0}})
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{good, {}, []byte(`{"csr":"AAAA"}`), []byte(`{"id":[1,2,3],"x":1}`)} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q Request
		if err := read(bytes.NewReader(b), &q, maxRequest); err != nil {
			return
		}
		if _, _, err := newcomerKey(q.CSR); err != nil && problem.KindOf(err) != problem.Invalid {
			t.Errorf("%v", err)
		}
	})
}
