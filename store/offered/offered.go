// Package offered keeps signatures that neighbours have offered for paths which this machine's sources have without
// one, and adds them to what those sources say.
//
// A signature is kept beside the source: Nix's database is not changed. It proves nothing by itself: whatever is made
// of a claim is checked as if the signature had come from the source. It counts for the NarHash for which it was
// offered, and for nothing that was built here.
//
// The file is JSON: a list of [Record], the oldest first. All methods may be called concurrently.
package offered

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"narbor/store"
	"narbor/store/statefile"
)

const (
	// maxRecords bounds the paths with kept signatures: the store of a desktop image has some 3,000. The oldest make
	// room.
	maxRecords = 8192
	// maxSignatures bounds those of one path, and maxSignature the bytes of one: a key's name and 88 characters.
	maxSignatures, maxSignature = 4, 512
	// maxFile bounds the file that is read.
	maxFile = 32 << 20
	// writeAfter is how long changes are gathered before the file is written: a closure's come within seconds.
	writeAfter = 5 * time.Second
)

// A Record has the signatures of one path.
type Record struct {
	Path       string    `json:"path"`
	NarHash    string    `json:"narHash"`
	Signatures []string  `json:"signatures"`
	From       string    `json:"from"` // the peer ID of the neighbour that offered them
	At         time.Time `json:"at"`
}

// A Book has the records, in memory and in a file.
type Book struct {
	file    string
	changed chan struct{} // has room for one

	mu      sync.Mutex // guards the rest
	records map[string]Record
	order   []string // the paths of records, the oldest first
	unsaved bool     // since the file was written
}

// Open reads the records of an earlier run, from a file that need not be there; "" is none. The result is usable even
// with an error.
func Open(file string) (*Book, error) {
	b := &Book{file: file, changed: make(chan struct{}, 1), records: map[string]Record{}}
	var list []Record
	err := statefile.Read(file, maxFile, &list)
	if err != nil {
		return b, err
	}
	for _, r := range list {
		if bad := r.check(); bad != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", file, bad))
			continue
		}
		b.put(r)
	}
	return b, err
}

func (r Record) check() error {
	if _, err := store.ParsePath(r.Path); err != nil {
		return err
	}
	if _, err := store.ParseHash(r.NarHash); err != nil {
		return fmt.Errorf("%s: %w", r.Path, err)
	}
	if n := len(r.Signatures); n == 0 || n > maxSignatures {
		return fmt.Errorf("%s: %d signatures, want 1 to %d", r.Path, n, maxSignatures)
	}
	for _, sig := range r.Signatures {
		if len(sig) > maxSignature || strings.ContainsAny(sig, "\r\n\x00") {
			return fmt.Errorf("%s: %.40q is no signature", r.Path, sig)
		}
	}
	return nil
}

// put adds a record, or replaces that of the same path. The caller holds mu, or is alone.
func (b *Book) put(r Record) {
	if _, ok := b.records[r.Path]; ok {
		b.order = slices.DeleteFunc(b.order, func(p string) bool { return p == r.Path })
	}
	b.records[r.Path], b.order = r, append(b.order, r.Path)
	for len(b.order) > maxRecords {
		delete(b.records, b.order[0])
		b.order = b.order[1:]
	}
}

// Keep keeps the signatures that a neighbour has offered for a claim of a source. They must have been verified.
func (b *Book) Keep(info store.Info, signatures []string, from string) error {
	r := Record{Path: info.Path.String(), NarHash: info.NarHash.String(), Signatures: slices.Clone(signatures), From: from,
		At: time.Now().UTC().Truncate(time.Second)}
	if err := r.check(); err != nil {
		return err
	}
	b.mu.Lock()
	b.put(r)
	b.unsaved = true
	b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default: // the next write has it, too
	}
	return nil
}

// Of returns the record for a claim of a source, if there is one for that NarHash and the path was not built here.
func (b *Book) Of(info store.Info) (Record, bool) {
	if info.Path.IsZero() || info.Ultimate {
		return Record{}, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.records[info.Path.String()]
	if !ok || r.NarHash != info.NarHash.String() {
		return Record{}, false
	}
	return r, true
}

// Save writes the file if something was kept since, or could not be written.
func (b *Book) Save() error {
	b.mu.Lock()
	unsaved := b.unsaved
	b.unsaved = false
	list := make([]Record, len(b.order))
	for i, p := range b.order {
		list[i] = b.records[p]
	}
	b.mu.Unlock()
	if !unsaved {
		return nil
	}
	err := statefile.Write(b.file, list)
	if err != nil {
		b.mu.Lock()
		b.unsaved = true
		b.mu.Unlock()
	}
	return err
}

// Run writes the file a while after changes, until ctx ends. failed is told of what cannot be written. The caller calls
// Save after the last Keep.
func (b *Book) Run(ctx context.Context, failed func(error)) error {
	for {
		select {
		case <-b.changed:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(writeAfter):
		case <-ctx.Done():
			return nil
		}
		if err := b.Save(); err != nil {
			failed(err)
		}
	}
}

// Source returns src with the signatures of the book.
func (b *Book) Source(src store.Source) store.Source { return source{src, b} }

type source struct {
	store.Source
	book *Book
}

// Info implements [store.Source].
func (s source) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	info, err := s.Source.Info(ctx, hp)
	if err != nil {
		return info, err
	}
	r, ok := s.book.Of(info)
	if !ok {
		return info, nil
	}
	sigs := slices.Clone(info.Signatures)
	for _, sig := range r.Signatures {
		if !slices.Contains(sigs, sig) {
			sigs, info.Offered = append(sigs, sig), true
		}
	}
	return info.WithSignatures(sigs), nil
}
