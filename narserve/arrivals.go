package narserve

import (
	"sync"
	"time"

	"narbor/store/spool"
)

// followTime is the time for which an arrival is kept for the request that follows the redirect. That request comes at
// once.
const followTime = 10 * time.Second

// An arrival is the result of a redirected request: a NAR, or the error.
type arrival struct {
	asked   time.Time // when Nix asked for it first
	spooled *spool.NAR
	err     error
}

// arrivals keeps the results of redirected requests until Nix follows the redirect. The zero value is ready.
type arrivals struct {
	mu      sync.Mutex // guards the rest
	of      map[fetchKey]*follow
	waiting int // redirects that have not ended
}

// wait counts a redirect, until the caller calls ended.
func (l *arrivals) wait() (ended func()) {
	count := func(n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiting += n
	}
	count(1)
	return func() { count(-1) }
}

// pending reports whether there are redirects that have not ended, or that were not followed yet.
func (l *arrivals) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting > 0 || len(l.of) > 0
}

// A follow is an arrival, with the number of redirects that lead to it.
type follow struct {
	arrival
	redirects int
	expiry    *time.Timer
}

// add keeps an arrival for the request that follows a redirect.
func (l *arrivals) add(key fetchKey, a arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.of[key]
	if f == nil {
		f = &follow{arrival: a}
		f.expiry = time.AfterFunc(followTime, func() { l.expire(key, f) })
		if l.of == nil {
			l.of = map[fetchKey]*follow{}
		}
		l.of[key] = f
	} else if f.err != nil {
		f.arrival = a
	} else if a.err == nil {
		_ = a.spooled.Close() // both handles are of the same NAR
	}
	f.expiry.Reset(followTime)
	f.redirects++
}

// take returns an arrival to the request that follows a redirect. A NAR is the caller's to close.
func (l *arrivals) take(key fetchKey) (a arrival, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.of[key]
	if f == nil {
		return arrival{}, false
	}
	a = f.arrival
	if f.redirects--; f.redirects == 0 {
		f.expiry.Stop()
		delete(l.of, key)
	} else if a.err == nil {
		a.spooled = a.spooled.Retain()
	}
	return a, true
}

// expire drops an arrival that was not taken.
func (l *arrivals) expire(key fetchKey, f *follow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[key] != f {
		return
	}
	delete(l.of, key)
	if f.err == nil {
		_ = f.spooled.Close() // it stays in the spool
	}
}
