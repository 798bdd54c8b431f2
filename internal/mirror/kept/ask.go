package kept

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/restore"
	"revolve/internal/mirror/tree"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// AskTrash lists what the other node's trash holds at or below path, and its pins.
func AskTrash(c conn, volume cluster.VolumeID, path string) (list []apply.Trashed, pins []apply.Pin, err error) {
	e, err := askList(c, Ask{What: askTrash, Volume: volume, Path: []byte(path)}, func(p page) error {
		for _, t := range p.Trash {
			t.Path = string(t.Name)
			list = append(list, t.Trashed)
		}
		return tooMany(len(list))
	})
	return list, e.Pins, err
}

// AskDivergent lists the divergent changes that the other node keeps.
func AskDivergent(c conn, volume cluster.VolumeID) (list []apply.Kept, err error) {
	_, err = askList(c, Ask{What: askDivergent, Volume: volume}, func(p page) error {
		list = append(list, p.Divergent...)
		return tooMany(len(list))
	})
	return list, err
}

// AskUnpin lets a slot of the other node's trash, or all if slot is empty, go by age and quota again.
func AskUnpin(c conn, volume cluster.VolumeID, slot string) ([]apply.Pin, error) {
	e, err := askList(c, Ask{What: askUnpin, Volume: volume, Slot: slot}, nil)
	return e.Pins, err
}

// AskDrop makes the other node forget a divergent set, or what is at or below the paths, for good.
func AskDrop(c conn, volume cluster.VolumeID, set string, only []string) (n int, err error) {
	ask := Ask{What: askDrop, Volume: volume, Set: set}
	for _, o := range only {
		ask.Only = append(ask.Only, []byte(o))
	}
	e, err := askList(c, ask, nil)
	return e.N, err
}

// AskForget makes the other node take what was brought back out of its set; at most MaxForget items.
func AskForget(c conn, volume cluster.VolumeID, set string, items []restore.Item) (n int, err error) {
	ask := Ask{What: askForget, Volume: volume, Set: set}
	for _, i := range items {
		ask.Items = append(ask.Items, item{[]byte(i.Path), []byte(i.File)})
	}
	e, err := askList(c, ask, nil)
	return e.N, err
}

// MaxForget is how many items one AskForget takes: as many long paths fit a frame.
const MaxForget = 90

func tooMany(n int) error {
	if n > maxEntries {
		return fmt.Errorf("a list of more than %d entries", maxEntries)
	}
	return nil
}

// askList asks, takes pages and returns the end.
func askList(c conn, ask Ask, take func(page) error) (e end, err error) {
	if err := send(c, frameAsk, ask); err != nil {
		return e, err
	}
	for {
		kind, payload, err := receive(c)
		switch {
		case err != nil:
			return e, err
		case kind == frameEnd:
			if err := json.Unmarshal(payload, &e); err != nil {
				return e, corrupt(c, err)
			}
			return e, nil
		case kind != framePage || take == nil:
			return e, corrupt(c, fmt.Errorf("unexpected frame %d", kind))
		}
		var p page
		if err := json.Unmarshal(payload, &p); err != nil {
			return e, corrupt(c, err)
		}
		if err := take(p); err != nil {
			return e, corrupt(c, err)
		}
	}
}

// Fetched is what came: in Items the files are below Dir, which belongs to the
// caller and is to be removed; Kept says for each where the other node keeps it.
type Fetched struct {
	Dir   string         `json:"dir"`
	Items []restore.Item `json:"items"`
	Kept  []restore.Item `json:"kept"`
	Left  []restore.Left `json:"left"`
}

const (
	fetchedDir = tree.Hidden + "/fetched"
	// fetchedAge: what is older was left by somebody who was interrupted.
	fetchedAge = time.Hour
)

// Fetch brings over what can be brought back of a divergent set, or of a path in
// the trash, below the hidden directory of the volume at root.
func Fetch(c conn, ask Ask, root *tree.Root) (*Fetched, error) {
	ask.What = askFetch
	if err := ask.Check(); err != nil {
		return nil, &problem.Problem{Op: "restore", Kind: problem.Invalid, Subject: string(ask.Path), Err: err, Hint: "name a path relative to the volume, as the list does"}
	}
	if err := send(c, frameAsk, ask); err != nil {
		return nil, err
	}
	kind, payload, err := receive(c)
	if err != nil {
		return nil, err
	}
	var b begin
	if kind != frameBegin {
		return nil, corrupt(c, fmt.Errorf("unexpected frame %d", kind))
	}
	if err := json.Unmarshal(payload, &b); err != nil {
		return nil, corrupt(c, err)
	}
	if b.Items < 0 || b.Items > maxItems || b.Bytes < 0 {
		return nil, corrupt(c, fmt.Errorf("%d items of %d bytes announced", b.Items, b.Bytes))
	}
	if err := sweep(root); err != nil {
		return nil, err
	}
	free, _, err := root.Free()
	if err != nil {
		return nil, err
	}
	if b.Bytes > free-spare { // once to fetch; bringing it into the volume may need it again where blocks cannot be shared
		return nil, &problem.Problem{Op: "fetch what is kept on", Kind: problem.Unavailable, Subject: string(c.Peer()),
			Err: fmt.Errorf("%d bytes, and %d are free here", b.Bytes, free), Hint: "make space, or name less at once"}
	}
	f := &fetch{c: c, root: root, left: b, out: &Fetched{Dir: fetchedDir + "/" + rand.Text(), Items: []restore.Item{}, Kept: []restore.Item{}, Left: []restore.Left{}}}
	if err := root.MkdirAll(f.out.Dir); err != nil {
		return nil, err
	}
	if err := f.run(); err != nil {
		return nil, errors.Join(err, root.RemoveAll(f.out.Dir))
	}
	return f.out, nil
}

// sweep removes what interrupted fetches left.
func sweep(root *tree.Root) error {
	list, err := root.List(fetchedDir)
	if tree.IsGone(err) {
		return nil
	}
	for _, e := range list {
		if time.Since(time.Unix(0, e.Meta.MTime)) > fetchedAge {
			err = errors.Join(err, root.RemoveAll(fetchedDir+"/"+e.Name))
		}
	}
	return err
}

// fetch is one under way; left is what was announced and has not come yet.
type fetch struct {
	c    conn
	root *tree.Root
	left begin
	out  *Fetched
}

func (f *fetch) run() error {
	for {
		kind, payload, err := receive(f.c)
		switch {
		case err != nil:
			return err
		case kind == frameEnd:
			var e end
			if err := json.Unmarshal(payload, &e); err != nil {
				return corrupt(f.c, err)
			}
			f.out.Left = append(f.out.Left, e.Left...)
			return nil
		case kind != frameItem:
			return corrupt(f.c, fmt.Errorf("unexpected frame %d", kind))
		}
		op, name, err := decodeItem(payload)
		if err != nil {
			return corrupt(f.c, err)
		}
		if f.left.Items--; f.left.Items < 0 || op.Meta.Size > f.left.Bytes && op.Kind == wire.OpFile {
			return corrupt(f.c, errors.New("more than was announced"))
		}
		if err := f.item(op, name); err != nil {
			return err
		}
	}
}

// decodeItem splits an item's frame: the length of a name, the name, an op.
func decodeItem(b []byte) (op wire.Op, name string, err error) {
	n, b, err := wire.DecodeID(b)
	if err != nil {
		return op, "", err
	}
	if n > uint64(len(b)) || n > tree.MaxPath {
		return op, "", errors.New("malformed item")
	}
	name = string(b[:n])
	if err := tree.Check(name); err != nil || !tree.IsHidden(name) {
		return op, "", fmt.Errorf("%q is no place where something is kept", name)
	}
	op, err = wire.DecodeOp(b[n:])
	if err == nil && (len(op.Data) > 0 || !fits(op)) {
		err = fmt.Errorf("op %d is no item", op.Kind)
	}
	return op, name, err
}

// fits reports whether the op says what can be made.
func fits(op wire.Op) bool {
	switch op.Kind {
	case wire.OpFile:
		return op.Path != "" && op.Meta.Kind == tree.File
	case wire.OpDir:
		return op.Path != "" && op.Meta.Kind == tree.Dir
	case wire.OpSymlink:
		return op.Path != "" && op.Meta.Kind == tree.Symlink
	case wire.OpNode:
		return op.Path != "" && op.Meta.Kind.Special()
	}
	return false
}

// item writes one thing aside.
func (f *fetch) item(op wire.Op, name string) error {
	to := f.out.Dir + "/" + strconv.Itoa(len(f.out.Items))
	var err error
	switch op.Kind {
	case wire.OpFile:
		f.left.Bytes -= op.Meta.Size
		err = f.file(to, op.Meta)
	case wire.OpDir:
		err = f.made(to, op.Meta, f.root.Mkdir(to, 0o700))
	case wire.OpSymlink:
		err = f.made(to, op.Meta, f.root.Symlink(op.Meta.Target, to))
	case wire.OpNode:
		made, merr := f.root.Mknod(to, op.Meta)
		if merr == nil && !made {
			f.out.Left = append(f.out.Left, restore.Left{Path: op.Path, Why: "devices can be made by root only"})
			return nil
		}
		err = f.made(to, op.Meta, merr)
	}
	f.out.Items = append(f.out.Items, restore.Item{Path: op.Path, File: to})
	f.out.Kept = append(f.out.Kept, restore.Item{Path: op.Path, File: name})
	return err
}

func (f *fetch) made(to string, m tree.Meta, err error) error {
	if err != nil {
		return err
	}
	_, err = f.root.SetMetaAt(to, m)
	return err
}

func (f *fetch) file(to string, m tree.Meta) error {
	file, err := f.root.Create(to)
	if err != nil {
		return err
	}
	err = f.content(file, m.Size)
	if err == nil {
		_, err = tree.SetMeta(file, m)
	}
	return errors.Join(err, file.Close())
}

// content writes what comes; a chunk of zeroes stays a hole.
func (f *fetch) content(file *os.File, size int64) error {
	zero := make([]byte, chunk)
	for at := int64(0); at < size; {
		kind, payload, err := receive(f.c)
		if err != nil {
			return err
		}
		if kind != frameData || len(payload) == 0 || int64(len(payload)) > size-at || len(payload) > chunk {
			return corrupt(f.c, fmt.Errorf("frame %d of %d bytes where %d bytes of a file are to come", kind, len(payload), size-at))
		}
		if !bytes.Equal(payload, zero[:len(payload)]) {
			if _, err := file.WriteAt(payload, at); err != nil {
				return err
			}
		}
		at += int64(len(payload))
	}
	return file.Truncate(size)
}
