package spool

import "os"

// MaxKept is the number of files that are kept.
const MaxKept = maxKept

// OnDiskOf makes the spool ask the file system of f for its free space, and counts bytes as used.
func (s *Spool) OnDiskOf(f *os.File, bytes int64) {
	s.dir.lock.Close()
	s.dir.lock, s.bytes = f, bytes
}

// BeginWrite is the first half of a WriteAt that takes its time; end is the second, with the outcome of the disk.
func (d *Draft) BeginWrite(p []byte, off int64) (end func(error), err error) {
	mine, err := d.claim(span{off, off + int64(len(p))})
	if err != nil {
		return nil, err
	}
	return func(disk error) {
		defer d.leave()
		for _, m := range mine {
			if disk == nil {
				_, disk = d.file.WriteAt(p[m.from-off:m.to-off], m.from)
			}
		}
		d.record(mine, disk)
		if disk == nil {
			d.advance(p, off, mine)
		}
	}, nil
}
