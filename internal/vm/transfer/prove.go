package transfer

import (
	"context"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"revolve/internal/block"
	"revolve/internal/problem"
	"revolve/internal/vm/points"
)

// Budget is how much of what is said not to have changed is compared all the same.
type Budget struct {
	Samples int   // blocks at random, and as many at the edges of what changed; DefaultSamples if 0, none if negative
	Rolling int64 // bytes of the part that goes on from point to point; 1/32 of everything if 0, none if negative
}

const (
	// DefaultSamples finds a tracker that is wrong about one block in a thousand with 64 % in one point, and by its edges almost surely.
	DefaultSamples = 1024
	rollingPart    = 32 // of everything: so many points prove every byte
	leastRolling   = 16 << 20
	sampleSize     = 4096
)

// toProve is a range of one file to be compared.
type toProve struct {
	file int
	at   block.Range
}

// prove compares samples and the rolling part with what the receiver reads from
// its disk, and returns what differs.
func (s *sender) prove(ctx context.Context) (found []points.Found, err error) {
	samples := s.samples()
	rolling := s.rolling()
	s.here.Proof.Samples = len(samples)
	list := append(samples, rolling...)
	slices.SortFunc(list, func(a, b toProve) int {
		if a.file != b.file {
			return a.file - b.file
		}
		return int(min(max(a.at.At-b.at.At, -1), 1))
	})
	var pending [][]toProve
	file := -1
	settle := func() error {
		differs, err := s.hear(frameDiffers, idle)
		if err != nil {
			return err
		}
		if len(differs) != len(pending[0]) {
			return corrupt(s, "an answer about %d ranges", len(differs))
		}
		for i, d := range differs {
			if d != 0 {
				found = append(found, points.Found{File: s.o.Source.Files[pending[0][i].file].Name, At: pending[0][i].at})
			}
		}
		pending = pending[1:]
		return nil
	}
	for len(list) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := together(list)
		if list[0].file != file {
			file = list[0].file
			s.file = &s.o.Source.Files[file]
			if err := s.Write(frameFile, []byte(s.file.Name)); err != nil {
				return nil, s.reason(err)
			}
		}
		if err := s.ask(list[:n]); err != nil {
			return nil, s.reason(err)
		}
		pending, list = append(pending, list[:n]), list[n:]
		for len(pending) >= ahead {
			if err := settle(); err != nil {
				return nil, err
			}
		}
	}
	for len(pending) > 0 {
		if err := settle(); err != nil {
			return nil, err
		}
	}
	return found[:min(len(found), maxFound)], nil
}

// maxFound bounds what a record lists.
const maxFound = 100

// together is how many of the first questions go into one frame.
func together(list []toProve) (n int) {
	bytes := int64(0)
	for n < len(list) && n < maxAsked && list[n].file == list[0].file && bytes < 2*maxPiece {
		bytes += list[n].at.Length
		n++
	}
	return n
}

// ask reads the ranges here, from the disk, and sends what they should be.
func (s *sender) ask(list []toProve) error {
	fd := int(s.file.F.Fd())
	for _, p := range list {
		_ = unix.Fadvise(fd, p.at.At, p.at.Length, unix.FADV_DONTNEED)
		_ = unix.Fadvise(fd, p.at.At, p.at.Length, unix.FADV_WILLNEED)
	}
	var frame []byte
	b := make([]byte, maxPiece)
	for _, p := range list {
		if _, err := s.file.F.ReadAt(b[:p.at.Length], p.at.At); err != nil {
			return &problem.Problem{Op: "read", Kind: problem.Unavailable, Subject: s.file.Name, Err: spent{err}, Hint: "look at the disk: dmesg, smartctl"}
		}
		frame = question{p.at.At, p.at.Length, block.HashOf(b[:p.at.Length])}.encode(frame)
		s.here.Proof.Bytes += p.at.Length
	}
	s.here.Proof.Sent += frameHead + int64(len(frame))
	if err := s.Write(frameProve, frame); err != nil {
		return err
	}
	return s.Flush()
}

// samples chooses blocks that were not sent: at random, and at the edges of what
// was, where a tracker that is off by something shows it.
func (s *sender) samples() (list []toProve) {
	most := s.o.Proof.Samples
	if most == 0 {
		most = DefaultSamples
	}
	sizes, total := s.sizes()
	if most < 0 || total == 0 {
		return nil
	}
	for range most {
		file, at := locate(sizes, s.o.Rand.Int64N(total))
		list = s.sample(list, file, at)
	}
	for file := range sizes {
		told := s.told[s.o.Source.Files[file].Name]
		for range min(most/2, len(told)) {
			r := told[s.o.Rand.IntN(len(told))]
			list = s.sample(list, file, r.At-1)
			list = s.sample(list, file, r.End())
		}
	}
	slices.SortFunc(list, func(a, b toProve) int {
		if a.file != b.file {
			return a.file - b.file
		}
		return int(min(max(a.at.At-b.at.At, -1), 1))
	})
	return slices.Compact(list)
}

// sample adds the block around a byte, if nothing of it was sent.
func (s *sender) sample(list []toProve, file int, at int64) []toProve {
	f := s.o.Source.Files[file]
	if at < 0 || at >= f.Size {
		return list
	}
	at -= at % sampleSize
	r := block.Range{At: at, Length: min(sampleSize, f.Size-at)}
	for _, piece := range untold(s.told[f.Name], r) {
		if piece == r {
			return append(list, toProve{file, r})
		}
	}
	return list
}

// rolling chooses the part that goes on from the base's proof: what was sent is read back, too.
func (s *sender) rolling() (list []toProve) {
	sizes, total := s.sizes()
	proof := &s.here.Proof
	was := s.answer.Proof
	if was.Total != total || was.At >= total || was.Since.IsZero() { // other files: from the beginning
		was = points.Proof{Total: total, Since: time.Now().UTC(), Whole: was.Whole}
	}
	proof.Total, proof.At, proof.Since, proof.Whole = total, was.At, was.Since, was.Whole
	length := s.o.Proof.Rolling
	if length == 0 {
		length = max(total/rollingPart+1, leastRolling)
	}
	if length < 0 {
		return nil
	}
	end := min(was.At+length, total)
	begins := int64(0)
	for file, size := range sizes {
		from, to := max(was.At-begins, 0), min(end-begins, size)
		for at := from; at < to; at += maxPiece {
			r := block.Range{At: at, Length: min(maxPiece, to-at)}
			for _, piece := range untold(s.unreadable(file), r) {
				list = append(list, toProve{file, piece})
			}
		}
		begins += size
	}
	if proof.At = end; end == total {
		proof.At, proof.Whole, proof.Since = 0, proof.Since, time.Time{}
	}
	return list
}

// unreadable is what the receiver cannot read yet: changes that it keeps aside.
func (s *sender) unreadable(file int) []block.Range {
	if s.answer.Files[file].Mode == points.Patch {
		return s.told[s.o.Source.Files[file].Name]
	}
	return nil
}

// everything notes that each block was compared.
func (s *sender) everything() {
	_, total := s.sizes()
	s.here.Proof = points.Proof{All: true, Bytes: total, Total: total, Whole: time.Now().UTC()}
}

func (s *sender) sizes() (list []int64, total int64) {
	for _, f := range s.o.Source.Files {
		list, total = append(list, f.Size), total+f.Size
	}
	return list, total
}

func locate(sizes []int64, at int64) (file int, in int64) {
	for i, size := range sizes {
		if at < size {
			return i, at
		}
		at -= size
	}
	return len(sizes) - 1, 0
}

// untold is what of a range is in none of a list that is in order.
func untold(told []block.Range, r block.Range) (list []block.Range) {
	i := sort.Search(len(told), func(i int) bool { return told[i].End() > r.At })
	at := r.At
	for ; i < len(told) && told[i].At < r.End(); i++ {
		if told[i].At > at {
			list = append(list, block.Range{At: at, Length: told[i].At - at})
		}
		at = told[i].End()
	}
	if at < r.End() {
		list = append(list, block.Range{At: at, Length: r.End() - at})
	}
	return list
}
