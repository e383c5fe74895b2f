package fetch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/store"
)

// How long a fetch waits for its holders depends on what comes. The last [judgedAfter] count: if the rest would take long at
// that pace, the fetch ends when it cannot be here before Nix gives up, or when its holders send far less than they have
// shown that they can. All that comes from a holder counts, of whatever NARs, for they share its link and its disk.

// ErrSlow says that a NAR comes too slowly.
var ErrSlow = errors.New("too slow")

// A sample is how far a fetch was at a moment.
type sample struct {
	at   time.Time
	left int                        // blocks that are missing
	came map[*peers.Neighbour]int64 // bytes that had come from each holder, of all NARs
}

// A progress is the samples of the last [judgedAfter]. It is owned by get.
type progress struct{ samples []sample }

// sample adds a sample, once a second.
func (p *progress) sample(now time.Time, f *Session) {
	if last := len(p.samples) - 1; last >= 0 && now.Sub(p.samples[last].at) < time.Second {
		return
	}
	f.mu.Lock()
	p.samples = append(p.samples, sample{at: now, left: f.picker.left, came: f.sources.received()})
	f.mu.Unlock()
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

// impatient fails if the NAR comes so slowly that it is not worth waiting for.
func (s *round) impatient(ctx context.Context) error {
	now := time.Now()
	s.progress.sample(now, s.Session)
	rest, over := s.progress.remaining()
	if over < judgedAfter || rest <= crawlTime || s.supply.size > 0 {
		return nil
	}
	if until, ok := ctx.Deadline(); ok && rest/2 > until.Sub(now) { // its holders may have less to do soon
		err := fmt.Errorf("%w: %w: at this pace it takes %s more, and Nix waits for %s", store.ErrNotFound, ErrSlow,
			rest.Round(time.Second), until.Sub(now).Round(time.Second))
		if pace, least := s.progress.rate(); pace >= least {
			return err
		}
		s.markSlow()
		return err
	}
	pace, least := s.progress.rate()
	if pace >= least || len(s.Upstreams) > 0 { // an upstream is asked instead, unless it is slower still
		return nil
	}
	s.markSlow()
	return fmt.Errorf("%w: %w: its holders send %d bytes a second, want %d", store.ErrNotFound, ErrSlow, pace, least)
}

// markSlow records that the holders at work are too slow.
func (f *Session) markSlow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources.markSlow()
}

// stalledOut reports whether an error is that a holder made no progress.
func stalledOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// account evaluates a fetch that has ended: which holders are not relied on for this NAR, or at all, for a while. It does
// not blame holders that were not asked, nor a slow one beside others that were fast enough: that one may have been spared.
func (f *Session) account(began time.Time, err error) {
	if errors.Is(err, context.Canceled) || err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	allSlow := f.sources.areSlow(now)
	for nb, from := range f.sources.asked {
		var until time.Time
		slow := allSlow && from.rate(nb, now) < float64(nb.LeastPace())
		switch {
		case nb.Gone():
			continue
		case f.sources.tooSlow[nb], errors.Is(err, context.DeadlineExceeded) && slow:
			f.Conduct.Avoid(nb, f.Wanted, peers.SlowFor, "it delivers it far too slowly")
			until = nb.Tally.WasSlow(now)
		case err != nil:
			f.Conduct.Avoid(nb, f.Wanted, failedFor, "it claims to have it, and did not deliver it")
		case slow && now.Sub(from.at) > tardyAfter && !f.sources.excluded[nb.ID]:
			until = nb.Tally.WasTardy(began, now)
		case !f.sources.excluded[nb.ID]:
			nb.Tally.Kept()
		}
		if !until.IsZero() {
			f.Log.Info("neighbour is set aside", zap.Stringer("peer", nb.ID), zap.Time("until", until),
				zap.String("reason", peers.AsideSlow))
		}
	}
}
