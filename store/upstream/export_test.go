package upstream

import (
	"time"

	"narbor/store"
)

// Age lets time pass for the paths that were not found.
func (u *Cache) Age(d time.Duration) {
	for _, hp := range u.misses.Keys() {
		at, _ := u.misses.Peek(hp)
		u.misses.Add(hp, at.Add(-d))
	}
}

// Breaker is a breaker.
type Breaker struct{ b breaker }

func (b *Breaker) Allows() (ask, probe bool) { return b.b.allows() }
func (b *Breaker) Answered(ok bool)          { b.b.answered(ok) }
func (b *Breaker) Probed(ok bool)            { b.b.probed(ok) }

// KeptInfos is a directory of narinfos.
type KeptInfos struct{ k *keptInfos }

func OpenKeptInfos(dir string) (KeptInfos, error) {
	k, err := openKeptInfos(dir)
	return KeptInfos{k}, err
}

func (k KeptInfos) Put(hp store.HashPart, text string) error     { return k.k.put(hp, text) }
func (k KeptInfos) Get(hp store.HashPart) (text string, ok bool) { return k.k.get(hp) }
