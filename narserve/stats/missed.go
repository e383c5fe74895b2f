package stats

import (
	"math"
	"time"

	"narbor/store"
	"narbor/store/lru"
)

const (
	// maxMissChecks bounds the misses with an unknown outcome: more than a desktop system has paths.
	maxMissChecks = 8192
	// missCheckEvery and missChecksAtOnce bound what it costs to find out: a question to the own store each.
	missCheckEvery, missChecksAtOnce = 15 * time.Second, 256
)

// missCheckAfter returns how long after a miss the tried-th check runs, of whether Nix has got the path elsewhere. A
// large closure takes an hour on a slow link; Nix only asked about a path that is still absent then.
func missCheckAfter(tried int) time.Duration {
	return []time.Duration{time.Minute, 10 * time.Minute, time.Hour, math.MaxInt64}[tried]
}

// missTries is how often it is looked.
const missTries = 3

// A missCheck is a path that Nix asked for and did not get.
type missCheck struct {
	at    time.Time
	tried int
}

type keptMiss struct {
	HashPart string    `json:"hashPart"`
	At       time.Time `json:"at"`
	Tried    int       `json:"tried"`
}

// misses are the paths that Nix did not get here, until it is known whether it has them from elsewhere. Their methods
// may be called concurrently.
type misses struct {
	checks *lru.Cache[store.HashPart, missCheck]
	added  chan struct{} // has an element if a path was added since Run looked last
}

func newMisses() misses {
	return misses{checks: lru.New[store.HashPart, missCheck](maxMissChecks), added: make(chan struct{}, 1)}
}

func (m misses) add(hp store.HashPart, check missCheck) {
	m.checks.Add(hp, check)
	select {
	case m.added <- struct{}{}:
	default:
	}
}

// pending returns the misses with an unknown outcome, the oldest first.
func (m misses) pending() (list []keptMiss) {
	for _, hp := range m.checks.Keys() {
		if c, ok := m.checks.Peek(hp); ok {
			list = append(list, keptMiss{string(hp), c.at, c.tried})
		}
	}
	return list
}

// due returns paths that Nix missed a while ago, to be looked for.
func (m misses) due(now time.Time) (paths []store.HashPart) {
	for _, hp := range m.checks.Keys() { // the oldest first
		if c, ok := m.checks.Peek(hp); ok && now.Sub(c.at) >= missCheckAfter(c.tried) {
			paths = append(paths, hp)
		}
		if len(paths) == missChecksAtOnce {
			break
		}
	}
	return paths
}

// looked records that a path was looked for in this machine's store. It reports whether it was found there, and was
// still missed, and when Nix missed it.
func (m misses) looked(hp store.HashPart, there bool) (at time.Time, found bool) {
	c, ok := m.checks.Peek(hp)
	if !ok {
		return at, false
	}
	if c.tried++; there || c.tried >= missTries {
		m.checks.Remove(hp)
	} else {
		m.checks.Add(hp, c)
	}
	return c.at, there
}
