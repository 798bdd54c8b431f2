package outsider

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// progress is what status says of a standby that does not have everything.
type progress struct {
	Names, Files, Bytes int64
	LeftSeconds         any   `json:"left_seconds"`
	Total               any   `json:"files_total"`
	TotalBytes          any   `json:"bytes_total"`
	Changes             int64 `json:"changes"`
	ChangesTotal        any   `json:"changes_total"`
}

// sane refuses more than all.
func (p *progress) sane() error {
	for _, x := range []struct {
		done  int64
		total any
	}{{p.Files, p.Total}, {p.Bytes, p.TotalBytes}, {p.Changes, p.ChangesTotal}} {
		total, known := x.total.(float64)
		if !known && x.total != "unknown" || known && float64(x.done) > total {
			return fmt.Errorf("%d of %v: %+v", x.done, x.total, *p)
		}
	}
	return nil
}

// progressOf is what a node says of the standby's way to the volume home.
func (n *node) progressOf(standby *node) (*progress, error) {
	s, err := n.status()
	if err != nil {
		return nil, err
	}
	for _, v := range s.Volumes {
		for _, sb := range v.Standbys {
			if v.Name == "home" && sb.Node == standby.name {
				return sb.Progress, nil
			}
		}
	}
	return nil, fmt.Errorf("%s says nothing of %s", n.name, standby.name)
}

// progresses: while a standby catches up, the master and the standby itself say how
// far it is and of how much; when it has everything, nobody says anything.
func progresses(t *testing.T, l *lab) {
	const files, size = 60, 4 << 20
	m := l.settled(l.nodes)
	b := l.others(m)[0]
	b.stop()
	dir := filepath.Join(m.vol["home"], "progress")
	must(t, os.Mkdir(dir, 0o755))
	for i := range files {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, size), 0o644))
	}
	b.start()
	for _, n := range []*node{m, b} {
		l.eventually(n.name+" says how far "+b.name+" is, and of how much", func() error {
			p, err := n.progressOf(b)
			if err != nil || p == nil {
				return fmt.Errorf("no progress: %v", err)
			}
			if err := p.sane(); err != nil {
				t.Error(err)
			}
			if total, ok := p.TotalBytes.(float64); !ok || total < size {
				return fmt.Errorf("the total is %v", p.TotalBytes)
			}
			return nil
		})
	}
	l.settled(l.nodes)
	l.sync(m)
	l.eventually("nothing is said when nothing is missing", func() error {
		p, err := m.progressOf(b)
		if err == nil && p != nil {
			err = fmt.Errorf("%+v", *p)
		}
		return err
	})
	must(t, os.RemoveAll(dir))
}
