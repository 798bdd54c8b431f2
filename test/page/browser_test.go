package page

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file drives a real Chromium over the DevTools protocol, through two pipes
// (--remote-debugging-pipe: JSON messages, each ended by a zero byte). See decision 0015.

// browser is a running Chromium with one page open.
type browser struct {
	t       *testing.T
	to      *os.File
	session string

	mu      sync.Mutex
	last    int
	waiting map[int]chan answer
	loads   chan struct{}
	said    []string // what the page complained of: exceptions, refusals of its policy
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

const answerWithin = 60 * time.Second // a loaded machine is slow; nothing is measured here

// openBrowser starts Chromium, or skips the test where there is none.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	exe, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("SKIPPED PART: the status page in a browser (no chromium; as root: apt-get install chromium)")
	}
	dir := t.TempDir()
	theirIn, to, err := os.Pipe()
	must(t, err)
	from, theirOut, err := os.Pipe()
	must(t, err)
	cmd := exec.Command(exe, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1", "--remote-debugging-pipe", "--user-data-dir="+dir, "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // descriptors 3 and 4
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	must(t, theirIn.Close())
	must(t, theirOut.Close())
	b := &browser{t: t, to: to, waiting: map[int]chan answer{}, loads: make(chan struct{}, 16)}
	over := make(chan struct{})
	go func() {
		defer close(over)
		b.listen(bufio.NewReader(from))
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its own group, started here
		_ = cmd.Wait()
		_ = to.Close()
		_ = from.Close()
		<-over
	})
	var target struct{ TargetID string }
	b.into(&target, "Target.createTarget", map[string]any{"url": "about:blank"})
	var session struct{ SessionID string }
	b.into(&session, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true})
	b.session = session.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(domain+".enable", nil)
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listen hands answers to whoever waits, and notes events.
func (b *browser) listen(from *bufio.Reader) {
	for {
		line, err := from.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			answer
		}
		if json.Unmarshal(line[:len(line)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		switch {
		case m.ID != 0:
			if w := b.waiting[m.ID]; w != nil {
				w <- m.answer
				delete(b.waiting, m.ID)
			}
		case m.Method == "Page.loadEventFired":
			select {
			case b.loads <- struct{}{}:
			default:
			}
		case m.Method == "Runtime.exceptionThrown", m.Method == "Log.entryAdded":
			b.said = append(b.said, string(m.Params))
		}
		b.mu.Unlock()
	}
}

func (b *browser) try(method string, params any) (json.RawMessage, error) {
	b.mu.Lock()
	b.last++
	id, w := b.last, make(chan answer, 1)
	b.waiting[id] = w
	b.mu.Unlock()
	m := map[string]any{"id": id, "method": method}
	if params != nil {
		m["params"] = params
	}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := b.to.Write(append(data, 0)); err != nil {
		return nil, err
	}
	select {
	case a := <-w:
		if a.Error != nil {
			return nil, errors.New(method + ": " + a.Error.Message)
		}
		return a.Result, nil
	case <-time.After(answerWithin):
		return nil, errors.New(method + ": no answer")
	}
}

func (b *browser) call(method string, params any) json.RawMessage {
	b.t.Helper()
	r, err := b.try(method, params)
	must(b.t, err)
	return r
}

func (b *browser) into(v any, method string, params any) {
	b.t.Helper()
	must(b.t, json.Unmarshal(b.call(method, params), v))
}

// goTo opens an address and waits until everything of it is there.
func (b *browser) goTo(url string) {
	b.t.Helper()
	for len(b.loads) > 0 {
		<-b.loads
	}
	b.call("Page.navigate", map[string]any{"url": url})
	select {
	case <-b.loads:
	case <-time.After(answerWithin):
		b.t.Fatalf("%s is never loaded", url)
	}
}

// eval is what an expression, or a promise of one, gives.
func (b *browser) eval(v any, js string) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	b.into(&r, "Runtime.evaluate", map[string]any{"expression": js, "returnByValue": true, "awaitPromise": true})
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s %s", cutText(js), r.ExceptionDetails.Text, r.ExceptionDetails.Exception.Description)
	}
	if v != nil {
		must(b.t, json.Unmarshal(r.Result.Value, v))
	}
}

func cutText(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// until waits for a condition of the page.
func (b *browser) until(what, js string) {
	b.t.Helper()
	for end := time.Now().Add(answerWithin); ; time.Sleep(20 * time.Millisecond) {
		var yes bool
		b.eval(&yes, "!!("+js+")")
		if yes {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("never: %s", what)
		}
	}
}

// as is how the page is looked at.
func (b *browser) as(width int, dark, still bool) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
	features := []map[string]string{{"name": "prefers-color-scheme", "value": map[bool]string{true: "dark", false: "light"}[dark]}}
	if still {
		features = append(features, map[string]string{"name": "prefers-reduced-motion", "value": "reduce"})
	}
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": features})
}

// scripts turns JavaScript of pages on or off.
func (b *browser) scripts(on bool) {
	b.t.Helper()
	b.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": !on})
}

// picture writes the page into a file, all of it, or what of it is in so much of its height.
func (b *browser) picture(file string, height int) {
	b.t.Helper()
	how := map[string]any{"format": "png", "captureBeyondViewport": true}
	if height > 0 {
		var width int
		b.eval(&width, "innerWidth")
		how["clip"] = map[string]int{"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
	}
	var r struct{ Data string }
	b.into(&r, "Page.captureScreenshot", how)
	data, err := base64.StdEncoding.DecodeString(r.Data)
	must(b.t, err)
	must(b.t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(b.t, os.WriteFile(file, data, 0o644))
}

// key presses a key.
func (b *browser) key(key string, code int) {
	b.t.Helper()
	for _, kind := range []string{"rawKeyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code})
	}
}

// complaints are what the page complained of since the last call.
func (b *browser) complaints() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := strings.Join(b.said, "\n")
	b.said = nil
	return s
}
