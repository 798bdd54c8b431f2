package page

import (
	_ "embed"
	"fmt"
	"strings"
	"testing"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/web"
)

//go:embed rules.js
var rules string

const live = `document.documentElement?.dataset.live !== undefined`

// TestPage looks at the page in one browser; its parts share it.
func TestPage(t *testing.T) {
	b := openBrowser(t)
	part := func(name string, test func(b *browser)) {
		t.Run(name, func(t *testing.T) {
			outer := b.t
			b.t = t
			defer func() { b.t = outer }()
			b.scripts(true)
			b.as(1280, false, true)
			_ = b.complaints()
			test(b)
		})
	}
	part("rules", everywhere)
	part("axe", axeFinds)
	part("keyboard", byKeyboard)
	part("markup", markupIsText)
	part("without scripts", withoutScripts)
	part("live", staysNew)
	part("stale", saysThatItIsOld)
	part("orders", takesOrders)
}

// longest is as many nodes as there may be, with names as long as they may be.
func longest() web.Snapshot {
	var names []cluster.NodeID
	for i := range 16 {
		names = append(names, cluster.NodeID(fmt.Sprintf("a-machine-with-a-name-of-length-%x", i)[:32]))
	}
	s := calm(names...)
	st := &s.Status
	st.Cluster = strings.Repeat("c", 32)
	st.Verdict, st.Reasons = control.Warning, []string{strings.Repeat("w", 200), "look: `" + strings.Repeat("/deep", 60) + "`"}
	st.VIPs[0].Address = "fd77:1234:5678:9abc:def0:1234:5678:9abc/64"
	st.Volumes[0].Path = "/" + strings.Repeat("long/", 50)
	st.Services[0].LastError = strings.Repeat("e", 300)
	return s
}

// everywhere: our own rules hold at every width, in both themes, whatever there is to tell.
func everywhere(b *browser) {
	h := openHouse(b.t, calm("a", "b", "c", "d"))
	for name, s := range map[string]web.Snapshot{"calm": calm("a", "b", "c", "d"), "troubled": troubled(), "longest": longest(), "empty": {Status: control.Status{Node: "a", Cluster: "homelab", AsOf: noon()}}} {
		h.show(s)
		b.goTo(h.url)
		b.until("it shows "+name, fmt.Sprintf("%s && document.querySelectorAll('#nodes tbody tr').length === %d && document.querySelectorAll('.reasons li').length === %d", live, len(s.Status.Nodes), len(s.Status.Reasons)))
		b.eval(nil, `document.querySelectorAll("details").forEach((d) => { d.open = true; })`)
		for _, width := range []int{360, 768, 1280} {
			for _, dark := range []bool{false, true} {
				b.as(width, dark, true)
				var wrong []string
				b.eval(&wrong, rules)
				for _, w := range wrong {
					b.t.Errorf("%s, %d wide, dark %v: %s", name, width, dark, w)
				}
			}
		}
	}
	if said := b.complaints(); said != "" {
		b.t.Errorf("the browser complains: %s", said)
	}
}

// axeFinds: the rules of axe-core hold, too.
func axeFinds(b *browser) {
	source := axe(b.t)
	if source == "" {
		return
	}
	h := openHouse(b.t, troubled())
	for width, dark := range map[int]bool{360: true, 1280: false} {
		b.as(width, dark, true)
		b.goTo(h.url)
		b.until("it is live", live)
		b.eval(nil, `document.querySelectorAll("details").forEach((d) => { d.open = true; })`)
		axeOn(b, source, fmt.Sprintf("%d wide, dark %v", width, dark))
	}
}

// axeOn tries the rules of axe-core on what is shown.
func axeOn(b *browser, source, where string) {
	b.t.Helper()
	b.eval(nil, source+`;undefined`)
	var found struct {
		Passes     int
		Violations []string
	}
	b.eval(&found, `axe.run(document, { resultTypes: ["violations"] }).then((r) => ({ passes: r.passes.length, violations: r.violations.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html.slice(0, 120)).join(" | ")) }))`)
	for _, v := range found.Violations {
		b.t.Errorf("%s: %s", where, v)
	}
	if found.Passes < 20 {
		b.t.Errorf("%s: only %d rules were tried", where, found.Passes)
	}
}

// byKeyboard: everything that does something is reached by Tab, in the order of the page, and one sees where one is.
func byKeyboard(b *browser) {
	h := openHouse(b.t, calm("a", "b", "c", "d"))
	b.goTo(h.url)
	b.until("it is live", live)
	var order []string
	for range 6 {
		b.key("Tab", 9)
		var at struct {
			What    string
			Outline string
		}
		b.eval(&at, `(() => { const e = document.activeElement; const s = getComputedStyle(e); return { what: (e.getAttribute("aria-label") || e.textContent).trim().slice(0, 40), outline: s.outlineStyle + " " + s.outlineWidth }; })()`)
		order = append(order, at.What)
		if !strings.HasPrefix(at.Outline, "solid 3px") {
			b.t.Errorf("one does not see that %q has the focus: %s", at.What, at.Outline)
		}
	}
	want := []string{"To the status", "Links between every two nodes", "d → to  ad was heard no more", "a → to  d", "a", "status.json"}
	for i, w := range want {
		if i >= len(order) || !strings.HasPrefix(order[i], strings.Split(w, "was")[0]) {
			b.t.Fatalf("order %q, want %q", order, want)
		}
	}
	b.eval(nil, `document.querySelector("summary").focus()`)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"})
	b.until("Enter opens a failover", `document.querySelector("details").open`)
}

// markupIsText: what a peer says is text, in the page that is served and in what events bring.
func markupIsText(b *browser) {
	const evil = `<img src=x onerror="window.evil=1"><script>window.evil=2</script>"><svg onload=window.evil=3>`
	h := openHouse(b.t, calm("a", "b", "c"))
	for _, when := range []string{"event", "page"} {
		if when == "event" {
			b.goTo(h.url)
			b.until("it is live", live)
			b.complaints() // the page before may have asked for an icon of a server that has ended
		}
		bad := calm("a", "b", "c")
		st := &bad.Status
		st.Cluster, st.Verdict, st.Reasons = evil, control.Warning, []string{evil, "`" + evil + "`"}
		st.Nodes[1].Name, st.Nodes[1].State, st.Nodes[1].Role = evil, evil, evil
		st.Volumes[0].Path, st.Volumes[0].Problem, st.Volumes[0].Standbys[0].Node = evil, evil, evil
		st.Services[0].LastError = evil
		bad.Records[0].From = evil
		h.show(bad)
		if when == "page" {
			b.goTo(h.url)
		}
		b.until("it is shown", `document.querySelector("#next").textContent.includes("window.evil=1")`)
		var found struct {
			Evil            any
			Images, Scripts int
		}
		b.eval(&found, `({ evil: window.evil ?? null, images: document.querySelectorAll("img").length, scripts: document.scripts.length })`)
		if found.Evil != nil || found.Images != 0 || found.Scripts != 1 {
			b.t.Errorf("%s: what a peer said became part of the page: %+v", when, found)
		}
		if said := b.complaints(); said != "" {
			b.t.Errorf("%s: only the policy stopped it: %s", when, said)
		}
	}
}

const allText = `document.querySelector("main").innerText.replace(/\s+/g, " ")`

// withoutScripts: the page says all that it says with them, and that it does not renew itself.
func withoutScripts(b *browser) {
	h := openHouse(b.t, troubled())
	b.goTo(h.url)
	b.until("it is live", live)
	var with, without string
	b.eval(&with, allText)
	b.scripts(false)
	b.goTo(h.url)
	b.eval(&without, allText)
	var arrows int
	b.eval(&arrows, `[...document.querySelectorAll(".flow")].filter((e) => e.getBoundingClientRect().width > 1).length`)
	if arrows != 2 {
		b.t.Errorf("%d arrows are shown, want those to the two standbys that are heard", arrows)
	}
	if with != without || len(without) < 1000 {
		b.t.Errorf("with scripts:\n%s\nwithout:\n%s", with, without)
	}
	var notice string
	aged := `(() => { const e = document.querySelector(".aged"); return getComputedStyle(e).visibility + " " + e.textContent + " " + getComputedStyle(document.querySelector("main")).filter; })()`
	b.eval(&notice, aged)
	if !strings.HasPrefix(notice, "hidden") {
		b.t.Errorf("a new page says: %s", notice)
	}
	b.eval(nil, `document.getAnimations().forEach((a) => { if (["appear", "age"].includes(a.animationName)) a.finish(); })`) // half a minute later
	b.eval(&notice, aged)
	if !strings.HasPrefix(notice, "visible") || !strings.Contains(notice, "What has happened since is unknown") || !strings.HasSuffix(notice, "grayscale(1)") {
		b.t.Errorf("an old page says: %s", notice)
	}
}

// staysNew: what changes comes by itself, and what a person opened stays open.
func staysNew(b *browser) {
	h := openHouse(b.t, calm("attic", "cellar", "office", "garage"))
	b.goTo(h.url)
	b.until("it is live", live)
	b.eval(nil, `document.querySelector("details").open = true; document.querySelector("summary").focus(); window.seat = document.querySelector('.seat[data-key="garage"]')`)
	s := troubled()
	s.Status.Master, s.Status.Node = "cellar", "cellar"
	s.Records = append(records([]cluster.NodeID{"cellar", "attic"}, noon())[:1], s.Records...)
	s.Records[0].Term = 43
	h.show(s)
	b.until("the trouble is shown", `document.querySelector("h1").textContent.includes("It needs you now") && document.title.startsWith("critical")`)
	b.until("the ring has turned", `document.querySelector(".seat.master").dataset.key === "cellar" && document.querySelector('.seat[data-key="cellar"]').getAttribute("transform").startsWith("rotate(0)")`)
	b.until("its icon tells, too", `document.getElementById("icon").getAttribute("href").includes("icon-critical")`)
	var kept struct {
		Open, Focus, Same bool
		Records           int
	}
	b.eval(&kept, `({ open: document.querySelector('details[data-key="42-attic"]').open, focus: document.activeElement.closest("details")?.dataset.key === "42-attic", same: window.seat.isConnected, records: document.querySelectorAll("details").length })`)
	if !kept.Open || !kept.Focus || !kept.Same || kept.Records != 4 {
		b.t.Errorf("after a change: %+v", kept)
	}
	b.until("it says who tells it now", `document.getElementById("who").textContent === "homelab as cellar sees it" && document.getElementById("stale").dataset.node === "cellar"`)
	b.eval(nil, `document.scripts[0].setAttribute("src", "/assets/page-of-an-earlier-version.js"); window.earlier = true`)
	b.until("a page of another version is loaded anew", live+` && window.earlier === undefined`)
	if said := b.complaints(); said != "" {
		b.t.Errorf("the browser complains: %s", said)
	}
}

// saysThatItIsOld: when nobody answers, nothing looks well any more, in words and shapes; when somebody does, it is live again.
func saysThatItIsOld(b *browser) {
	h := openHouse(b.t, calm("a", "b", "c", "d"))
	b.goTo(h.url)
	b.until("it is live", live)
	var green, grey, word string
	colour := `getComputedStyle(document.querySelector("h1 .mark")).color`
	b.eval(&green, colour)
	h.stop()
	b.until("it says that it is old", `document.documentElement.dataset.stale !== undefined`)
	b.eval(&grey, colour)
	b.eval(&word, `document.title + " | " + document.getElementById("stale").innerText + " | " + document.querySelector("h1").innerText + " | " + getComputedStyle(document.querySelector(".pulse")).display + " | " + document.getElementById("icon").getAttribute("href")`)
	for _, want := range []string{"unknown · homelab", "No word from a since 12:00:07", "how it is now is unknown", "| It was:\n", "| none |", "icon-unknown"} {
		if !strings.Contains(word, want) {
			b.t.Errorf("%q is not said: %s", want, word)
		}
	}
	if green == grey {
		b.t.Errorf("an old page is as green as a new one: %s", grey)
	}
	h.again()
	b.until("it is live again", live+` && document.getElementById("stale").textContent === "" && document.title === "ok · homelab"`)
}
