package spool

import (
	"context"

	"narbor/store"
)

// Reuse reads the file that an earlier draft has left, and returns the numbers of the blocks that are there: those with
// the right checksum. No peer vouches for them. It is called once, before the first write. It stops early when ctx ends.
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

// Keep ends the draft, and leaves its blocks on disk for [Spool.Resume]. If there are none, or the NAR was found wrong,
// the file is deleted. After a successful Commit it does nothing.
func (d *Draft) Keep() { d.end(true) }

// Forgo makes Keep discard the draft, and prevents a later process from resuming it. It is for bytes that are guessed
// and may come from paths that are not shared, because a later fetch would pass them on. It is called before the first
// write.
func (d *Draft) Forgo() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sums.void = true
}

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
	d.spool.release(d, d.size)
	if keep && !void && here > 0 {
		d.spool.keep(d.draftFile, here)
		_ = d.spool.floor() // it makes room, or there is nothing left to delete
	} else {
		d.spool.remove([]string{d.name})
	}
}
