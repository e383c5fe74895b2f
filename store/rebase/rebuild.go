package rebase

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"narbor/store"
	"narbor/store/lru"
)

const (
	// maxCandidates bounds the old paths that are read for one NAR.
	maxCandidates = 3
	// maxOutcomes bounds the paths with a recorded [Outcome].
	maxOutcomes = 4096
	// maxRunning bounds the goroutines that read the store. Nix fetches 16 NARs at once, and narbor some ahead of it.
	maxRunning = 32
	// rateFresh is the time after which a measured rate is dropped: the disk may be less busy by then.
	rateFresh = 10 * time.Minute
	// rateBytes is the least amount of data for a measurement.
	rateBytes = 1 << 20
)

// Reasons for not rebuilding a NAR. [ErrNoOld] and [ErrSize] are the usual ones for a path that is new or has changed.
var (
	ErrNoOld   = errors.New("no other version of it is here")
	ErrSize    = errors.New("the versions of it that are here have another NarSize")
	ErrDiffers = errors.New("it has changed: the NAR of the version that is here, with the new store paths, has another hash")
)

// A Store has the paths from which NARs are rebuilt. Its methods may be called concurrently.
type Store interface {
	store.Source
	// Namesakes returns the hash parts of paths with a name. They need not be valid.
	Namesakes(name string) []store.HashPart
	// Suspect reports that the content of a path may not have its NarHash.
	Suspect(info store.Info)
}

// A Rebuilder makes the NARs of wanted paths out of paths of a store. Its methods may be called concurrently.
type Rebuilder struct {
	store    Store
	slots    chan struct{} // of the goroutines of Go
	outcomes *lru.Cache[key, Outcome]
	rate     atomic.Int64 // bytes per second that were read, rewritten and written; 0 is unknown
	rated    atomic.Int64 // when that was measured, in Unix nanoseconds
}

type key struct {
	path store.Path
	nar  store.Hash
}

// An Outcome is the result of rebuilding a path.
type Outcome struct {
	From store.Path // the version that was read; zero if none was
	Err  error      // why the path was not rebuilt; nil if it was
}

// New returns a rebuilder that reads the paths of a store.
func New(s Store) *Rebuilder {
	return &Rebuilder{store: s, outcomes: lru.New[key, Outcome](maxOutcomes), slots: make(chan struct{}, maxRunning)}
}

// A Candidate is a path of the store, with a NAR that may become a wanted one. It is used by one goroutine.
type Candidate struct {
	Old   store.Info
	of    *Rebuilder
	pairs []Pair
}

// Candidates returns at most three paths from which the NAR of wanted may be rebuilt. They have its name and its
// NarSize, and their references can be paired with those of wanted. If there are none, or if [ErrDiffers] was recorded
// for wanted, the error is the reason.
func (r *Rebuilder) Candidates(ctx context.Context, wanted store.Info) (list []Candidate, err error) {
	if o, _ := r.Outcome(wanted); errors.Is(o.Err, ErrDiffers) {
		return nil, ErrDiffers
	}
	err = ErrNoOld
	for _, hp := range r.store.Namesakes(wanted.Path.Name()) {
		if hp == wanted.Path.HashPart() {
			continue
		}
		old, infoErr := r.store.Info(ctx, hp)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(infoErr, store.ErrDamaged):
			err = infoErr
			continue
		case infoErr != nil || old.Path.Name() != wanted.Path.Name():
			continue
		case old.NarSize != wanted.NarSize:
			if errors.Is(err, ErrNoOld) {
				err = ErrSize
			}
			continue
		}
		pairs, pairErr := Pairs(old, wanted)
		if pairErr != nil {
			err = pairErr
			continue
		}
		if list = append(list, Candidate{old, r, pairs}); len(list) == maxCandidates {
			break
		}
	}
	if len(list) > 0 {
		return list, nil
	}
	return nil, err
}

// Record records the outcome of rebuilding wanted. After [ErrDiffers] it is not tried again, and no later failure hides
// it.
func (r *Rebuilder) Record(wanted store.Info, o Outcome) {
	if before, ok := r.Outcome(wanted); ok && errors.Is(before.Err, ErrDiffers) && o.Err != nil && !errors.Is(o.Err, ErrDiffers) {
		return
	}
	r.outcomes.Add(key{wanted.Path, wanted.NarHash}, o)
}

// Outcome returns the outcome that was recorded last; false if nothing was, or too many others since.
func (r *Rebuilder) Outcome(wanted store.Info) (Outcome, bool) {
	return r.outcomes.Peek(key{wanted.Path, wanted.NarHash})
}

// Recent counts the paths of the recorded outcomes.
type Recent struct {
	Wanted int `json:"wanted"` // fetched or rebuilt, the last 4,096 at most since the start
	NoOld  int `json:"noOld"`  // of these, the paths of which no other version was here
}

// Recent returns how many paths were wanted of late, and how many of them were new here.
func (r *Rebuilder) Recent() (n Recent) {
	for _, o := range r.outcomes.Values() {
		n.Wanted++
		if errors.Is(o.Err, ErrNoOld) {
			n.NoOld++
		}
	}
	return n
}

// Suspect reports to the store that the candidate's content may be damaged.
func (c Candidate) Suspect() { c.of.store.Suspect(c.Old) }

// Go calls f in a goroutine and returns true, or returns false if 32 of them are running. A read may hang as long as
// its disk does, and so may f: no end of a part waits for it.
func (r *Rebuilder) Go(f func()) bool {
	select {
	case r.slots <- struct{}{}:
	default:
		return false
	}
	go func() {
		defer func() { <-r.slots }()
		f()
	}()
	return true
}

// Rate returns the bytes per second at which NARs were rebuilt last; 0 if that was not measured within 10 minutes.
func (r *Rebuilder) Rate() int64 {
	if time.Since(time.Unix(0, r.rated.Load())) > rateFresh {
		return 0
	}
	return r.rate.Load()
}

// WriteTo writes the old NAR with the new store paths to w. The bytes are unchecked. The error is that of the store, of
// w, or of ctx; WriteTo returns after ctx ends once the current read has ended.
func (c Candidate) WriteTo(ctx context.Context, w io.Writer) error {
	nar, err := c.of.store.NAR(ctx, c.Old)
	if err != nil {
		return err
	}
	defer nar.Close()
	start := time.Now()
	out := NewWriter(w, c.pairs)
	buf := make([]byte, min(nar.Size(), store.BlockSize)) // most NARs are small
	for off := int64(0); off < nar.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := nar.ReadAt(buf[:min(int64(len(buf)), nar.Size()-off)], off)
		if n == 0 && err != nil {
			return fmt.Errorf("%s: %w", c.Old.Path, err)
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
	if err := out.Close(); err != nil {
		return err
	}
	if took := time.Since(start); nar.Size() >= rateBytes && took > 0 {
		c.of.rate.Store(int64(float64(nar.Size()) / took.Seconds()))
		c.of.rated.Store(time.Now().UnixNano())
	}
	return nil
}
