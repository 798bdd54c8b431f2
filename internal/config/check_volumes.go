package config

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/exclude"
)

// The forms of values, shared with the schema. The time form has at least one
// part; trashTime says what the parts mean.
const (
	macForm      = `^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$`
	durationForm = `^([0-9]{1,5}d)?([0-9]{1,5}h)?([0-9]{1,5}m)?$`
)

// maxTrash is ten years: longer is a typing mistake.
const maxTrash = 3650 * 24 * time.Hour

func (c *checker) volumeList() []Volume {
	c.count("volumes", "volumes", len(c.volumes), MaxVolumes)
	var volumes []Volume
	for _, name := range c.volumes {
		place, d := join("volumes", name), c.doc.Volumes[name]
		c.name(place, name)
		v := Volume{Name: cluster.VolumeID(name), Trash: DefaultTrash, Sync: SyncGroup, OnChange: d.OnChange}
		if at := join(place, "path"); c.ok(at) && c.path(at, string(d.Path)) {
			v.Path = string(d.Path)
		}
		for i, p := range d.Exclude {
			if at := fmt.Sprintf("%s.exclude[%d]", place, i); c.ok(at) && c.pattern(at, string(p)) {
				v.Exclude = append(v.Exclude, string(p))
			}
		}
		c.trash(join(place, "trash"), d.Trash, &v)
		if at := join(place, "sync"); c.ok(at) {
			v.Sync = string(d.Sync)
			c.oneOf(at, v.Sync, SyncGroup, SyncFull)
		}
		if at := join(place, "on_change"); c.ok(at) && strings.TrimSpace(d.OnChange) == "" {
			c.add(at, "the command is empty", "remove the line, or name a command such as rndc reload")
		}
		volumes = append(volumes, v)
	}
	return volumes
}

// trash reads how long, how much and how often; the short form is the age alone.
func (c *checker) trash(place string, d trashDocument, v *Volume) {
	if !c.ok(place) {
		return
	}
	_, short := c.lines[place+shortForm]
	if at := join(place, "age"); c.ok(at) {
		v.Trash = c.duration(at, string(d.Age))
	} else if short {
		v.Trash = c.duration(place, string(d.Age))
	}
	if at := join(place, "quota"); c.ok(at) {
		v.TrashQuota = c.quota(at, string(d.Quota))
	}
	if at := join(place, "every"); c.ok(at) {
		v.TrashEvery = c.duration(at, string(d.Every))
		if v.TrashEvery > maxEvery {
			c.add(at, fmt.Sprintf("%s is out of range", d.Every), "choose between 1m and 1d")
		}
	}
}

const (
	quotaForm = `^([0-9]{1,2}%|[0-9]{1,6}(MiB|GiB|TiB))$`
	// maxShare: a trash of more than half of the disk leaves less for the volume than for what was thrown away.
	maxShare = 50
	// maxEvery: one version of a path a day is the least that is of use.
	maxEvery = 24 * time.Hour
)

// quota reads a share of the file system or a size.
func (c *checker) quota(at, text string) (q Quota) {
	parts := regexp.MustCompile(`^([0-9]{1,6})(%|MiB|GiB|TiB)$`).FindStringSubmatch(text)
	if parts == nil || !regexp.MustCompile(quotaForm).MatchString(text) {
		c.add(at, fmt.Sprintf("%q is not a quota", text), "write a share of the file system or a size: 5%, 500MiB, 10GiB")
		return q
	}
	n, _ := strconv.ParseInt(parts[1], 10, 64) // at most six digits
	switch unit := parts[2]; {
	case n == 0 || unit == "%" && n > maxShare:
		c.add(at, fmt.Sprintf("%s is out of range", text), fmt.Sprintf("choose between 1%% and %d%%, or a size of at least 1MiB", maxShare))
	case unit == "%":
		q.Share = int(n)
	default:
		q.Bytes = n << map[string]int{"MiB": 20, "GiB": 30, "TiB": 40}[unit]
	}
	return q
}

// path reports a path that is not absolute and clean, or is the root.
func (c *checker) path(at, p string) bool {
	switch {
	case !strings.HasPrefix(p, "/"):
		c.add(at, fmt.Sprintf("path %q is not absolute", p), "begin it with a slash")
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		c.add(at, fmt.Sprintf("path %q has a control character", p), "remove it")
	case path.Clean(p) != p:
		c.add(at, fmt.Sprintf("path %q is not in its simplest form", p), "write "+path.Clean(p))
	case p == "/":
		c.add(at, "path is the root of the file system", "name a directory below it")
	default:
		return true
	}
	return false
}

// pattern reports an exclude pattern that cannot be read.
func (c *checker) pattern(at, p string) bool {
	_, err := exclude.ParseOne(p)
	switch {
	case p == "":
		c.add(at, "the pattern is empty", "remove it")
	case errors.Is(err, path.ErrBadPattern):
		c.add(at, fmt.Sprintf("pattern %q has an unfinished bracket or escape", p), `close the "[", or write "\\[" for the character itself`)
	case err != nil:
		c.add(at, fmt.Sprintf("pattern %q: %v", p, err), "patterns are those of gitignore: docs/configuration.md")
	default:
		return true
	}
	return false
}

func (c *checker) duration(at, text string) time.Duration {
	d, err := parseDuration(text)
	switch {
	case err != nil:
		c.add(at, fmt.Sprintf("%q is not a time", text), "write days, hours, minutes: 7d, 12h, 1d12h")
	case d < time.Minute || d > maxTrash:
		c.add(at, fmt.Sprintf("%s is out of range", text), "choose between 1m and 3650d")
	}
	return d
}

// parseDuration reads days, hours and minutes in this order, each at most once.
func parseDuration(text string) (time.Duration, error) {
	parts := regexp.MustCompile(durationForm).FindStringSubmatch(text)
	if parts == nil || text == "" {
		return 0, fmt.Errorf("not of the form %s", durationForm)
	}
	var total time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute} {
		if part := parts[i+1]; part != "" {
			n, err := strconv.Atoi(part[:len(part)-1])
			if err != nil {
				return 0, err
			}
			total += time.Duration(n) * unit
		}
	}
	return total, nil
}

// nesting reports volumes that contain one another on some node: a file in both
// would have two masters' histories, and .revolve of the inner would be mirrored
// by the outer.
func (c *checker) nesting(cfg *Config) {
	said := map[string]bool{}
	for _, n := range cfg.Nodes {
		for i, a := range cfg.Volumes {
			for _, b := range cfg.Volumes[i+1:] {
				pa, pb := cfg.VolumePath(n.Name, a.Name), cfg.VolumePath(n.Name, b.Name)
				if pa == "" || pb == "" || !within(pa, pb) && !within(pb, pa) {
					continue
				}
				at := join(join("volumes", string(b.Name)), "path")
				if own := join(join(join("nodes", string(n.Name)), "paths"), string(b.Name)); c.ok(own) {
					at = own
				} else if own := join(join(join("nodes", string(n.Name)), "paths"), string(a.Name)); c.ok(own) {
					at = own
				}
				if key := at + "\x00" + string(a.Name) + "\x00" + string(b.Name); !said[key] {
					said[key] = true
					c.add(at, fmt.Sprintf("volumes %s (%s) and %s (%s) are inside one another", a.Name, pa, b.Name, pb), "give each its own directory")
				}
			}
		}
	}
}

// within reports whether path p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
