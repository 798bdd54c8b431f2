package mounts

import (
	"reflect"
	"testing"
)

func TestMountLines(t *testing.T) {
	for line, want := range map[string]Mount{
		`36 35 98:0 / /srv/a\040b rw,noatime master:1 - ext4 /dev/x rw,data=writeback`: {Root: "/", At: "/srv/a b", Kind: "ext4", Source: "/dev/x", Options: []string{"rw", "noatime", "rw", "data=writeback"}},
		`36 35 98:0 /sub /m rw - btrfs /dev/x rw`:                                      {Root: "/sub", At: "/m", Kind: "btrfs", Source: "/dev/x", Options: []string{"rw", "rw"}},
		`36 35 98:0 / /m\0 rw - x y z`:                                                 {Root: "/", At: `/m\0`, Kind: "x", Source: "y", Options: []string{"rw", "z"}},
		"":                                                                             {},
		" - ":                                                                          {},
		"a b - c":                                                                      {},
	} {
		if got, _ := Parse(line); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

func TestUnder(t *testing.T) {
	list := []Mount{{At: "/", Kind: "ext4"}, {At: "/srv", Kind: "xfs"}, {At: "/srv", Kind: "btrfs"}, {At: "/srv/a", Kind: "tmpfs"}}
	for path, want := range map[string]string{"/": "ext4", "/sr": "ext4", "/srv": "btrfs", "/srv/ab": "btrfs", "/srv/a": "tmpfs", "/srv/a/b": "tmpfs"} {
		if on, ok := Under(list, path); !ok || on.Kind != want {
			t.Errorf("%s: %+v, want %s", path, on, want)
		}
	}
	if _, ok := Under(list[1:], "/home"); ok {
		t.Error("something is under /home")
	}
}

func TestList(t *testing.T) {
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	if on, ok := Under(list, "/proc"); !ok || on.Kind != "proc" {
		t.Errorf("under /proc: %+v", on)
	}
}
