package web

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"sync"
	"time"
)

const (
	maxSessions = 8                // only who has the token opens one; the oldest gives way
	sessionLife = 12 * time.Hour   // then it is signed in anew
	sessionIdle = 30 * time.Minute // without a request
)

// session is somebody who is signed in.
type session struct {
	id           string // hash of the cookie's value
	form         string // stands in every form of theirs
	token        string // hash of the token that opened it
	tls          bool   // its cookie was given to a browser behind TLS, and is good only there; else only without
	asks         *bucket
	opened, used time.Time
	said         saying // what their last order came to; shown once
}

// saying is a line for who gave an order.
type saying struct {
	Text, Hint string
	Bad        bool
}

// sessions are those who are signed in, in memory only: the agent's end is theirs.
type sessions struct {
	mu   sync.Mutex
	open []*session // oldest first
}

// begin opens a session, and gives the value of its cookie.
func (s *sessions) begin(token string, tls bool, now time.Time) (cookie string) {
	cookie = secretText()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= maxSessions {
		s.open = slices.Delete(s.open, 0, len(s.open)-maxSessions+1)
	}
	s.open = append(s.open, &session{id: hashOf(cookie), form: secretText(), token: token, tls: tls, asks: newBucket(deskPer, deskBurst), opened: now, used: now})
	return cookie
}

// of is a copy of the session of a cookie, if it came the way that it was opened by, and the token that opened it is the one in
// force. It counts as used. A session of another token stays: a request that read the file earlier must not end one of the new token.
func (s *sessions) of(cookie, token string, tls bool, now time.Time) (found session, ok bool) {
	id := hashOf(cookie)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(x *session) bool { return now.Sub(x.opened) >= sessionLife || now.Sub(x.used) >= sessionIdle })
	for _, x := range s.open {
		if same(x.id, id) && x.token == token && x.tls == tls {
			x.used = now
			found, ok = *x, true
		}
	}
	return found, ok
}

// pace is that of the requests with a cookie, nil if no session has it.
func (s *sessions) pace(cookie string) (asks *bucket) {
	id := hashOf(cookie)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.open {
		if same(x.id, id) {
			asks = x.asks
		}
	}
	return asks
}

// told is what a session's last order came to, once.
func (s *sessions) told(id string) (what saying) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.open {
		if x.id == id {
			what, x.said = x.said, saying{}
		}
	}
	return what
}

// tell has the session's next page say it.
func (s *sessions) tell(id string, what saying) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.open {
		if x.id == id {
			x.said = what
		}
	}
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(x *session) bool { return x.id == id })
}

// same compares in a time that does not depend on where they differ.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func secretText() string {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}
