package page

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/web"
)

// noted is who carries orders out: it notes them.
type noted struct {
	mu   sync.Mutex
	list []string
}

func (n *noted) add(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, text)
}

func (n *noted) all() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.list, "; ")
}

func (n *noted) Switch(_ context.Context, to cluster.NodeID) (cluster.NodeID, error) {
	n.add("switch to " + string(to))
	return "b", nil
}

func (n *noted) Hold(_ context.Context, on bool) (control.Ordered, error) {
	n.add(fmt.Sprint("hold ", on))
	return control.Ordered{On: on}, nil
}

func (n *noted) Silence(_ context.Context, o control.SilenceOrder) error {
	n.add(fmt.Sprint("silence ", o.Kind, " ", o.Subject, " ", o.For))
	return nil
}

// takesOrders: a person without a mouse signs in, gives every order and signs out; nothing else comes in.
func takesOrders(b *browser) {
	const evil = `<img src=x onerror="window.evil=1">`
	s := calm("a", "b", "c")
	s.Status.Alarms.Open = []control.AlarmEntry{{Kind: "node-dead", Subject: evil, Severity: "warning", Text: evil, Since: noon()}}
	orders, state := &noted{}, b.t.TempDir()
	h := openHouseFor(b.t, s, orders, state)
	token, _, err := web.MakeToken(state, time.Hour, time.Now())
	must(b.t, err)

	b.goTo(h.url)
	b.until("it is live", live)
	b.eval(nil, `document.querySelector("footer a[href='/orders']").focus()`)
	b.enter()
	b.looksWell("signing in")
	b.signIn(token + "x")
	b.shows("a wrong token", "That is not a token of this node")
	b.signIn(token)
	b.shows("signed in", "Planned switch")
	b.looksWell("signed in")
	var hidden struct{ Cookie, Evil string }
	b.eval(&hidden, `({ cookie: document.cookie, evil: String(window.evil) + document.querySelectorAll("main img").length })`)
	if hidden.Cookie != "" || hidden.Evil != "undefined0" {
		b.t.Errorf("a script sees the cookie %q; markup became %s", hidden.Cookie, hidden.Evil)
	}

	b.tabs("To the orders", "The status", "to", "sure", "Switch")
	b.eval(nil, `document.querySelector("button").focus()`)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"})
	b.until("nothing is switched before the box is ticked", `document.activeElement.name === "sure"`)
	b.eval(nil, `document.querySelector("[name=sure]").checked = true; document.querySelector("button").focus()`)
	b.enter()
	b.shows("switched", "Done: b is master.")
	for at, says := range map[string]string{"[action='/orders/hold'] button": "Done: nothing moves by itself", "[action='/orders/silence'] button": "Done: nobody is told of node-dead " + evil} {
		b.eval(nil, fmt.Sprintf(`document.querySelector(%q).focus()`, at))
		b.enter()
		b.shows(at, says)
	}
	got := orders.all()
	for _, want := range []string{"switch to ", "hold true", "silence node-dead " + evil + " 1h0m0s"} {
		if strings.Count(got, want) != 1 {
			b.t.Errorf("ordered was %q, not once %q", got, want)
		}
	}

	cookie := b.cookie(h.url)
	_, err = web.RevokeToken(state)
	must(b.t, err)
	b.eval(nil, `document.querySelector("[action='/orders/hold'] button").focus()`)
	b.enter()
	b.shows("after the revocation", "You are not signed in any more. Nothing was done.")
	b.call("Network.setCookie", map[string]any{"url": h.url + "orders", "name": cookie.Name, "value": cookie.Value, "path": "/orders"})
	b.goTo(h.url + "orders")
	b.shows("a cookie that is played again", "Sign in")
	if again := orders.all(); again != got {
		b.t.Errorf("ordered was more: %q", again)
	}
}

// enter presses Enter, and waits for the page that comes.
func (b *browser) enter() {
	b.t.Helper()
	for len(b.loads) > 0 {
		<-b.loads
	}
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"})
	select {
	case <-b.loads:
	case <-time.After(answerWithin):
		b.t.Fatal("Enter leads nowhere")
	}
}

func (b *browser) signIn(token string) {
	b.t.Helper()
	b.eval(nil, `document.querySelector("#token").focus()`)
	b.call("Input.insertText", map[string]any{"text": token})
	b.enter()
}

// shows looks for words that a person can see.
func (b *browser) shows(when, words string) {
	b.t.Helper()
	var text string
	b.eval(&text, `document.querySelector("main").innerText`)
	if !strings.Contains(text, words) {
		b.t.Errorf("%s: it does not say %q: %s", when, words, text)
	}
}

// looksWell tries our own rules and axe's, narrow and wide, in both themes.
func (b *browser) looksWell(where string) {
	b.t.Helper()
	source := axe(b.t)
	for width, dark := range map[int]bool{360: true, 768: false, 1280: false} {
		b.as(width, dark, true)
		at := fmt.Sprintf("%s, %d wide, dark %v", where, width, dark)
		b.eval(nil, `window.leastTexts = 12`) // it has fewer than the status
		var wrong []string
		b.eval(&wrong, rules)
		for _, w := range wrong {
			b.t.Errorf("%s: %s", at, w)
		}
		if source != "" {
			axeOn(b, source, at)
		}
	}
}

// tabs presses Tab from the beginning: this is reached, in this order, and one sees where one is.
func (b *browser) tabs(want ...string) {
	b.t.Helper()
	b.eval(nil, `document.activeElement.blur()`)
	for _, w := range want {
		b.key("Tab", 9)
		var at struct{ What, Outline string }
		b.eval(&at, `(() => { const e = document.activeElement; const s = getComputedStyle(e); return { what: e.name || e.textContent.trim(), outline: s.outlineStyle + " " + s.outlineWidth }; })()`)
		if at.What != w || at.Outline != "solid 3px" {
			b.t.Errorf("Tab leads to %q (%s), not to %q", at.What, at.Outline, w)
		}
	}
}

type cookie struct{ Name, Value string }

// cookie is the one of the orders, as the browser keeps it.
func (b *browser) cookie(url string) cookie {
	b.t.Helper()
	var r struct {
		Cookies []struct {
			cookie
			HTTPOnly bool
			SameSite string
			Path     string
		}
	}
	must(b.t, json.Unmarshal(b.call("Network.getCookies", map[string]any{"urls": []string{url + "orders"}}), &r))
	if len(r.Cookies) != 1 || !r.Cookies[0].HTTPOnly || r.Cookies[0].SameSite != "Strict" || r.Cookies[0].Path != "/orders" {
		b.t.Fatalf("the browser keeps %+v", r.Cookies)
	}
	return r.Cookies[0].cookie
}
