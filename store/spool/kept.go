package spool

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"narbor/store"
)

// A kept is a file with a part of a NAR, or with all of it, that no draft uses.
type kept struct {
	draftFile
	bytes int64     // of the NAR that are there
	since time.Time // when it was last used
}

// sumSize is the length of the checksum of a block.
const sumSize = 4

// fileSize returns the length of the file of a NAR of size bytes.
func fileSize(size int64) int64 { return size + int64(store.NumBlocks(size))*sumSize }

// fileName returns the name of the file of a NAR.
func fileName(h store.Hash, size int64, number uint64) string {
	return fmt.Sprintf("%s-%d-%d%s", h.Base32(), size, number, narSuffix)
}

// parseName is the inverse of fileName.
func parseName(name string) (h store.Hash, size int64, number uint64, ok bool) {
	fields := strings.Split(strings.TrimSuffix(name, narSuffix), "-")
	if len(fields) != 3 {
		return h, 0, 0, false
	}
	h, err := store.ParseHash("sha256:" + fields[0])
	if err != nil {
		return h, 0, 0, false
	}
	if size, err = strconv.ParseInt(fields[1], 10, 64); err != nil || size < 1 || size > store.MaxNarSize {
		return h, 0, 0, false
	}
	number, err = strconv.ParseUint(fields[2], 10, 63)
	return h, size, number, err == nil && fileName(h, size, number) == name
}

// checksum returns what stands behind a NAR for a block that is there.
func checksum(block []byte) uint32 {
	return max(1, crc32.Checksum(block, crc32.MakeTable(crc32.Castagnoli)))
}

// readSums reads the checksums of all blocks.
func (f draftFile) readSums() ([]uint32, error) {
	b := make([]byte, store.NumBlocks(f.size)*sumSize)
	if _, err := f.file.ReadAt(b, f.size); err != nil {
		return nil, err
	}
	sums := make([]uint32, len(b)/sumSize)
	for i := range sums {
		sums[i] = binary.LittleEndian.Uint32(b[i*sumSize:])
	}
	return sums, nil
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
	h, size, number, ok := parseName(name)
	if !ok {
		return kept{}, 0, useless
	}
	st, err := s.dir.root.Lstat(name) // not to wait for a pipe
	if err != nil || !st.Mode().IsRegular() || st.Size() != fileSize(size) {
		return kept{}, 0, useless
	}
	k = kept{draftFile{name: name, want: h, size: size}, 0, st.ModTime()}
	if now := time.Now(); k.since.After(now) { // the clock was wrong then, or is now
		k.since = now
	}
	f, err := s.dir.root.Open(name)
	if err != nil {
		return kept{}, 0, err
	}
	defer f.Close()
	sums, err := draftFile{f, name, h, size}.readSums()
	if err != nil {
		return kept{}, 0, err
	}
	for i, sum := range sums {
		if sum != 0 {
			k.bytes += int64(store.BlockLen(size, i))
		}
	}
	if k.bytes == 0 {
		return kept{}, 0, useless
	}
	return k, number, nil
}

// drop takes a kept file out of the books; the file is the caller's.
func (s *Spool) drop(i int) kept {
	k := s.kept[i]
	s.kept = slices.Delete(s.kept, i, i+1)
	s.bytes -= roundUp(k.bytes)
	return k
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

// keep enters a file of which bytes are there.
func (s *Spool) keep(f draftFile, bytes int64) {
	k := kept{draftFile{name: f.name, want: f.want, size: f.size}, bytes, time.Now()}
	s.mu.Lock()
	s.kept = append(s.kept, k)
	s.bytes += roundUp(k.bytes)
	victims := s.expire()
	for len(s.kept) > maxKept || len(s.kept) > 0 && s.bytes > s.cfg.MaxBytes {
		victims = append(victims, s.drop(0).name)
	}
	s.mu.Unlock()
	s.remove(victims)
}

// Resume is as [Spool.Create], but goes on with what an earlier draft of that hash and size has left, if there is such a thing.
// [Draft.Reuse] says what that is.
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

// Reuse reads what an earlier draft has left, and returns the numbers of the blocks that are there: those whose checksums
// agree. No peer vouches for them. It is called once, before the first write. It stops early when ctx ends.
func (d *Draft) Reuse(ctx context.Context) (blocks []int) {
	if d.sums.left == 0 {
		return nil
	}
	sums, err := d.readSums()
	if err != nil {
		return nil
	}
	buf := make([]byte, store.BlockSize)
	for i, sum := range sums {
		if ctx.Err() != nil {
			return blocks
		}
		b := buf[:store.BlockLen(d.size, i)]
		off := int64(i) * store.BlockSize
		if sum == 0 {
			continue
		}
		if _, err := d.file.ReadAt(b, off); err != nil || checksum(b) != sum {
			continue
		}
		d.found(b, off)
		blocks = append(blocks, i)
	}
	d.mu.Lock()
	d.sums.left = 0
	d.mu.Unlock()
	return blocks
}

// found records that b is on the disk.
func (d *Draft) found(b []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := span{off, off + int64(len(b))}
	d.claimed, d.written = d.claimed.add(s), d.written.add(s)
	if d.prefix.length == off {
		d.prefix.sum.Write(b)
		d.prefix.length = s.to
	}
}

// seal writes the checksums of the whole blocks that the caller has written. A block that has none is fetched again, so
// errors are ignored.
func (d *Draft) seal(p []byte, off int64, mine spans) {
	d.mu.Lock()
	void := d.sums.void
	d.mu.Unlock()
	if void {
		return
	}
	for _, m := range mine {
		for i := int((m.from + store.BlockSize - 1) / store.BlockSize); i < store.NumBlocks(d.size); i++ {
			from := int64(i) * store.BlockSize
			to := from + int64(store.BlockLen(d.size, i))
			if to > m.to {
				break
			}
			sum := binary.LittleEndian.AppendUint32(nil, checksum(p[from-off:to-off]))
			_, _ = d.file.WriteAt(sum, d.size+int64(i)*sumSize)
		}
	}
}

// Keep ends the draft, and leaves on disk what is there, for [Spool.Resume]. If there is nothing, or the NAR was found wrong,
// the file is deleted. After a successful Commit it does nothing.
func (d *Draft) Keep() { d.end(true) }

// Discard ends the draft and deletes it. After a successful Commit it does nothing.
func (d *Draft) Discard() { d.end(false) }

func (d *Draft) end(keep bool) {
	d.mu.Lock()
	for d.phase == committing {
		d.quiet.Wait()
	}
	first := d.phase != ended
	d.phase = ended
	for first && d.writers > 0 { // a write that came later would change the file under the next draft
		d.quiet.Wait()
	}
	d.settle(d.unwritten)
	here := max(d.written.bytes(), d.sums.left)
	void := d.sums.void
	d.mu.Unlock()
	if !first {
		return
	}
	if d.file != nil {
		d.file.Close()
	}
	d.spool.release(d)
	if keep && !void && here > 0 {
		d.spool.keep(d.draftFile, here)
		_ = d.spool.floor() // it makes room, or there is nothing left to delete
	} else {
		d.spool.remove([]string{d.name})
	}
}
