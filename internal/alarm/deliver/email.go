package deliver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"strings"
	"time"

	"revolve/internal/alarm"
	"revolve/internal/config"
	"revolve/internal/problem"
	"revolve/internal/secret"
)

// email hands the message to a mail server. Without TLS it sends nothing, unless the
// configuration says that it may, and never a password.
func (c *Channel) email(ctx context.Context, m alarm.Message) error {
	host, _, err := net.SplitHostPort(c.to.Server)
	if err != nil {
		return c.failed(err)
	}
	trust, err := c.trust(host)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.to.Server)
	if err != nil {
		return c.failed(err)
	}
	defer conn.Close()
	conn = &terse{Conn: conn, left: maxMail}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return c.failed(err)
		}
	}
	if c.to.TLS == config.MailTLS {
		conn = tls.Client(conn, trust)
	}
	client, err := smtp.NewClient(conn, host)
	if err != nil {
		return c.failed(err)
	}
	defer client.Close()
	if err := c.secure(client, trust); err != nil {
		return err
	}
	if err := c.login(client, host); err != nil {
		return err
	}
	return c.hand(client, m)
}

// maxMail is what is read of a mail server in one delivery: its certificates and a
// dozen answers. net/textproto has no bound of its own.
const maxMail = 256 << 10

// terse is a connection of which no more than that is read.
type terse struct {
	net.Conn
	left int
}

// Read ends with an error when too much has come.
func (t *terse) Read(b []byte) (int, error) {
	if t.left <= 0 {
		return 0, errors.New("the mail server says too much")
	}
	n, err := t.Conn.Read(b[:min(len(b), t.left)])
	t.left -= n
	return n, err
}

// trust is whom the mail server's certificate has to come from.
func (c *Channel) trust(host string) (*tls.Config, error) {
	t := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if c.to.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.to.CAFile)
	if err != nil {
		return nil, &problem.Problem{Op: "read certificate", Kind: problem.NotFound, Subject: c.to.CAFile, Err: err}
	}
	if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, &problem.Problem{Op: "read certificate", Kind: problem.Invalid, Subject: c.to.CAFile, Err: errors.New("it has no certificate in it"), Hint: "write it in PEM form"}
	}
	return t, nil
}

func (c *Channel) secure(client *smtp.Client, trust *tls.Config) error {
	if c.to.TLS != config.MailSTARTTLS {
		return nil
	}
	if offered, _ := client.Extension("STARTTLS"); !offered {
		return c.failed(errors.New("the mail server offers no STARTTLS, so nothing was sent"))
	}
	if err := client.StartTLS(trust); err != nil {
		return c.failed(err)
	}
	return nil
}

func (c *Channel) login(client *smtp.Client, host string) error {
	if c.to.User == "" {
		return nil
	}
	if _, safe := client.TLSConnectionState(); !safe {
		return c.failed(errors.New("without TLS no password is sent"))
	}
	password, err := secret.Read(c.to.PasswordFile)
	if err != nil {
		return err
	}
	if err := client.Auth(smtp.PlainAuth("", c.to.User, password, host)); err != nil {
		return c.failed(errors.New("the mail server refuses the user or the password")) // what it says may repeat them
	}
	return nil
}

func (c *Channel) hand(client *smtp.Client, m alarm.Message) error {
	if err := client.Mail(c.to.From); err != nil {
		return c.failed(err)
	}
	gone, err := c.recipients(client)
	if err != nil {
		return c.failed(err)
	}
	w, err := client.Data()
	if err != nil {
		return c.failed(err)
	}
	_, err = w.Write(c.mail(m, time.Now()))
	err = errors.Join(err, w.Close())
	if forGood(err) { // after the data: it is about the message
		return c.refused(fmt.Errorf("the mail server refuses the message: %w", err))
	}
	if err != nil {
		return c.failed(err)
	}
	_ = client.Quit() // the message was accepted already
	if gone > 0 {
		return c.refused(fmt.Errorf("%d of %d recipients are refused; the others have it", gone, len(c.to.To)))
	}
	return nil
}

// lateTries is how often a mailbox may want the mail later, one after the other (for 75 s in all), until the others get it without.
const lateTries = 5

// recipients names all of them to the server, and counts those that a mail goes out without: a mailbox that is no more, or
// that always wants it later, must not keep it from the others. It is an error if one is still waited for, or if none is left.
func (c *Channel) recipients(client *smtp.Client) (gone int, err error) {
	var later, last error
	for _, to := range c.to.To {
		err := client.Rcpt(to)
		switch {
		case err == nil:
			c.late(to, false)
			continue
		case forGood(err):
		case !forNow(err):
			return 0, err
		case c.late(to, true) < lateTries:
			later = err
		}
		gone, last = gone+1, err
	}
	if gone == len(c.to.To) {
		return 0, last
	}
	return gone, later
}

// late counts how often in a row a mailbox wanted the mail later.
func (c *Channel) late(to string, again bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !again {
		delete(c.lates, to)
		return 0
	}
	c.lates[to] = min(c.lates[to]+1, lateTries)
	return c.lates[to]
}

// forNow reports whether a mail server refuses this mailbox and may take it later; 421 is about the server (RFC 5321 section 4.2.2).
func forNow(err error) bool {
	var answer *textproto.Error
	return errors.As(err, &answer) && answer.Code >= 400 && answer.Code < 500 && answer.Code != 421
}

// forGood reports whether a mail server will never take what it refuses (RFC 5321 section 4.2.1).
func forGood(err error) bool {
	var answer *textproto.Error
	return errors.As(err, &answer) && answer.Code >= 500
}

// mail is the message as RFC 5322 wants it. Messages about one group are one thread.
func (c *Channel) mail(m alarm.Message, now time.Time) []byte {
	var b strings.Builder
	thread := fmt.Sprintf("<%s@revolve.invalid>", m.Group)
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, oneLine(value)) }
	header("From", c.to.From)
	header("To", strings.Join(c.to.To, ", "))
	header("Subject", mime.QEncoding.Encode("utf-8", oneLine(m.Title)))
	header("Date", now.Format(time.RFC1123Z))
	header("Message-ID", fmt.Sprintf("<%s.%d@revolve.invalid>", m.Group, now.UnixNano()))
	header("In-Reply-To", thread)
	header("References", thread)
	header("Auto-Submitted", "auto-generated") // RFC 3834: no out-of-office answers
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	_, _ = q.Write([]byte(m.Title + "\n\n" + m.Text() + "\n")) // a builder takes everything
	_ = q.Close()
	return []byte(b.String())
}

// oneLine keeps a value in its header.
func oneLine(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }
