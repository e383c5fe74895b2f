package main

import (
	"sync"
	"time"

	"narbor/store/bincache"
)

const (
	// signersLooked bounds the paths of a cache directory that are looked at: they are a sample.
	signersLooked = 64
	// signersKept is how long a result is reused: each look may wake the disk of a NAS.
	signersKept = time.Hour
	// signersWait bounds the wait for a look; a later call has its result.
	signersWait = 200 * time.Millisecond
)

// cacheSigners caches the names of the keys that have signed the paths of the cache directories.
type cacheSigners struct {
	mu      sync.Mutex // guards the rest; it is not held while a directory is read
	at      time.Time
	found   []bincache.Signers // one for each cache; nil before the first look has ended
	looking chan struct{}      // closed when the look that runs has ended; nil when none runs
}

// of returns what the last look at the cache directories found. A look that is due runs in the background, and is
// waited for during signersWait only: a NAS that hangs must not block `narbor status`, nor the end of narbor, and a read
// of it cannot be ended. One look runs at a time.
func (c *cacheSigners) of(caches []*bincache.Cache) []bincache.Signers {
	return c.from(func() (found []bincache.Signers) {
		for _, cache := range caches {
			s, err := cache.Signers(signersLooked)
			if err != nil {
				s = bincache.Signers{} // it may be mounted later
			}
			found = append(found, s)
		}
		return found
	})
}

// from is of with any look.
func (c *cacheSigners) from(look func() []bincache.Signers) []bincache.Signers {
	c.mu.Lock()
	if c.looking == nil && (c.at.IsZero() || time.Since(c.at) > signersKept) {
		c.at = time.Now()
		ended := make(chan struct{})
		c.looking = ended
		go func() {
			found := look()
			c.mu.Lock()
			defer c.mu.Unlock()
			c.found, c.looking = found, nil
			close(ended)
		}()
	}
	looking := c.looking
	c.mu.Unlock()
	if looking != nil {
		select {
		case <-looking:
		case <-time.After(signersWait):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.found
}
