package peers

import (
	"slices"
	"time"
)

// asideWrong and asideSlow are the reasons for which a peer is set aside.
const (
	asideWrong = "sent wrong NARs of several paths: its store is damaged, or it lies"
	asideSlow  = "did not deliver what it claims to have, or far too slowly"
)

// A setback is until when a peer is set aside, and why. It is a neighbour all the same: it is answered, and what it
// claims counts beside what others do. Alone it is no reason to tell Nix that a path can be had.
type setback struct {
	wrongs []time.Time // when wrong NARs came, of the last hour
	slow   uint        // how often it was too slow, less one for each NAR that came as it should
	tardy  time.Time   // when a NAR came that took far too long
	until  time.Time
	reason string
}

// sentWrong counts a wrong NAR of a path. Of the last hour, maxWrong set the peer aside for asideTime, and each further
// one for four times as long, up to maxAside. It returns until when, or zero.
func (s *setback) sentWrong(now time.Time) time.Time {
	s.wrongs = append(s.recent(now), now)
	if len(s.wrongs) > 2*maxWrong {
		s.wrongs = s.wrongs[1:]
	}
	if len(s.wrongs) < maxWrong {
		return time.Time{}
	}
	return s.putAside(now, asideTime<<(2*uint(len(s.wrongs)-maxWrong)), asideWrong)
}

// recent forgets the wrong NARs that came over an hour ago, and returns the others.
func (s *setback) recent(now time.Time) []time.Time {
	s.wrongs = slices.DeleteFunc(s.wrongs, func(at time.Time) bool { return now.Sub(at) >= wrongFor })
	return s.wrongs
}

func (s *setback) wasSlow(now time.Time) time.Time {
	if now.Before(s.until) {
		return time.Time{}
	}
	s.slow = min(s.slow+1, 8)
	return s.putAside(now, BackoffTime<<(2*(s.slow-1)), asideSlow)
}

func (s *setback) wasTardy(began, now time.Time) time.Time {
	switch since := now.Sub(s.tardy); {
	case s.tardy.IsZero() || since >= SlowFor:
		s.tardy = now
	case began.After(s.tardy):
		s.tardy = time.Time{}
		return s.wasSlow(now)
	}
	return time.Time{}
}

func (s *setback) putAside(now time.Time, d time.Duration, reason string) time.Time {
	if until := now.Add(min(d, maxAside)); until.After(s.until) {
		s.until, s.reason = until, reason
	} else if reason == asideWrong {
		s.reason = reason // the stricter one
	}
	return s.until
}

func (s *setback) kept() { s.slow = max(s.slow, 1) - 1 }

func (s *setback) aside(now time.Time) (until time.Time, reason string) {
	if !now.Before(s.until) {
		return time.Time{}, ""
	}
	return s.until, s.reason
}
