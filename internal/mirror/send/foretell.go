package send

import (
	"context"
	"errors"

	"revolve/internal/cluster"
	"revolve/internal/mirror/journal"
	"revolve/internal/mirror/wire"
)

// foretell says, before anything else, of which paths the journal says that a master owed them when its reign began and that nobody had
// them. Answers and comparisons overtake the records: when those come, what is nowhere else would have been replaced. All
// reigns' records of that are in the journal when a stream begins: this reign's are its first. And it tells the time of the volume's own
// directory: the last master may have given it ahead of a record that nobody got.
func (s *Stream) foretell(ctx context.Context) error {
	err := s.readOn()
	var u unreceived
	if s.pos.Compare(s.o.Shared) > 0 { // it compares, and is sent no records
		err = errors.Join(err, u.read(ctx, s.o.Journal, s.o.Shared))
	} else {
		u.add(s.backlog)
	}
	for _, path := range u.names {
		if err == nil {
			err = errors.Join(ctx.Err(), s.op(wire.Op{Kind: wire.OpDefer, Path: path, Flag: true}))
		}
		if err == nil {
			err = s.endIfFull()
		}
	}
	if m, look := s.o.Root.LookDir(""); err == nil && look == nil && s.o.Until == nil {
		err = s.op(wire.Op{Kind: wire.OpDirTime, Meta: m})
	}
	return errors.Join(err, s.endBatch())
}

// unreceived are these paths, under the names that they had at the position from which the records are.
type unreceived struct {
	names []string
	moved formerly
}

func (u *unreceived) add(records []journal.Record) {
	for _, r := range records {
		switch {
		case r.Kind == journal.Renamed:
			u.moved.rename(r.Old, r.Path)
		case r.Kind == journal.Dirty && r.Below && r.Path != "":
			u.names = append(u.names, u.moved.before(r.Path))
		}
	}
}

// read adds what the journal has behind a position, or from its beginning.
func (u *unreceived) read(ctx context.Context, j *journal.Journal, from cluster.Position) error {
	if oldest := j.Oldest(); from.Compare(oldest) < 0 {
		from = oldest
	}
	reader, err := j.Reader(from)
	if err != nil {
		return err
	}
	defer reader.Close()
	for {
		records, err := reader.Next(batchRecords)
		if err = errors.Join(err, ctx.Err()); err != nil || len(records) == 0 {
			return err
		}
		u.add(records)
	}
}
