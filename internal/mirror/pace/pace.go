// Package pace says when how much may be sent over a link whose rate is limited:
// a token bucket with two classes, in which small changes go ahead of bulk.
//
// It is a value that is told the time; it never waits, counts or sends by itself.
//
//	var b pace.Bucket
//	b.Set(now, 10<<20)
//	if wait := b.Wait(now, pace.Bulk, 0); wait == 0 {
//		b.Sent(now, send(b.Piece()))
//	}
package pace

import "time"

// Class is what something to be sent is.
type Class uint8

// The classes.
const (
	// Small are changes of files, and what a comparison tells.
	Small Class = iota
	// Bulk are the contents of large files.
	Bulk
)

const (
	// burst is how much of a rate may come at once after a pause. Half of it is the
	// reserve that bulk leaves, so that small changes find room at every moment.
	burst = 200 * time.Millisecond
	// pieces: bulk is sent in pieces of so much of a rate, so that a small change waits for one at most.
	pieces = 20 * time.Millisecond
	// leastPiece and mostPiece bound a piece: a network packet is 1.5 KiB, a TLS record 16 KiB.
	leastPiece = 16 << 10
	mostPiece  = 512 << 10
	// Patience is how long bulk gives way: small changes alone may be more than the rate, and a large file must come all the same.
	Patience = time.Second
)

// Bucket is the state of one link. The zero value has no limit.
type Bucket struct {
	rate    int64   // bytes a second; 0: no limit
	balance float64 // bytes that may be sent; negative after a piece larger than that
	at      time.Time
}

// Set puts a rate in force, in bytes a second; 0 is no limit. A new rate begins
// with a full bucket where there was no limit, and with what is in it otherwise.
func (b *Bucket) Set(now time.Time, rate int64) {
	if rate == b.rate {
		return
	}
	fresh := b.rate == 0
	b.fill(now)
	b.rate = rate
	if fresh {
		b.balance, b.at = b.size(), now
	}
	b.balance = min(b.balance, b.size())
}

// Rate is the one in force, 0 if there is no limit.
func (b *Bucket) Rate() int64 { return b.rate }

func (b *Bucket) size() float64 { return float64(b.rate) * burst.Seconds() }

func (b *Bucket) fill(now time.Time) {
	if past := now.Sub(b.at); past > 0 && b.rate > 0 {
		b.balance = min(b.balance+float64(b.rate)*past.Seconds(), b.size())
	}
	b.at = now
}

// Wait is how long one of a class has to wait that waits since waited; 0 if it
// may send now.
func (b *Bucket) Wait(now time.Time, class Class, waited time.Duration) time.Duration {
	if b.rate == 0 {
		return 0
	}
	b.fill(now)
	least := 0.0
	if class == Bulk && waited < Patience {
		least = b.size() / 2
	}
	lacks := least - b.balance
	if lacks <= 0 {
		return 0
	}
	wait := time.Duration(lacks/float64(b.rate)*float64(time.Second)) + 1 // rounded up: never asked twice for nothing
	if class == Bulk && waited < Patience {
		wait = min(wait, Patience-waited)
	}
	return wait
}

// Sent notes what was sent.
func (b *Bucket) Sent(now time.Time, bytes int) {
	if b.rate == 0 {
		return
	}
	b.fill(now)
	b.balance -= float64(bytes)
}

// Piece is how much may be sent at once.
func (b *Bucket) Piece() int {
	if b.rate == 0 {
		return mostPiece
	}
	return int(min(max(float64(b.rate)*pieces.Seconds(), leastPiece), mostPiece))
}
