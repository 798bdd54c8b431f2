package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"html/template"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"revolve/internal/control"
	"revolve/internal/problem"
)

//go:embed assets
var files embed.FS

// asset is a file of ours, under a name that changes with its content.
type asset struct {
	path, kind string
	body       []byte
}

func (a *asset) serve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(a.body) // the client has gone if this fails
}

// renderer turns snapshots into bytes.
type renderer struct {
	page   *template.Template
	assets map[string]*asset // by what the page calls them: page.css, page.js, icon-ok.svg
	desk   bool              // orders are taken
}

// parts are the pieces of the page that change on their own, in their order.
func parts() []string {
	return []string{"who", "verdict", "next", "ring", "nodes", "volumes", "machines", "addresses", "pairs", "services", "failovers"}
}

// frame is one rendering: everything that is sent of one snapshot.
type frame struct {
	page, packed []byte
	json         []byte
	status       control.Status    // that it shows
	stamp        []byte            // the event that says of when it is
	events       map[string][]byte // the event of each part
}

// since writes what differs from an earlier frame, nil for none.
func (f *frame) since(before *frame, w io.Writer) error {
	var b bytes.Buffer
	for _, p := range parts() {
		if before == nil || !bytes.Equal(before.events[p], f.events[p]) {
			b.Write(f.events[p])
		}
	}
	b.Write(f.stamp)
	_, err := w.Write(b.Bytes())
	return err
}

func newRenderer() (*renderer, error) {
	fail := func(err error) (*renderer, error) {
		return nil, &problem.Problem{Op: "prepare the status page", Kind: problem.Internal, Err: err}
	}
	r := &renderer{assets: map[string]*asset{}}
	for _, name := range []string{"page.css", "page.js"} {
		b, err := files.ReadFile("assets/" + name)
		if err != nil {
			return fail(err)
		}
		r.add(name, b)
	}
	icon, err := files.ReadFile("assets/icon.svg")
	if err != nil {
		return fail(err)
	}
	for _, verdict := range []string{control.OK, control.Warning, control.Critical, control.Unknown} {
		r.add("icon-"+verdict+".svg", bytes.ReplaceAll(icon, []byte("VERDICT"), []byte(verdict)))
	}
	t := template.New("page.html").Funcs(template.FuncMap{"asset": func(name string) string { return r.assets[name].path }})
	if r.page, err = t.ParseFS(files, "assets/*.html"); err != nil {
		return fail(err)
	}
	return r, nil
}

func (r *renderer) add(name string, body []byte) {
	sum := sha256.Sum256(body)
	ext := path.Ext(name)
	r.assets[name] = &asset{path: "/assets/" + strings.TrimSuffix(name, ext) + "-" + hex.EncodeToString(sum[:6]) + ext, kind: mime.TypeByExtension(ext), body: body}
}

// icon is the path of the icon of a verdict.
func (r *renderer) icon(verdict string) string {
	if a := r.assets["icon-"+verdict+".svg"]; a != nil {
		return a.path
	}
	return r.assets["icon-"+control.Unknown+".svg"].path
}

// pageData is what the template of the whole page gets.
type pageData struct {
	*view
	Parts map[string]template.HTML // each rendered from the view, escaped
	Icon  string
	Desk  bool // orders are taken
}

func (r *renderer) render(s Snapshot) (*frame, error) {
	fail := func(err error) (*frame, error) {
		return nil, &problem.Problem{Op: "render the status page", Kind: problem.Internal, Err: err}
	}
	v := newView(s)
	d := pageData{view: v, Parts: map[string]template.HTML{}, Icon: r.icon(v.Verdict.Word), Desk: r.desk}
	f := &frame{status: s.Status, events: map[string][]byte{}}
	for _, p := range parts() {
		var b bytes.Buffer
		if err := r.page.ExecuteTemplate(&b, p, v); err != nil {
			return fail(err)
		}
		d.Parts[p] = template.HTML(b.String())
		f.events[p] = event("part", map[string]string{"id": p, "html": b.String()})
	}
	f.stamp = event("stamp", map[string]string{"as_of": s.Status.AsOf.Format(time.RFC3339), "shown": v.AsOf.Shown, "title": v.Title, "icon": d.Icon, "verdict": v.Verdict.Word,
		"node": v.Node, "script": r.assets["page.js"].path})
	var page, packed bytes.Buffer
	if err := r.page.ExecuteTemplate(&page, "page.html", d); err != nil {
		return fail(err)
	}
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(page.Bytes()); err != nil {
		return fail(err)
	}
	if err := z.Close(); err != nil {
		return fail(err)
	}
	f.page, f.packed = page.Bytes(), packed.Bytes()
	var err error
	if f.json, err = json.Marshal(s.Status); err != nil {
		return fail(err)
	}
	f.json = append(f.json, '\n')
	return f, nil
}

// event is one of a stream of them (HTML, section 9.2): its data has no line break, since JSON escapes them.
func event(name string, data map[string]string) []byte {
	b, _ := json.Marshal(data) // strings: it cannot fail
	return []byte("event: " + name + "\ndata: " + string(b) + "\n\n")
}
