package watch

import (
	"time"

	"narbor/cmd/narbor/control"
	"narbor/p2p"
)

// ratesOver is the time over which the rates of neighbours are taken, as narbor takes the rates of all.
const ratesOver = 5 * time.Second

// A look is the outcome of one call of Look.
type look struct {
	at       time.Time
	status   control.Status
	err      error
	panicked any
}

type known struct {
	at     time.Time // when status was received; zero if it never was
	status control.Status
	err    error // of the latest look
	// earlier are the totals of neighbours, the oldest first: those of the last ratesOver, or of the last two looks.
	earlier []totals
}

// totals are the bytes of each neighbour at a moment, by ID.
type totals struct {
	at time.Time
	of map[string]passed
}

type passed struct{ in, out int64 }

// add takes a look. A failed one leaves the status as it is.
func (k *known) add(l look) {
	k.err = l.err
	if l.err != nil {
		return
	}
	k.at, k.status = l.at, l.status
	t := totals{at: l.at, of: make(map[string]passed, len(l.status.Neighbours))}
	for _, n := range l.status.Neighbours {
		t.of[n.ID] = passed{n.BytesReceived, n.BytesSent}
	}
	for len(k.earlier) > 1 && l.at.Sub(k.earlier[0].at) > ratesOver {
		k.earlier = k.earlier[1:]
	}
	k.earlier = append(k.earlier, t)
}

// rate returns the bytes that passed in a second, to and from a neighbour: 0 if it was seen once only, and less if its
// counts began anew.
func (k *known) rate(n p2p.NeighbourStatus) (r passed) {
	for _, t := range k.earlier {
		before, ok := t.of[n.ID]
		seconds := k.at.Sub(t.at).Seconds()
		if !ok || seconds <= 0 {
			continue
		}
		return passed{int64(float64(n.BytesReceived-before.in) / seconds), int64(float64(n.BytesSent-before.out) / seconds)}
	}
	return passed{}
}
