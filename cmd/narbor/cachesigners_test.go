package main

import (
	"testing"
	"testing/synctest"
	"time"

	"narbor/store/bincache"
)

func TestHungCacheDirectoryDoesNotBlockStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cacheSigners
		looks, answers := 0, make(chan struct{})
		hung := func() []bincache.Signers {
			looks++
			<-answers
			return []bincache.Signers{{Paths: 7}}
		}
		began := time.Now()
		for range 3 {
			if found := c.from(hung); found != nil {
				t.Errorf("a look that hangs found %v", found)
			}
		}
		if waited := time.Since(began); waited > 3*signersWait { // the bubble's clock
			t.Errorf("the status waited %v for it", waited)
		}
		close(answers)
		synctest.Wait()
		if found := c.from(hung); len(found) != 1 || found[0].Paths != 7 || looks != 1 {
			t.Errorf("after %d looks it found %v, want 7 paths by one look", looks, found)
		}
	})
}
