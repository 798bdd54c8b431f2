package page

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestPictures writes what the documentation shows: `make pictures`.
func TestPictures(t *testing.T) {
	dir := os.Getenv("REVOLVE_PICTURES")
	if dir == "" {
		t.Skip("pictures are written by: make pictures")
	}
	b := openBrowser(t)
	h := openHouse(t, calm("a", "b", "c", "d"))
	for _, width := range []int{360, 768, 1280} {
		for _, dark := range []bool{false, true} {
			b.as(width, dark, true)
			b.goTo(h.url)
			b.until("it is live", "document.documentElement.dataset.live !== undefined")
			b.eval(nil, `(() => { const d = document.querySelector("details"); if (d) d.open = true; })()`)
			b.picture(filepath.Join(dir, fmt.Sprintf("page-%d-%s.png", width, map[bool]string{true: "dark", false: "light"}[dark])), 0)
		}
	}
	b.as(1280, false, true)
	b.goTo(h.url)
	b.until("it is live", live)
	b.picture(filepath.Join(dir, "page.png"), 616)
	h.show(troubled())
	for _, width := range []int{360, 1280} {
		b.as(width, width == 360, true)
		b.goTo(h.url)
		b.until("it tells of the trouble", `document.body.textContent.includes("catching-up")`)
		b.picture(filepath.Join(dir, fmt.Sprintf("page-%d-trouble.png", width)), 0)
	}
}
