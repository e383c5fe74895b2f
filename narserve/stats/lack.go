package stats

import (
	"errors"
	"time"

	"narbor/store"
)

// lack is when a NAR did not fit into the spool, the last time. The caller of its methods holds the lock of the
// accounts.
type lack struct {
	room     time.Time // there was no room for it at that moment
	tooLarge time.Time // it was larger than the spool may be
}

// note records that a NAR does not fit into the spool, if err says so.
func (l *lack) note(now time.Time, err error) {
	switch {
	case errors.Is(err, store.ErrTooLarge):
		l.tooLarge = now
	case errors.Is(err, store.ErrNoSpace):
		l.room = now
	}
}
