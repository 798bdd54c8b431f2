// Package exclude says which paths of a volume are not mirrored, by patterns in
// the syntax of gitignore(5).
//
// It never looks at the disk, so of a path it does not know whether it is a
// directory. What a pattern with a slash at its end excludes is therefore
// everything below such a directory; the directory itself is mirrored. What is
// not known speaks for mirroring.
//
//	list, err := exclude.Parse([]string{"*.tmp", "/build/", "!keep.tmp"})
//	list.Match("a/b.tmp")
package exclude

import (
	"errors"
	"path"
	"strings"
)

// List is patterns in order: the last one that matches decides.
type List []Pattern

// Pattern is one of them.
type Pattern struct {
	parts  []string // between slashes; anyDepth stands for any number of directories
	again  bool     // '!': what matches is mirrored after all
	dir    bool     // '/' at the end: directories only
	simple bool     // one part, compared with the base name at any depth
}

const anyDepth = "**"

// maxParts bounds the parts of a pattern: deeper than PATH_MAX allows directories to be nested with names of one letter.
const maxParts = 2048

// Parse reads patterns; the error is the first one's that cannot be read.
func Parse(texts []string) (List, error) {
	var l List
	for _, t := range texts {
		p, err := ParseOne(t)
		if err != nil {
			return nil, err
		}
		l = append(l, p)
	}
	return l, nil
}

// ParseOne reads one pattern.
func ParseOne(text string) (Pattern, error) {
	var p Pattern
	switch {
	case text == "":
		return p, errors.New("an empty pattern")
	case text[0] == '#':
		return p, errors.New(`it is a comment; write \# for a name that begins with #`)
	case text[0] == '!':
		p.again, text = true, text[1:]
	}
	for strings.HasSuffix(text, " ") && !strings.HasSuffix(text, `\ `) {
		text = text[:len(text)-1]
	}
	if cut := strings.TrimRight(text, "/"); cut != text {
		p.dir, text = true, cut
	}
	p.simple = !strings.Contains(text, "/")
	text = strings.TrimPrefix(text, "/")
	if text == "" {
		return p, errors.New("it matches nothing, or everything")
	}
	for part := range strings.SplitSeq(text, "/") {
		switch {
		case part == "":
			return p, errors.New("two slashes in a row")
		case part == "." || part == "..":
			return p, errors.New("patterns are relative to the volume, without dot or dot-dot as a part")
		case part == anyDepth && len(p.parts) > 0 && p.parts[len(p.parts)-1] == anyDepth:
			continue
		case part != anyDepth:
			part = strings.ReplaceAll(part, "[!", "[^")
			if _, err := path.Match(part, ""); err != nil {
				return p, err
			}
		}
		if p.parts = append(p.parts, part); len(p.parts) > maxParts {
			return p, errors.New("too many slashes")
		}
	}
	return p, nil
}

// Match reports whether rel, a clean relative path, is not mirrored: it, or a directory above it, is excluded.
func (l List) Match(rel string) bool {
	if len(l) == 0 || rel == "" {
		return false
	}
	for i := 0; i < len(rel); i++ {
		if rel[i] == '/' && l.one(rel[:i], true) {
			return true
		}
	}
	return l.one(rel, false)
}

// one decides about one path, whatever is above it; dir says that it is known to be a directory.
func (l List) one(rel string, dir bool) bool {
	base := rel[strings.LastIndexByte(rel, '/')+1:]
	for i := len(l) - 1; i >= 0; i-- {
		p := &l[i]
		if p.dir && !dir && !p.again {
			continue
		}
		if p.simple && match(p.parts[0], base) || !p.simple && matchParts(p.parts, rel) {
			return !p.again
		}
	}
	return false
}

func match(part, name string) bool {
	if part == anyDepth {
		return true
	}
	ok, _ := path.Match(part, name) // the pattern was checked
	return ok
}

// matchParts compares part by part; every "**" is tried once per depth, so that
// no pattern costs more than its parts times those of the path.
func matchParts(parts []string, rel string) bool {
	names := strings.Split(rel, "/")
	reach := make([]bool, len(names)+1) // reach[i]: the parts so far match the first i names
	reach[0] = true
	for n, part := range parts {
		next := make([]bool, len(names)+1)
		for i, yes := range reach {
			switch {
			case !yes:
			case part == anyDepth && n == len(parts)-1: // everything inside, not the directory itself
				for j := i + 1; j <= len(names); j++ {
					next[j] = true
				}
			case part == anyDepth:
				for j := i; j <= len(names); j++ {
					next[j] = true
				}
			case i < len(names) && match(part, names[i]):
				next[i+1] = true
			}
		}
		reach = next
	}
	return reach[len(names)]
}
