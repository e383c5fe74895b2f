package spool

import (
	"fmt"
	"os"
	"time"

	"narbor/store"
	"narbor/store/nar"
)

// Expire deletes what nothing has gone on with for a day, and verified NARs after 10 idle minutes. Get and Create do that, too;
// the owner of the spool calls it now and then for times when nothing is fetched.
func (s *Spool) Expire() {
	s.mu.Lock()
	victims := s.expire()
	s.mu.Unlock()
	s.remove(victims)
}

// expire forgets what has been idle, or kept, for too long and returns the files to delete.
func (s *Spool) expire() (names []string) {
	for len(s.kept) > 0 && time.Since(s.kept[0].since) >= keptTime {
		names = append(names, s.drop(0).name)
	}
	for el := s.idle.Front(); el != nil && time.Since(el.Value.(*entry).since) >= idleTime; el = s.idle.Front() {
		e := el.Value.(*entry)
		s.forget(e)
		names = append(names, e.name)
	}
	return names
}

// spare returns how many bytes of the spool can be freed; enough of them suffice.
func (s *Spool) spare(enough int64) (n int64) {
	for _, k := range s.kept {
		n += roundUp(k.bytes)
	}
	for el := s.idle.Front(); el != nil && n < enough; el = el.Next() {
		n += roundUp(el.Value.(*entry).size)
	}
	return n
}

// leastWanted forgets the oldest of the kept files, or if there is none the entry that has been idle longest, and returns the
// name of its file; "" if all is held.
func (s *Spool) leastWanted() string {
	if len(s.kept) > 0 {
		return s.drop(0).name
	}
	el := s.idle.Front()
	if el == nil {
		return ""
	}
	e := el.Value.(*entry)
	s.forget(e)
	return e.name
}

// evict deletes what is wanted least. It returns false if all is held.
func (s *Spool) evict() bool {
	s.mu.Lock()
	name := s.leastWanted()
	s.mu.Unlock()
	if name == "" {
		return false
	}
	s.remove([]string{name})
	return true
}

// Fits returns an error that wraps [store.ErrNoSpace] if a NAR of size bytes does not fit even after all that is in the spool
// has gone. It wraps [store.ErrTooLarge], too, if that is because of the cap and not because of the disk.
func (s *Spool) Fits(size int64) error {
	if roundUp(size) > s.cfg.MaxBytes {
		return fmt.Errorf("%w: %w: a nar of %d bytes, and it takes %d", store.ErrNoSpace, store.ErrTooLarge, size, s.cfg.MaxBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	free, err := nar.FreeBytes(s.dir.lock) // with the mutex held: Renew and Close close the file
	if most := free + s.bytes - max(s.cfg.MinFree, 0); err == nil && size > most {
		return fmt.Errorf("%w: a nar of %d bytes, and the disk has room for %d beside what must stay free", store.ErrNoSpace, size,
			max(0, most))
	}
	return nil // if the disk cannot be asked, the fetch will tell
}

// reserve takes size bytes of the cap for a draft, of which here bytes are on the disk already, and returns a number for the
// name of its file.
func (s *Spool) reserve(size, here int64) (number uint64, err error) {
	s.mu.Lock()
	victims := s.expire()
	over := s.bytes + roundUp(size) - s.cfg.MaxBytes
	switch spare := s.spare(over); {
	case s.closed:
		err = os.ErrClosed
	case over > spare:
		err = fmt.Errorf("%w: %d of at most %d bytes are in use", store.ErrNoSpace, s.bytes-spare, s.cfg.MaxBytes)
	default:
		for s.bytes+roundUp(size) > s.cfg.MaxBytes {
			victims = append(victims, s.leastWanted())
		}
		s.bytes += roundUp(size)
		s.coming += size - here
		s.seq++
		number = s.seq
	}
	s.mu.Unlock()
	s.remove(victims)
	return number, err
}

// release gives back what reserve took, but for what settle has.
func (s *Spool) release(d *Draft) {
	s.mu.Lock()
	s.bytes -= roundUp(d.size)
	delete(s.drafts, d)
	s.mu.Unlock()
}

// settle records that size bytes of a draft have been written, or never will be.
func (s *Spool) settle(size int64) {
	s.mu.Lock()
	s.coming -= size
	s.mu.Unlock()
}

// floor evicts NARs until the drafts can be completed with the floor left free, and fails if that is impossible.
func (s *Spool) floor() error {
	for {
		s.mu.Lock()
		free, err := nar.FreeBytes(s.dir.lock) // with the mutex held, as in Fits
		coming := s.coming
		s.mu.Unlock()
		if err != nil || free-coming >= max(s.cfg.MinFree, 0) {
			return err
		}
		if !s.evict() {
			return fmt.Errorf("%w: %d bytes are free on the disk, %d are to come, %d must stay free", store.ErrNoSpace, free, coming,
				s.cfg.MinFree)
		}
	}
}

func roundUp(size int64) int64 { return (size + sizeUnit - 1) / sizeUnit * sizeUnit }
