package meet

import (
	"net/netip"
	"sync"
)

// Arrivals tells of connections that come from addresses which were asked to connect. The zero value is ready, and its
// methods may be called concurrently.
type Arrivals struct {
	mu   sync.Mutex // guards from
	from map[netip.Addr][]chan struct{}
}

// await returns a channel that is closed when a connection comes from a. The caller calls forget at the end.
func (v *Arrivals) await(a netip.Addr) (arrived <-chan struct{}, forget func()) {
	c := make(chan struct{})
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.from == nil {
		v.from = map[netip.Addr][]chan struct{}{}
	}
	v.from[a] = append(v.from[a], c)
	return c, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		for i, other := range v.from[a] {
			if other == c {
				v.from[a] = append(v.from[a][:i:i], v.from[a][i+1:]...)
			}
		}
		if len(v.from[a]) == 0 {
			delete(v.from, a)
		}
	}
}

// Note tells those that await a connection from a.
func (v *Arrivals) Note(a netip.Addr) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.from[a] {
		close(c)
	}
	delete(v.from, a)
}
