package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"narbor/p2p/netmon"
)

// A circle holds a keeper's state about machines beyond its neighbours. Each pair of machines has a score, which both
// compute from their two IDs, and each machine keeps connections to the [maxKept] machines with which its score is
// highest. So two machines mostly agree on whether to stay connected, without negotiation, and all machines have about
// the same number of neighbours. The rest are strangers: known, and not connected to. When no neighbour has a path,
// strangers are visited one after the other, and asked for all paths missed lately. A stranger that has one of them
// stays a neighbour, because the rest of the closure is likely to be there, too. Owned by its keeper; the keeper's mutex
// guards it.
type circle struct {
	kept      int       // how many to keep
	missed    time.Time // when a path was missed last
	visiting  int       // dials of visits under way
	visits    *rate.Limiter
	hosts     []peer.ID    // the strangers that stay because they had something, the oldest first
	strangers atomic.Int64 // how many there were lately; read without the mutex
}

func newCircle(n *Net) circle {
	kept := maxKept
	if n != nil && n.Kept > 0 {
		kept = n.Kept
	}
	return circle{kept: kept, visits: rate.NewLimiter(visitRate, visitBurst)}
}

// closeness is the score of two machines, the same seen from both.
func closeness(a, b peer.ID) uint64 {
	x, y := []byte(a), []byte(b)
	if bytes.Compare(x, y) > 0 {
		x, y = y, x
	}
	sum := sha256.Sum256(slices.Concat(x, y))
	return binary.BigEndian.Uint64(sum[:])
}

// least returns the score from which on machines are kept. A machine that could not be reached when it was dialled last
// takes no place. The caller holds mu.
func (k *Dialer) least() uint64 {
	scores := make([]uint64, 0, len(k.peers))
	for _, c := range k.peers {
		if c.failures == 0 || c.dialing {
			scores = append(scores, c.score)
		}
	}
	if len(scores) <= k.circle.kept {
		return 0
	}
	slices.Sort(scores)
	return scores[len(scores)-k.circle.kept]
}

// A Standing is the relation of a machine to this one.
type Standing struct {
	Kept     bool // it is one of the machines that stay connected
	Stranger bool // it is known, and is none of them; an unknown machine is no stranger
	Visit    bool // it was dialled to be asked for what was missed
}

// Standing returns the standing of a machine.
func (k *Dialer) Standing(id peer.ID) Standing {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.peers[id]
	if c == nil {
		return Standing{}
	}
	near := c.score >= k.least()
	return Standing{Kept: c.host || !c.visit && near, Stranger: !c.host && !near, Visit: c.visit}
}

// wants says whether a stranger is to be asked: something has been missed since it was asked, and that is long enough
// ago. The caller holds mu.
func (k *Dialer) wants(c *candidate, now time.Time) bool {
	return k.circle.missed.After(c.visited) && now.Sub(k.circle.missed) < WantedFor && now.Sub(c.visited) >= revisit && !now.Before(c.due)
}

// visit says whether a stranger is dialled now, and if it is not, how long until the next look. The caller holds mu.
func (k *Dialer) visit(c *candidate, now time.Time) (bool, time.Duration) {
	switch {
	case !k.wants(c, now), k.circle.visiting >= maxVisits: // the end of a visit wakes us
		return false, redialMax
	case !k.circle.visits.AllowN(now, 1):
		return false, time.Second / visitRate
	}
	k.circle.visiting++
	c.visit, c.calling, c.dialing, c.visited = true, true, true, now
	return true, redialMax
}

// miss records that no neighbour has a path. It returns whether there are strangers to ask.
func (k *Dialer) Miss(now time.Time) bool {
	if k.circle.strangers.Load() == 0 {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	idle := now.Sub(k.circle.missed) >= time.Second // or there will be a step soon enough
	k.circle.missed = now
	if idle {
		netmon.Hint(k.wake)
	}
	return true
}

// part ends a visit. A machine that was of use stays; if too many stay for that, the oldest has to make room. It
// returns the machines that are not to be kept any longer.
func (k *Dialer) part(id peer.ID, useful bool) (leaves []peer.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.peers[id]
	if c == nil || !c.visit {
		return nil
	}
	if !useful {
		return []peer.ID{id} // lose ends the visit
	}
	c.visit, c.host = false, true
	k.circle.hosts = append(k.circle.hosts, id)
	if len(k.circle.hosts) > maxHosts {
		oldest := k.circle.hosts[0]
		k.circle.hosts = k.circle.hosts[1:]
		if o := k.peers[oldest]; o != nil {
			o.host = false
			if o.score < k.least() {
				o.visit = true // its end must not count as a failure
				return []peer.ID{oldest}
			}
		}
	}
	return nil
}

// endVisit ends a visit, after which the machine stays connected if it was useful.
func (k *Dialer) EndVisit(id peer.ID, useful bool) { k.LAN.part(k.part(id, useful)) }
