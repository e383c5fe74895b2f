package stats

import (
	"context"
	"time"

	"go.uber.org/zap"

	"narbor/store"
)

// Run saves the accounts every few minutes and at the end, until ctx ends. Meanwhile it finds out which of the missed
// paths Nix has got elsewhere: size returns the NarSize of a path that is in this machine's store and that an upstream
// has signed, else 0. It is called once.
func (a *Accounts) Run(ctx context.Context, size func(context.Context, store.HashPart) int64, log *zap.Logger) {
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	var look <-chan time.Time // nil: Nix has missed nothing lately
	for {
		select {
		case <-a.missed.added:
			if look == nil {
				look = time.After(missCheckEvery)
			}
			continue
		case <-look:
			look = nil
			a.lookForMissed(ctx, size)
			if a.missed.checks.Len() > 0 {
				look = time.After(missCheckEvery)
			}
			continue
		case <-save.C:
		case <-ctx.Done():
		}
		if err := a.Save(); err != nil {
			log.Warn("accounts are not saved", zap.Error(err))
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// lookForMissed counts the paths that Nix missed here and has got since.
func (a *Accounts) lookForMissed(ctx context.Context, size func(context.Context, store.HashPart) int64) {
	for _, hp := range a.missed.due(time.Now()) {
		n := size(ctx, hp)
		if ctx.Err() != nil {
			return
		}
		a.looked(hp, n)
	}
}

// looked records whether a path that Nix missed is in this machine's store now; size is 0 if it is not.
func (a *Accounts) looked(hp store.HashPart, size int64) {
	at, found := a.missed.looked(hp, size > 0)
	if !found {
		return
	}
	amounts := Amounts{ByNix: size, ByNixPaths: 1}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.book(time.Now(), amounts)
	a.updates.add(at, amounts)
}
