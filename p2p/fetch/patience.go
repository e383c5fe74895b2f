package fetch

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/store"
)

// How long a fetch waits for its holders depends on the bytes of the last [judgedAfter]. If the rest would take long at
// that pace, the fetch ends when it cannot be here before Nix gives up, or when its holders send far less than they
// have shown that they can. The bytes of a holder's other NARs count too, for they share its link and its disk.

// A sample is how far a fetch was at a moment.
type sample struct {
	at   time.Time
	left int                        // blocks that are missing
	came map[*peers.Neighbour]int64 // bytes that had come from each holder, of all NARs
}

// A progress is the samples of the last [judgedAfter]. It is owned by get.
type progress struct{ samples []sample }

// sample adds a sample, once a second.
func (p *progress) sample(now time.Time, of *plan) {
	if last := len(p.samples) - 1; last >= 0 && now.Sub(p.samples[last].at) < time.Second {
		return
	}
	of.mu.Lock()
	p.samples = append(p.samples, sample{at: now, left: of.picker.left, came: of.sources.received()})
	of.mu.Unlock()
	for len(p.samples) > 2 && now.Sub(p.samples[1].at) >= judgedAfter {
		p.samples = p.samples[1:]
	}
}

// remaining is how long the missing blocks take at the rate of the samples, and over what time that was measured.
func (p *progress) remaining() (rest, over time.Duration) {
	if len(p.samples) == 0 {
		return 0, 0
	}
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	over = last.at.Sub(first.at)
	return remaining(over, first.left-last.left, last.left), over
}

// rate is what came in a second, of all NARs of these holders or at least of this one, and the least that must come.
func (p *progress) rate() (pace, least int64) {
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	var came int64
	for nb, now := range last.came {
		came += now - first.came[nb]
		least = max(least, nb.LeastPace())
	}
	came = max(came, int64(first.left-last.left)*store.BlockSize)
	return int64(float64(came) / last.at.Sub(first.at).Seconds()), max(least, peers.LeastPace)
}

// record tells each holder the bytes a second that have come from it, of all NARs.
func (p *progress) record() {
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	for nb, now := range last.came {
		nb.Rated(int64(float64(now-first.came[nb])/last.at.Sub(first.at).Seconds()), last.at)
	}
}

// account evaluates a fetch that has ended: which holders are not relied on for this NAR, or at all, for a while. It
// does not blame holders that were not asked, nor a slow one beside others that were fast enough: that one may have
// been spared.
func (d *download) account(began time.Time, err error) {
	if errors.Is(err, context.Canceled) || err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	now := time.Now()
	d.plan.mu.Lock()
	defer d.plan.mu.Unlock()
	allSlow := d.plan.sources.areSlow(now)
	for nb, from := range d.plan.sources.asked {
		var until time.Time
		slow := allSlow && from.rate(nb, now) < float64(nb.LeastPace())
		switch {
		case nb.Gone():
			continue
		case d.plan.sources.tooSlow[nb], errors.Is(err, context.DeadlineExceeded) && slow:
			d.Conduct.Avoid(nb, d.Wanted, peers.SlowFor, "it delivers it far too slowly")
			until = nb.Tally.WasSlow(now)
		case err != nil:
			d.Conduct.Avoid(nb, d.Wanted, failedFor, "it claims to have it, and did not deliver it")
		case slow && now.Sub(from.at) > tardyAfter && !d.plan.sources.excluded[nb.ID]:
			until = nb.Tally.WasTardy(began, now)
		case !d.plan.sources.excluded[nb.ID]:
			nb.Tally.Kept()
		}
		if !until.IsZero() {
			_, reason := nb.Tally.Aside(now)
			d.Log.Info("neighbour is set aside", zap.Stringer("peer", nb.ID), zap.Time("until", until),
				zap.String("reason", reason))
		}
	}
}
