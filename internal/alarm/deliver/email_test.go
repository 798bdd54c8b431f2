package deliver

import (
	"bufio"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"revolve/internal/alarm"
	"revolve/internal/config"
)

// mailServer speaks as much SMTP (RFC 5321, 3207, 4954) as a mail needs.
type mailServer struct {
	address  string
	starttls bool // it offers it
	cert     tls.Certificate
	caFile   string

	mu    sync.Mutex
	rcpt  []string
	data  []string
	auth  []string
	plain []string // commands that came in clear
	taken string   // what it says after the text; "": it takes it
	dead  string   // mailboxes with this in their names are no more
	later string   // mailboxes with this in their names want it later
}

func newMailServer(t *testing.T, starttls bool) *mailServer {
	t.Helper()
	s := &mailServer{starttls: starttls}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	s.caFile = write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); served.Wait() })
	return s
}

func (s *mailServer) serve(c net.Conn) {
	defer func() { c.Close() }()
	secure := false
	r := bufio.NewReader(c)
	say := func(text string) { fmt.Fprintf(c, "%s\r\n", text) }
	say("220 test")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		s.mu.Lock()
		if !secure {
			s.plain = append(s.plain, line)
		}
		s.mu.Unlock()
		switch word, rest, _ := strings.Cut(line, " "); strings.ToUpper(word) {
		case "EHLO":
			say("250-test")
			if s.starttls && !secure {
				say("250-STARTTLS")
			}
			say("250 AUTH PLAIN")
		case "STARTTLS":
			say("220 go on")
			t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{s.cert}})
			if t.Handshake() != nil {
				return
			}
			c, r, secure = t, bufio.NewReader(t), true
			say = func(text string) { fmt.Fprintf(t, "%s\r\n", text) }
		case "AUTH":
			b, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(rest, "PLAIN "))
			s.mu.Lock()
			s.auth = append(s.auth, string(b))
			s.mu.Unlock()
			if !strings.HasSuffix(string(b), "\x00"+secretWord) {
				say("535 5.7.8 no: " + string(b))
				continue
			}
			say("235 welcome")
		case "RCPT":
			s.mu.Lock()
			s.rcpt = append(s.rcpt, rest)
			later := s.later != "" && strings.Contains(rest, s.later)
			s.mu.Unlock()
			if s.dead != "" && strings.Contains(rest, s.dead) {
				say("550 5.1.1 no such mailbox")
				continue
			}
			if later {
				say("452 4.2.2 mailbox full")
				continue
			}
			say("250 ok")
		case "DATA":
			say("354 go on")
			var b strings.Builder
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				b.WriteString(strings.TrimPrefix(l, "."))
			}
			s.mu.Lock()
			s.data = append(s.data, b.String())
			s.mu.Unlock()
			say(cmp.Or(s.taken, "250 taken"))
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func mailTo(s *mailServer, t *testing.T, password string) config.Alarm {
	return config.Alarm{Kind: config.AlarmEmail, Server: s.address, From: "revolve@example.org", To: []string{"one@example.org", "two@example.org"}, User: "revolve", PasswordFile: write(t, password, 0o600), TLS: config.MailSTARTTLS, CAFile: s.caFile}
}

// A mail goes out over STARTTLS, to everybody, as one thread for each group; nothing but the greeting goes in clear.
func TestEmail(t *testing.T) {
	s := newMailServer(t, true)
	if _, err := channel(mailTo(s, t, secretWord)).Deliver(t.Context(), long(alarm.Firing), ""); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rcpt) != 2 || len(s.data) != 1 {
		t.Fatalf("to %v, %d mails", s.rcpt, len(s.data))
	}
	for _, line := range s.plain {
		if !strings.HasPrefix(line, "EHLO") && line != "STARTTLS" {
			t.Errorf("in clear: %s", line)
		}
	}
	m, err := mail.ReadMessage(strings.NewReader(s.data[0]))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil || !strings.Contains(string(body), "critical: volume-broken") || !strings.Contains(string(body), "\u00fc") {
		t.Errorf("%v %s", err, body)
	}
	if m.Header.Get("In-Reply-To") != "<1-a@revolve.invalid>" || !strings.Contains(m.Header.Get("Subject"), "homelab:_CRITICAL") || m.Header.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("got %v", m.Header)
	}
}

// Without STARTTLS, with a certificate that nobody vouches for, or with a wrong password nothing is sent, and no error tells the password.
func TestEmailThatIsNotSafe(t *testing.T) {
	good, bare := newMailServer(t, true), newMailServer(t, false)
	unknown := mailTo(good, t, secretWord)
	unknown.CAFile = ""
	plain := mailTo(bare, t, secretWord)
	plain.TLS = config.MailPlain
	for name, a := range map[string]config.Alarm{"no STARTTLS": mailTo(bare, t, secretWord), "unknown certificate": unknown, "password in clear": plain, "wrong password": mailTo(good, t, "wr0ng")} {
		_, err := channel(a).Deliver(t.Context(), long(alarm.Firing), "")
		if err == nil || strings.Contains(err.Error(), secretWord) || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%s: %v", name, err)
		}
	}
	good.mu.Lock()
	defer good.mu.Unlock()
	bare.mu.Lock()
	defer bare.mu.Unlock()
	if len(good.data)+len(bare.data)+len(bare.auth) > 0 {
		t.Errorf("something was sent: %v %v %v", good.data, bare.data, bare.auth)
	}
}

// A mail server that refuses the text for good is told from one that wants it later.
func TestEmailThatIsRefused(t *testing.T) {
	for answer, forGood := range map[string]bool{"552 5.3.4 too big": true, "451 4.3.0 later": false} {
		s := newMailServer(t, true)
		s.taken = answer
		_, err := channel(mailTo(s, t, secretWord)).Deliver(t.Context(), long(alarm.Firing), "")
		var refused *Refused
		if err == nil || errors.As(err, &refused) != forGood {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

// A mailbox that is no more keeps the mail from no other, and that is said; if all are gone nothing was delivered.
func TestEmailToADeadMailbox(t *testing.T) {
	for dead, sent := range map[string]int{"one@": 1, "two@": 1, "@example": 0} {
		s := newMailServer(t, true)
		s.dead = dead
		_, err := channel(mailTo(s, t, secretWord)).Deliver(t.Context(), long(alarm.Firing), "")
		var refused *Refused
		if err == nil || errors.As(err, &refused) != (sent > 0) || strings.Contains(err.Error(), "one@") {
			t.Errorf("%s: %v", dead, err)
		}
		s.mu.Lock()
		if len(s.data) != sent {
			t.Errorf("%s: %d mails", dead, len(s.data))
		}
		s.mu.Unlock()
	}
}

// A mailbox that always wants the mail later keeps it from the others for a few tries only, and the next one not at all; it is
// asked each time, and waited for again once it took one. If it is the only one it is waited for.
func TestEmailToAMailboxThatWantsItLater(t *testing.T) {
	s := newMailServer(t, true)
	wants := func(later string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.later = later
	}
	wants("one@")
	c := channel(mailTo(s, t, secretWord))
	deliver := func() (refused bool, mails int) {
		t.Helper()
		_, err := c.Deliver(t.Context(), long(alarm.Firing), "")
		var no *Refused
		s.mu.Lock()
		defer s.mu.Unlock()
		mails, s.data = len(s.data), nil
		if (err == nil) != (s.later == "") {
			t.Errorf("got %v", err)
		}
		return errors.As(err, &no), mails
	}
	for try := range lateTries + 3 {
		refused, mails := deliver()
		if gone := try >= lateTries-1; refused != gone || (mails == 1) != gone {
			t.Errorf("try %d: refused %v, %d mails", try+1, refused, mails)
		}
	}
	wants("")
	if refused, mails := deliver(); refused || mails != 1 {
		t.Errorf("it takes mail again: refused %v, %d mails", refused, mails)
	}
	wants("one@")
	if refused, mails := deliver(); refused || mails != 0 {
		t.Errorf("it is full again: refused %v, %d mails", refused, mails)
	}
	wants("@example")
	for range 2 * lateTries {
		if refused, mails := deliver(); refused || mails != 0 {
			t.Fatalf("nobody takes it: refused %v, %d mails", refused, mails)
		}
	}
}

// A relay in the house without TLS and without a password is used if the configuration says so.
func TestEmailInTheHouse(t *testing.T) {
	s := newMailServer(t, false)
	a := mailTo(s, t, secretWord)
	a.TLS, a.User, a.PasswordFile, a.CAFile = config.MailPlain, "", "", ""
	m := long(alarm.Resolved)
	m.Title = "two\r\nBcc: everybody@example.org"
	if _, err := channel(a).Deliver(t.Context(), m, ""); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got, err := mail.ReadMessage(strings.NewReader(s.data[0])); err != nil || got.Header.Get("Bcc") != "" {
		t.Errorf("a title made a header: %v %v", err, s.data)
	}
}
