package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"os"
	"sync"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

const (
	// catchUp bounds how many bytes written by other calls one WriteAt hashes, so that the neighbour that it serves
	// does not wait while the blocks of all others are hashed: 4 MiB take 3 ms.
	catchUp = 4 << 20

	rereadSize = 128 << 10

	// besideSize is from how many bytes on hashing beside the writing, on another processor, is worth a goroutine.
	besideSize = 64 << 10
)

// A Draft is a NAR being received: a file of the spool, hashed as it grows.
//
// Until a Commit has failed, the first write of a byte counts: a later write, or a concurrent one, leaves that byte out
// and reports it as written. So the hashed bytes are the bytes on disk, even if two neighbours send different bytes for
// a block. After a Commit has failed every write replaces the bytes on disk, and the next Commit hashes the whole file
// again.
//
// WriteAt and ReadAt may be called concurrently, with each other and with Commit. A write that has not returned when
// Commit is called may or may not be part of the committed NAR.
type Draft struct {
	draftFile
	spool *Spool

	mu        sync.Mutex // guards the rest
	quiet     *sync.Cond // signalled when writers reaches 0, and when committing ends
	phase     phase
	redo      bool  // a Commit has failed
	writers   int   // calls of WriteAt under way
	unwritten int64 // bytes that the spool counts as still to be written
	claimed   spans
	written   spans // part of claimed
	prefix    prefix
	sums      sums
}

// sums is the state of the checksums behind the NAR.
type sums struct {
	left int64 // bytes that an earlier draft has left, until Reuse has read them
	void bool  // there are none any more
}

type phase int

const (
	receiving phase = iota
	committing
	ended // committed or discarded
)

// prefix is the hashed beginning of a draft. length and busy are guarded by the draft's mutex. Only the call that has
// set busy touches sum and buf.
type prefix struct {
	length int64
	busy   bool
	sum    hash.Hash
	buf    []byte
}

// newDraft returns a draft of which left bytes are in its file already, and for which space has been reserved. Once its
// file is open, publish makes it known to the spool.
func newDraft(s *Spool, f draftFile, left int64) *Draft {
	d := &Draft{draftFile: f, spool: s, unwritten: f.size - left, prefix: prefix{sum: sha256.New()}, sums: sums{left: left}}
	d.quiet = sync.NewCond(&d.mu)
	return d
}

// WriteAt stores p. If p continues the hashed prefix, WriteAt hashes p and the bytes stored after it. It writes all of
// p or returns an error, which wraps [store.ErrNoSpace] if the disk is full; p may then be written again.
func (d *Draft) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > d.size-off {
		return 0, fmt.Errorf("spool: %d bytes at offset %d do not fit into nar %s of %d bytes", len(p), off, d.want, d.size)
	}
	mine, err := d.claim(span{off, off + int64(len(p))})
	if err != nil {
		return 0, err
	}
	defer d.leave()
	hashed := d.hashBeside(p, off, mine)
	for _, m := range mine {
		if _, err = d.file.WriteAt(p[m.from-off:m.to-off], m.from); err != nil {
			break
		}
	}
	hashed(err)
	if err == nil {
		d.seal(p, off, mine)
	}
	d.record(mine, err)
	if err != nil {
		return 0, fmt.Errorf("spool %s: %w", d.spool.cfg.Dir, nar.NoSpace(err))
	}
	d.advance(p, off, mine)
	return len(p), nil
}

// hashBeside hashes the bytes that continue the prefix while the caller writes them. The caller then calls wait with
// the error of its write. Bytes that were hashed and not written are forgotten together with the whole prefix.
func (d *Draft) hashBeside(p []byte, off int64, mine spans) (wait func(error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from := d.prefix.length
	n := mine.at(from).to - from
	if d.prefix.busy || d.redo || n < besideSize {
		return func(error) {}
	}
	d.prefix.busy = true
	done := make(chan struct{})
	go func() {
		d.prefix.sum.Write(p[from-off:][:n])
		close(done)
	}()
	return func(err error) {
		<-done
		d.mu.Lock()
		defer d.mu.Unlock()
		d.prefix.busy = false
		if d.prefix.length += n; err != nil {
			d.prefix.sum.Reset()
			d.prefix.length = 0
		}
	}
}

// claim returns the parts of s that the caller is to write, and counts it as a writer.
func (d *Draft) claim(s span) (spans, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase == ended {
		return nil, fmt.Errorf("spool: nar %s: %w", d.want, os.ErrClosed)
	}
	d.writers++
	if d.phase == committing { // everything had been written: a block that came twice
		return nil, nil
	}
	if d.redo {
		return spans{s}, nil
	}
	mine := d.claimed.missing(s)
	d.claimed = d.claimed.add(s)
	return mine, nil
}

// record notes that the caller has written its parts, or has not.
func (d *Draft) record(mine spans, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range mine {
		if err != nil && !d.redo {
			d.claimed = d.claimed.remove(m)
		} else if err == nil {
			d.claimed, d.written = d.claimed.add(m), d.written.add(m)
		}
	}
	if err == nil && !d.redo {
		d.settle(mine.bytes())
	}
}

// settle tells the spool of bytes that are on the disk now, or never will be. The caller holds mu.
func (d *Draft) settle(n int64) {
	n = min(n, d.unwritten) // a block that was there, and wrong, is written again
	d.unwritten -= n
	d.spool.settle(n)
}

func (d *Draft) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writers--
	if d.writers == 0 {
		d.quiet.Broadcast()
	}
}

// advance hashes the bytes that continue the prefix: from p where this call wrote them (mine), else from the disk. If
// another call is doing so already, it will hash these bytes, too, and advance returns. The mutex is not held while
// hashing. An error of the disk is left for Commit to report.
func (d *Draft) advance(p []byte, off int64, mine spans) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.prefix.busy || d.redo {
		return
	}
	d.prefix.busy = true
	defer func() { d.prefix.busy = false }()
	for budget := int64(catchUp); budget > 0; {
		next := span{d.prefix.length, d.written.end(d.prefix.length)}
		if next.from == next.to {
			return
		}
		d.mu.Unlock()
		var n int64
		var err error
		if own := mine.at(next.from); own.to > own.from {
			n = min(own.to, next.to) - next.from
			d.prefix.sum.Write(p[next.from-off:][:n])
		} else {
			n, err = d.reread(span{next.from, min(next.to, mine.after(next.from))})
			budget -= n
		}
		d.mu.Lock()
		d.prefix.length += n
		if err != nil {
			return
		}
	}
}

// reread hashes the beginning of s from the disk and returns how much that was.
func (d *Draft) reread(s span) (int64, error) {
	if d.prefix.buf == nil {
		d.prefix.buf = make([]byte, rereadSize)
	}
	b := d.prefix.buf[:min(s.to-s.from, rereadSize)]
	if _, err := d.file.ReadAt(b, s.from); err != nil {
		return 0, err
	}
	d.prefix.sum.Write(b)
	return int64(len(b)), nil
}

// ReadAt reads bytes that have been written, and fails for others. The bytes that it returns are unchecked.
func (d *Draft) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	gone, here := d.phase == ended, off >= 0 && d.written.end(off) >= off+int64(len(p))
	d.mu.Unlock()
	if gone {
		return 0, fmt.Errorf("spool: nar %s: %w", d.want, os.ErrClosed)
	}
	if !here {
		return 0, fmt.Errorf("spool: %d bytes at offset %d of nar %s have not been received", len(p), off, d.want)
	}
	return d.file.ReadAt(p, off)
}

// Commit ends the draft and returns its NAR, if every byte has been written, their SHA-256 is right, [nar.Check] finds
// no fault and check, which may be nil, agrees. If the hash is wrong or check disagrees, the error wraps
// [store.ErrCorrupt]; if the hash is right and the archive is not, [store.ErrMalformed]. After any error the draft can
// be written to and committed again.
func (d *Draft) Commit(check func(store.NAR) error) (*NAR, error) {
	if err := d.quiesce(); err != nil {
		return nil, err
	}
	began := time.Now()
	nar, err := d.verify(check)
	d.spool.checks.done.Add(1)
	d.spool.checks.took.Add(int64(time.Since(began)))
	d.mu.Lock()
	d.phase = receiving
	if nar != nil {
		d.phase = ended
	}
	d.redo = d.redo || errors.Is(err, store.ErrCorrupt)
	d.sums.void = d.sums.void || d.redo || errors.Is(err, store.ErrMalformed)
	void := d.sums.void && nar == nil
	d.quiet.Broadcast()
	d.mu.Unlock()
	if void { // a file that has no checksums is deleted at the start
		_ = d.file.Truncate(d.size)
	}
	return nar, err
}

// quiesce begins to commit: no new write is let in, and those under way are waited for.
func (d *Draft) quiesce() error {
	whole := span{0, d.size}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.phase == committing:
		return fmt.Errorf("spool: nar %s is being committed", d.want)
	case d.phase == ended:
		return fmt.Errorf("spool: nar %s: %w", d.want, os.ErrClosed)
	case !d.claimed.contain(whole):
		return fmt.Errorf("spool: nar %s is not complete", d.want)
	}
	d.phase = committing
	for d.writers > 0 {
		d.quiet.Wait()
	}
	if !d.written.contain(whole) { // one of them failed
		d.phase = receiving
		d.quiet.Broadcast()
		return fmt.Errorf("spool: nar %s is not complete", d.want)
	}
	if d.redo {
		d.prefix.sum.Reset()
		d.prefix.length = 0
	}
	return nil
}

// verify hashes the rest, compares, and hands the file over. No other call touches a draft that is being committed, so
// the mutex is not needed.
func (d *Draft) verify(check func(store.NAR) error) (*NAR, error) {
	for d.prefix.length < d.size {
		n, err := d.reread(span{d.prefix.length, d.size})
		if err != nil {
			return nil, fmt.Errorf("spool %s: %w", d.spool.cfg.Dir, err)
		}
		d.prefix.length += n
	}
	if got := store.Hash(d.prefix.sum.Sum(nil)); got != d.want {
		return nil, fmt.Errorf("nar %s: %w: hashes to %s", d.want, store.ErrCorrupt, got)
	}
	if err := nar.Check(draftNAR{d}, d.size); err != nil {
		return nil, fmt.Errorf("nar %s: %w", d.want, err)
	}
	if check != nil {
		if err := check(draftNAR{d}); err != nil {
			return nil, fmt.Errorf("nar %s: %w: %w", d.want, store.ErrCorrupt, err)
		}
	}
	nar, err := d.spool.adopt(d)
	if err != nil {
		return nil, fmt.Errorf("spool %s: %w", d.spool.cfg.Dir, err)
	}
	return nar, nil
}

// draftNAR implements [store.NAR] for the check of a complete draft.
type draftNAR struct{ *Draft }

func (n draftNAR) Size() int64  { return n.size }
func (n draftNAR) Close() error { return nil }

func (n draftNAR) ReadAt(p []byte, off int64) (int, error) {
	return nar.ReadFile(n.file, p, off, n.size)
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

// adopt makes a draft's file an entry, or deletes it if the same NAR has become one meanwhile.
func (s *Spool) adopt(d *Draft) (*NAR, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, os.ErrClosed
	}
	delete(s.drafts, d)
	e, ok := s.entries[d.want]
	if ok && s.hold(e) {
		s.bytes -= roundUp(d.size)
		nar := &NAR{entry: e, file: e.file}
		s.mu.Unlock()
		d.file.Close()
		s.remove([]string{d.name})
		return nar, nil
	}
	var lost []string
	if ok { // it cannot be opened
		lost = []string{e.name}
	}
	e = &entry{spool: s, hash: d.want, size: d.size, name: d.name, file: d.file, handles: 1}
	s.entries[d.want] = e
	s.mu.Unlock()
	s.remove(lost)
	return &NAR{entry: e, file: d.file}, nil
}
