package service

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"revolve/internal/config"
)

// ask carries one check out; nil means that the service is well.
func ask(ctx context.Context, c config.Check, timeout time.Duration, env []string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var err error
	switch c.Kind {
	case config.CheckDNS:
		err = askDNS(ctx, c)
	case config.CheckTCP:
		err = askTCP(ctx, c)
	case config.CheckHTTP:
		err = askHTTP(ctx, c)
	case config.CheckExec:
		var out string
		if out, err = shell(ctx, timeout, c.Command, env, ""); err != nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
		}
	}
	var late net.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return fmt.Errorf("%s: no answer within %v", c.Text, timeout)
	}
	return fmt.Errorf("%s: %w", c.Text, err)
}

func askTCP(ctx context.Context, c config.Check) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return cause(err)
	}
	return conn.Close()
}

// askHTTP does not follow redirects (they are answers), and does not judge the
// certificate: one that has expired has expired on every node, and the address
// asked is seldom the name that it was made for.
func askHTTP(ctx context.Context, c config.Check) error {
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Text, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return cause(err)
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if bad := resp.StatusCode >= http.StatusBadRequest; c.Status == 0 && bad || c.Status != 0 && c.Status != resp.StatusCode {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}

// cause is what the system said, without the address that the check's text has already.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// maxAnswer is how much of an answer is read: without EDNS, UDP carries no more (RFC 1035, 4.2.1).
const maxAnswer = 512

func askDNS(ctx context.Context, c config.Check) error {
	var id [2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	q, query, err := question(binary.BigEndian.Uint16(id[:]), c)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", c.Address)
	if err != nil {
		return cause(err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := conn.Write(query); err != nil {
		return cause(err)
	}
	b := make([]byte, maxAnswer)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return cause(err)
		}
		if ours, err := judge(b[:n], binary.BigEndian.Uint16(id[:]), q); ours {
			return err
		} // else an answer to somebody else, or to a question that was given up
	}
}

// question is a query of one question (RFC 1035, 4.1); recursion is desired, so that a forwarder can be asked too.
func question(id uint16, c config.Check) (q dnsmessage.Question, wire []byte, err error) {
	name, err := dnsmessage.NewName(c.Name)
	if err != nil {
		return q, nil, err
	}
	kinds := map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "NS": dnsmessage.TypeNS, "SOA": dnsmessage.TypeSOA,
		"MX": dnsmessage.TypeMX, "TXT": dnsmessage.TypeTXT, "PTR": dnsmessage.TypePTR, "CNAME": dnsmessage.TypeCNAME, "SRV": dnsmessage.TypeSRV}
	q = dnsmessage.Question{Name: name, Type: kinds[c.Type], Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true}, Questions: []dnsmessage.Question{q}}
	wire, err = m.Pack()
	return q, wire, err
}

// judge reads an answer; ours is false if it is none to this question. It is well
// with at least one record, or cut short for their number.
func judge(b []byte, id uint16, q dnsmessage.Question) (ours bool, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.ID != id || !h.Response {
		return false, nil
	}
	asked, err := p.Question()
	if h.RCode != dnsmessage.RCodeSuccess && h.RCode != dnsmessage.RCodeNameError {
		return true, fmt.Errorf("the server says %s", strings.TrimPrefix(h.RCode.String(), "RCode")) // perhaps without the question
	}
	if err != nil || asked.Type != q.Type || !strings.EqualFold(asked.Name.String(), q.Name.String()) {
		return false, nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return true, errors.New("the answer cannot be read")
	}
	_, err = p.AnswerHeader()
	switch {
	case h.RCode == dnsmessage.RCodeNameError:
		return true, errors.New("the server knows no such name")
	case h.Truncated:
		return true, nil
	case errors.Is(err, dnsmessage.ErrSectionDone):
		return true, fmt.Errorf("the name has no record of type %s", strings.TrimPrefix(q.Type.String(), "Type"))
	case err != nil:
		return true, errors.New("the answer cannot be read")
	}
	return true, nil
}
