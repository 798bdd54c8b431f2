// What this adds to the page: it stays new by itself, and says so when it does not.
// Everything is there without it.
"use strict";
(() => {
  const staleAfter = 5000; // the server speaks every second
  const again = 10000; // the server said no: it is asked again then
  const root = document.documentElement;
  const stamp = document.getElementById("as-of");
  const notice = document.getElementById("stale");
  const icon = document.getElementById("icon");
  let heard = Date.now(), events = null, known = stamp.textContent, title = document.title, shape = icon.getAttribute("href");

  // become makes one element like another and touches only what differs, so that
  // focus, open records and moving arrows stay.
  function become(is, to) {
    if (is.nodeType !== to.nodeType || is.nodeName !== to.nodeName || (is.dataset && is.dataset.key !== to.dataset.key)) {
      is.replaceWith(to);
      return;
    }
    if (is.nodeType !== Node.ELEMENT_NODE) {
      if (is.data !== to.data) is.data = to.data;
      return;
    }
    const keeps = is.nodeName === "DETAILS" ? "open" : "";
    for (const a of [...is.attributes]) if (a.name !== keeps && !to.hasAttribute(a.name)) is.removeAttribute(a.name);
    for (const a of to.attributes) if (is.getAttribute(a.name) !== a.value) is.setAttribute(a.name, a.value);
    children(is, to);
  }

  function children(is, to) {
    const byKey = new Map();
    for (const c of is.children) if (c.dataset.key !== undefined) byKey.set(c.dataset.key, c);
    let at = is.firstChild;
    for (const want of [...to.childNodes]) {
      const own = want.dataset && want.dataset.key !== undefined ? byKey.get(want.dataset.key) : undefined;
      if (own && own !== at) {
        is.insertBefore(own, at);
        at = own;
      }
      if (!at || (!own && at.dataset && at.dataset.key !== undefined)) { // what has a key is touched by its own kind only
        is.insertBefore(want, at);
        continue;
      }
      const next = at.nextSibling;
      become(at, want);
      at = next;
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function part(event) {
    const { id, html } = JSON.parse(event.data);
    const is = document.getElementById(id);
    const to = new DOMParser().parseFromString(html, "text/html").body; // data of peers is escaped in it; the policy runs no script
    if (is) children(is, to);
  }

  function stamped(event) {
    const s = JSON.parse(event.data);
    if (document.scripts[0].getAttribute("src") !== s.script) { // another version answers: this page is not its own
      events.close();
      location.reload();
      return;
    }
    notice.dataset.node = s.node; // behind a floating address it may be another
    heard = Date.now();
    stamp.dateTime = s.as_of;
    stamp.textContent = known = s.shown;
    title = s.title;
    shape = s.icon;
    look();
  }

  // look shows whether what is on the page is of now.
  function look() {
    const stale = Date.now() - heard > staleAfter;
    document.title = stale ? "unknown · " + title.split(" · ").slice(1).join(" · ") : title;
    const want = stale ? icon.dataset.unknown : shape;
    if (icon.getAttribute("href") !== want) icon.setAttribute("href", want);
    if (stale === ("stale" in root.dataset)) return;
    if (stale) {
      root.dataset.stale = "";
      delete root.dataset.live;
      notice.textContent = `No word from ${notice.dataset.node} since ${known}. What follows is what was known then; how it is now is unknown.`;
    } else {
      delete root.dataset.stale;
      root.dataset.live = "";
      notice.textContent = "";
    }
  }

  function follow() {
    if (events) events.close();
    events = new EventSource("/events");
    events.addEventListener("part", part);
    events.addEventListener("stamp", stamped);
    events.onerror = () => {
      if (events.readyState === EventSource.CLOSED) setTimeout(follow, again);
    };
  }

  root.dataset.live = "";
  setInterval(look, 1000);
  addEventListener("pageshow", (e) => { if (e.persisted) follow(); });
  follow();
})();
