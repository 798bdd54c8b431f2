// The rules that matter most, as a function of the page: what is wrong with it.
(() => {
  const wrong = [];
  const shown = (e) => { const r = e.getBoundingClientRect(); const s = getComputedStyle(e); return r.width > 1 && r.height > 1 && s.visibility !== "hidden" && s.display !== "none"; };
  const name = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").map((id) => id && document.getElementById(id)?.textContent).join(" ") || e.textContent || "").trim();
  if (document.documentElement.lang !== "en") wrong.push("no language");
  if (!document.title.trim()) wrong.push("no title");
  for (const [what, n] of [["h1", 1], ["main", 1], ["header", 1], ["footer", 1]])
    if (document.querySelectorAll(what).length !== n) wrong.push(`${document.querySelectorAll(what).length} ${what}`);
  let level = 0;
  for (const h of document.querySelectorAll("h1,h2,h3,h4,h5,h6")) {
    const l = +h.tagName[1];
    if (l > level + 1) wrong.push(`h${l} after h${level}: ${h.textContent}`);
    if (!h.textContent.trim()) wrong.push(`an empty h${l}`);
    level = l;
  }
  const ids = new Set();
  for (const e of document.querySelectorAll("[id]")) { if (ids.has(e.id)) wrong.push(`two of #${e.id}`); ids.add(e.id); }
  for (const e of document.querySelectorAll("[aria-labelledby]"))
    for (const id of e.getAttribute("aria-labelledby").split(" ")) if (!ids.has(id)) wrong.push(`#${e.id} is named by #${id}, which is not there`);
  for (const e of document.querySelectorAll("a[href],summary,[role=region],section,svg[role=img],table")) if (!name(e)) wrong.push(`no name: ${e.outerHTML.slice(0, 80)}`);
  for (const e of document.querySelectorAll("svg:not([role=img])")) if (!e.closest("svg[role=img],[aria-hidden=true]")) wrong.push(`a picture neither named nor hidden: ${e.outerHTML.slice(0, 80)}`);
  for (const e of document.querySelectorAll("[aria-hidden=true] a,[aria-hidden=true] [tabindex],[aria-hidden=true] summary")) wrong.push(`hidden, and takes the focus: ${e.outerHTML.slice(0, 80)}`);
  for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) wrong.push("an order of its own");
  for (const e of document.querySelectorAll("th")) if (!e.getAttribute("scope")) wrong.push(`a heading of nothing: ${e.textContent}`);
  for (const e of document.querySelectorAll("a[href],summary")) {
    const r = e.getBoundingClientRect();
    if (shown(e) && (r.height < 44 || r.width < 44)) wrong.push(`target ${Math.round(r.width)} x ${Math.round(r.height)}: ${e.textContent.trim()}`);
  }
  for (const e of document.querySelectorAll(".mark")) { // a shape is never alone
    if (e.closest("[aria-hidden=true]") !== e) continue;
    if (!e.parentElement.textContent.trim()) wrong.push(`a shape without a word in ${e.parentElement.outerHTML.slice(0, 80)}`);
  }
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) {
    const widest = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && !e.closest(".scroll")).slice(-1)[0];
    wrong.push(`wider than the window: ${document.documentElement.scrollWidth} in ${document.documentElement.clientWidth}: ${widest?.outerHTML.slice(0, 120)}`);
  }

  // Contrast (WCAG 2.2, 1.4.3 and 1.4.11), as computed.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (c) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const lum = ([r, g, b]) => { const f = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const behind = (e) => { for (let p = e; p; p = p.parentElement) { const c = rgba(getComputedStyle(p).backgroundColor); if (c[3] > 0.99) return c; } return [255, 255, 255, 1]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let looked = 0;
  for (let n = walker.nextNode(); n; n = walker.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || !shown(e) || e.closest(".skip,.sr,noscript,script,thead") && e.getBoundingClientRect().width <= 1) continue;
    const s = getComputedStyle(e), px = parseFloat(s.fontSize), big = px >= 24 || px >= 18.66 && +s.fontWeight >= 700;
    const ink = rgba(e.closest("svg") ? s.fill : s.color), back = behind(e);
    looked++;
    if (ratio(ink, back) < (big ? 3 : 4.5)) wrong.push(`contrast ${ratio(ink, back).toFixed(2)} of "${n.data.trim().slice(0, 30)}"`);
  }
  for (const e of document.querySelectorAll(".mark,.sign,.flow.late .way,.flow.unknown .way,.flow .head,.seat .disc")) {
    if (!shown(e)) continue;
    const s = getComputedStyle(e), ink = rgba(e.matches("svg") ? s.color : e.matches(".head") ? s.fill : s.stroke);
    if (ratio(ink, behind(e)) < 3) wrong.push(`contrast ${ratio(ink, behind(e)).toFixed(2)} of ${e.getAttribute("class")} in ${e.parentElement.getAttribute("class")}`);
  }
  if (looked < (window.leastTexts ?? 20)) wrong.push(`only ${looked} texts were looked at`);
  return wrong;
})()
