package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
)

const (
	// restMax is the longest interval between two steps.
	restMax = time.Minute
	// steady is the age of a connection at which the count of failed dials is reset.
	steady = 10 * time.Second
	// yield is how long, at most, one of two machines that see each other waits for the other to dial first. Without
	// it, most pairs would end up with two connections.
	yield = 250 * time.Millisecond

	// firstRound is how long the first answers to a multicast question may take; after it no unknown machine is
	// expected. lateAnswer is the time without new machines that is required as well.
	firstRound = time.Second
	lateAnswer = 300 * time.Millisecond
)

// An announcement has the addresses of a machine, from the machine itself or from another one (hearsay).
type announcement struct {
	id     peer.ID
	addrs  []ma.Multiaddr
	expiry time.Time
	via    string // how it was found
}

// hearsay reports whether the announcement comes from another machine, or from the machine itself long ago. It fills
// gaps, and displaces nothing.
func (a announcement) hearsay() bool { return a.via == ViaExchange || a.via == viaRemembered }

// A candidate is a machine that might be there.
type candidate struct {
	announcement
	due      time.Time // when to dial it, unless it is connected by then
	failures int       // in a row
	dialing  bool
	tried    bool      // at least once
	since    time.Time // when the last dial succeeded

	weight   uint64    // see [candidates]
	visited  time.Time // when it was dialled for a visit
	visit    bool      // that is under way
	calling  bool      // its dial, too; the visit may be over before that is noted
	retained bool      // it stays, because it had something
}

// How a machine was found.
const (
	viaNamed      = "named"
	viaKernel     = "kernel" // named on the kernel's command line
	viaDNS        = "dns-sd" // an SRV record of a search domain
	viaMDNS       = "mdns"
	viaGateway    = "gateway"
	viaRemembered = "remembered" // from when this machine was in the same network before
	ViaExchange   = "exchange"   // a neighbour told
	viaVsock      = "vsock"      // it is this machine's host
	viaInbound    = "inbound"
)

// fill adds addresses from hearsay to a machine that is known already.
func (c *candidate) fill(a announcement) {
	if a.expiry.After(c.expiry) {
		c.expiry = a.expiry
	}
	for _, m := range a.addrs {
		if !ma.Contains(c.addrs, m) && len(c.addrs) < netmon.MaxAddrs {
			c.addrs = append(c.addrs, m)
		}
	}
}

// A firstLook is the state from which it is decided whether discovery has settled.
type firstLook struct {
	start   time.Time // when looking began
	linked  time.Time // when the first link came up; zero: there is none
	newest  time.Time // when the last machine was found
	untried int       // named peers that have not been tried, and 1 until the remembered peers of this network are known
	looked  bool      // whether the links have been looked at
	mdns    bool
	done    bool
}

// over reports whether no further machine is expected soon; busy means that a known machine is yet to be tried.
func (f firstLook) over(now time.Time, busy bool) bool {
	if now.Sub(f.start) >= settleLimit {
		return true
	}
	if busy || f.untried > 0 || !f.looked {
		return false
	}
	if !f.mdns || f.linked.IsZero() {
		return true
	}
	return now.Sub(f.linked) >= firstRound && now.Sub(f.newest) >= lateAnswer
}

// pairWeight is the weight of two machines, the same seen from both.
func pairWeight(a, b peer.ID) uint64 {
	x, y := []byte(a), []byte(b)
	if bytes.Compare(x, y) > 0 {
		x, y = y, x
	}
	sum := sha256.Sum256(slices.Concat(x, y))
	return binary.BigEndian.Uint64(sum[:])
}

// backoff returns the pause after a number of failures: it doubles, with half of it up to chance, so that machines
// that lost each other at the same moment do not come back at the same moment.
func backoff(failures int, first time.Duration) time.Duration {
	d := min(first<<min(failures, 10), redialMax)
	return d/2 + rand.N(d/2+1)
}
