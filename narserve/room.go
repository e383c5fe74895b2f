package narserve

import (
	"errors"
	"time"

	"narbor/store"
)

// noteRoom records that a NAR does not fit into the spool, if err says so. The caller holds mu.
func (a *Accounts) noteRoom(now time.Time, err error) {
	switch {
	case errors.Is(err, store.ErrTooLarge):
		a.tooLarge = now
	case errors.Is(err, store.ErrNoSpace):
		a.noRoom = now
	}
}

// TooLarge says whether Nix was denied a NAR that is larger than the spool, at most so long ago.
func (a *Accounts) TooLarge(ago time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.tooLarge.IsZero() && time.Since(a.tooLarge) <= ago
}

// OutOfRoom says whether Nix was denied a NAR for want of room in the spool, at most so long ago.
func (a *Accounts) OutOfRoom(ago time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.noRoom.IsZero() && time.Since(a.noRoom) <= ago
}
