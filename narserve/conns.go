package narserve

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// maxConns bounds what other users of this machine can make us hold: a connection costs up to 40 KiB and a file
// descriptor. Nix opens 25 for each build.
const maxConns = 2048

// conns are the connections that are open. The zero value is ready.
type conns struct {
	mu      sync.Mutex                 // guards the rest
	open    map[net.Conn]*list.Element // where it is in waiting; nil while it is being answered
	waiting list.List                  // of net.Conn: those that have yet to ask, the longest-waiting first
}

// changed records the state of c. If there are too many connections it closes the one that has been idle longest: no
// new connection is refused, and requests that are being answered go on.
func (cs *conns) changed(c net.Conn, state http.ConnState) {
	if extra := cs.note(c, state); extra != nil {
		_ = extra.Close() // it is forgotten already
	}
}

// note returns the connection to close, if there is one.
func (cs *conns) note(c net.Conn, state http.ConnState) (extra net.Conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.open == nil {
		cs.open = map[net.Conn]*list.Element{}
	}
	place, known := cs.open[c]
	if place != nil {
		cs.waiting.Remove(place)
	}
	switch {
	case state == http.StateNew, state == http.StateIdle:
		cs.open[c] = cs.waiting.PushBack(c)
	case known && state == http.StateActive:
		cs.open[c] = nil
	default:
		delete(cs.open, c)
	}
	if len(cs.open) <= maxConns {
		return nil
	}
	extra = cs.waiting.Remove(cs.waiting.Front()).(net.Conn) // c itself if all others are being answered
	delete(cs.open, extra)
	return extra
}
