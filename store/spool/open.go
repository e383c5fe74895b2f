package spool

import (
	"cmp"
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

const (
	defaultMax     = 4 << 30
	defaultMinFree = 2 << 30
)

// Open takes a directory as spool, for this process alone. The NARs that an earlier process has left in it,
// half-received or verified, are kept for [Spool.Resume], as far as there is room for them.
func Open(cfg Config) (*Spool, error) {
	if cfg.MaxBytes < 0 {
		return nil, fmt.Errorf("spool %s: a cap of %d bytes", cfg.Dir, cfg.MaxBytes)
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = defaultMax
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = defaultMinFree
	}
	s := &Spool{cfg: cfg, drafts: map[keeper]struct{}{}, entries: map[store.Hash]*entry{}, idle: list.New()}
	var err error
	if s.dir, err = takeDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("spool %s: %w", cfg.Dir, err)
	}
	if err = s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("spool %s: %w", cfg.Dir, err), s.dir.close())
	}
	_ = s.floor() // a draft will tell if that is not enough
	return s, nil
}

// Close ends all drafts, as [Draft.Keep] does, and releases the directory. Its files stay. Open handles stay readable,
// but for [NAR.Open].
func (s *Spool) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	drafts := slices.Collect(maps.Keys(s.drafts))
	s.mu.Unlock()
	if !first {
		return nil
	}
	for _, d := range drafts { // the next process may write to their files
		d.Keep()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir.close()
}

// Has says whether the NAR with that hash is in the spool, and leaves it as it is.
func (s *Spool) Has(h store.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[h] != nil
}

// Create reserves the space for a NAR of that hash and size. Several drafts may exist for one hash, each with its
// own file; the first that is committed becomes the entry. The error wraps [store.ErrNoSpace] if the NAR does not fit
// even after all NARs without open handles are deleted.
func (s *Spool) Create(h store.Hash, size int64) (*Draft, error) {
	if size < 1 || size > store.MaxNarSize {
		return nil, fmt.Errorf("spool: %d is not a NAR's size", size)
	}
	number, err := s.reserve(size, 0)
	if err != nil {
		return nil, fmt.Errorf("spool %s: %d bytes for nar %s: %w", s.cfg.Dir, size, h, err)
	}
	d := newDraft(s, draftFile{name: fileName{h, size, number}.String(), want: h, size: size}, 0)
	if d.file, err = s.make(d.name, size); err == nil {
		err = s.publish(d)
	}
	if err != nil {
		d.Discard()
		return nil, fmt.Errorf("spool %s: %d bytes for nar %s: %w", s.cfg.Dir, size, h, nar.NoSpace(err))
	}
	return d, nil
}

// publish lets Close end a draft, which has its file. It fails if the spool has been closed.
func (s *Spool) publish(d *Draft) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	s.drafts[d] = struct{}{}
	return nil
}

// make makes the file of a draft for which there is space. Its blocks are not set aside: that costs as much as writing
// them, before the first byte has come, and most files are deleted before a disk would have seen them.
func (s *Spool) make(name string, size int64) (*os.File, error) {
	if err := s.floor(); err != nil {
		return nil, err
	}
	open := func() (*os.File, error) {
		return s.root().OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) && s.Renew() == nil {
		f, err = open()
	}
	if err != nil {
		return nil, err
	}
	return f, f.Truncate(fileSize(size))
}

// Stats says how full the spool is.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	free, err := nar.FreeBytes(s.dir.lock) // with the mutex held, as in Fits
	if err != nil || free == nar.UnknownFree {
		free = -1
	}
	return Stats{Bytes: s.bytes, Entries: len(s.entries), MaxBytes: s.cfg.MaxBytes, Free: free, MinFree: max(s.cfg.MinFree, 0),
		Verified: s.checks.done.Load(), VerifyTime: time.Duration(s.checks.took.Load())}
}

// Renew makes the directory anew if it was deleted. NARs that are open or being received stay usable: their files have
// lost their names and nothing else. If another directory has its name, the files in it are deleted: they may
// be a copy from a backup, or the same files again, which drafts and NARs of this spool use.
func (s *Spool) Renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return os.ErrClosed
	}
	was, err := s.dir.root.Stat(".")
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.cfg.Dir, err)
	}
	if is, err := os.Stat(s.cfg.Dir); err == nil && os.SameFile(was, is) {
		return nil
	}
	dir, err := takeDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.cfg.Dir, err)
	}
	err = s.dir.close()
	s.dir = dir
	for len(s.kept) > 0 { // their files are lost
		s.drop(0)
	}
	names, lost := ours(dir.root)
	for _, name := range names {
		lost = errors.Join(lost, dir.root.Remove(name))
	}
	return errors.Join(err, lost)
}

// load keeps the files that an earlier process has left, and deletes those that are of no use. Only Open calls it.
func (s *Spool) load() error {
	names, err := ours(s.dir.root)
	if err != nil {
		return err
	}
	var useless []string
	for _, name := range names {
		k, number, err := s.inspect(name)
		if err != nil {
			useless = append(useless, name)
			continue
		}
		s.seq = max(s.seq, number)
		s.kept = append(s.kept, k)
		s.bytes += roundUp(k.bytes)
	}
	slices.SortFunc(s.kept, func(a, b kept) int { return cmp.Or(a.since.Compare(b.since), strings.Compare(a.name, b.name)) })
	useless = append(useless, s.expire()...)
	for len(s.kept) > 0 && (len(s.kept) > maxKept || s.bytes > s.cfg.MaxBytes) {
		useless = append(useless, s.drop(0).name)
	}
	for _, name := range useless {
		if err := s.dir.root.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// inspect returns what a file has of a NAR, and the number in its name. It fails if the file is of no use.
func (s *Spool) inspect(name string) (k kept, number uint64, err error) {
	useless := fmt.Errorf("spool: %s is of no use: %w", name, fs.ErrInvalid)
	n, ok := parseName(name)
	if !ok {
		return kept{}, 0, useless
	}
	st, err := s.dir.root.Lstat(name) // not to wait for a pipe
	if err != nil || !st.Mode().IsRegular() || st.Size() != fileSize(n.size) {
		return kept{}, 0, useless
	}
	k = kept{draftFile{name: name, want: n.want, size: n.size}, 0, st.ModTime()}
	if now := time.Now(); k.since.After(now) { // the clock was wrong then, or is now
		k.since = now
	}
	f, err := s.dir.root.Open(name)
	if err != nil {
		return kept{}, 0, err
	}
	defer f.Close()
	sums, err := draftFile{f, name, n.want, n.size}.readSums()
	if err != nil {
		return kept{}, 0, err
	}
	for i, sum := range sums {
		if sum != 0 {
			k.bytes += int64(store.BlockLen(n.size, i))
		}
	}
	if k.bytes == 0 {
		return kept{}, 0, useless
	}
	return k, n.number, nil
}

// take takes the kept file that has the most of a NAR out of the books.
func (s *Spool) take(h store.Hash, size int64) (k kept, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, k := range s.kept {
		if k.want == h && k.size == size && (best < 0 || k.bytes > s.kept[best].bytes) {
			best = i
		}
	}
	if best < 0 {
		return kept{}, false
	}
	return s.drop(best), true
}

// Resume is as [Spool.Create], but goes on with what an earlier draft of that hash and size has left, if there is such
// a thing. [Draft.Reuse] says what that is.
func (s *Spool) Resume(h store.Hash, size int64) (*Draft, error) {
	k, ok := s.take(h, size)
	if !ok {
		return s.Create(h, size)
	}
	_, err := s.reserve(size, k.bytes)
	if err != nil {
		s.keep(k.draftFile, k.bytes)
		return nil, fmt.Errorf("spool %s: %d bytes for nar %s: %w", s.cfg.Dir, size, h, err)
	}
	d := newDraft(s, k.draftFile, k.bytes)
	if err = s.floor(); err == nil {
		d.file, err = s.root().OpenFile(k.name, os.O_RDWR, 0)
	}
	if err == nil {
		err = s.publish(d)
	}
	switch {
	case err == nil:
		return d, nil
	case errors.Is(err, store.ErrNoSpace), errors.Is(err, os.ErrClosed):
		d.Keep()
		return nil, fmt.Errorf("spool %s: %d bytes for nar %s: %w", s.cfg.Dir, size, h, err)
	}
	d.Discard()
	return s.Create(h, size)
}

// Stats counts the content of a spool at a moment.
type Stats struct {
	Bytes    int64 // reserved on disk, by verified NARs, by those being received, and by the kept blocks of others
	Entries  int   // verified NARs
	MaxBytes int64
	Free     int64 // bytes that may still be written to its file system; -1 if that is not known
	MinFree  int64 // of these, the part that is left free

	Verified   int64         // drafts that were complete and so were checked, since it was opened
	VerifyTime time.Duration // that this took, all together
}
