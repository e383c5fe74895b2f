package p2p

import (
	"fmt"
	"time"

	"narbor/store"
)

// A trial is the state of a neighbour that fetches a NAR for this node. Its line is shared among many NARs, and one may
// get nothing for a while; so the trial measures what it receives in all, and everything that comes from it. One
// goroutine owns it.
type trial struct {
	began    time.Time
	until    time.Time // when the NAR must be here
	answered time.Time // when it answered last; zero is never
	got      int64     // what it says to have received of upstreams, of all NARs
	moved    time.Time // when that had changed
	pace     int64     // what one download brings there, in bytes per second; 0 is unknown
	heard    time.Time // when a block came
	blocks   int       // that were missing when it began
	missing  int       // now
}

func newTrial(now time.Time, missing int) *trial {
	return &trial{began: now, until: now.Add(jobTimeout), moved: now, heard: now, blocks: missing, missing: missing}
}

// answer takes in what the neighbour says.
func (t *trial) answer(now time.Time, got, pace int64) {
	if got != t.got {
		t.got, t.moved = got, now
	}
	t.answered, t.pace = now, pace
}

// hear takes in when a block came last, and how many blocks are missing.
func (t *trial) hear(at time.Time, missing int) {
	if at.After(t.heard) {
		t.heard = at
	}
	t.missing = missing
}

// over says why the neighbour is not worth waiting for, if it is not. own is what one download brings here, in bytes per
// second; 0 is unknown.
func (t *trial) over(now time.Time, own int64) error {
	silent, took := now.Sub(t.heard), now.Sub(t.began)
	came := int64(t.blocks-t.missing) * store.BlockSize
	switch {
	case now.Sub(t.answered) > helpPatience:
		return fmt.Errorf("it has not answered for %s", helpPatience)
	case silent > helpPatience && now.Sub(t.moved) > helpPatience:
		return fmt.Errorf("it has received nothing for %s", helpPatience)
	case silent > t.deafAfter():
		return fmt.Errorf("nothing has come from it for %s", silent.Round(time.Second))
	case took > 2*deafPatience && float64(came+deafBlocks*store.BlockSize) < float64(t.pace)*took.Seconds()/paceSlack:
		return fmt.Errorf("a download brings it %d bytes a second, and it has passed on %d in %s", t.pace, came, took.Round(time.Second))
	case took > helpPatience && t.pace > 0 && (own == 0 && t.pace < slowPace || t.pace < own/slowFactor):
		return fmt.Errorf("a download brings it %d bytes a second, and us %d", t.pace, own)
	}
	if left := t.until.Sub(now); took > left {
		if rest := remaining(took, t.blocks-t.missing, t.missing); rest > left {
			return fmt.Errorf("at this pace it would take %s more, and Nix waits for %s", rest.Round(time.Second), left.Round(time.Second))
		}
	}
	return nil
}

// deafAfter is for how long nothing may come: while it receives some blocks, by its own word.
func (t *trial) deafAfter() time.Duration {
	if t.pace == 0 {
		return deafPatience
	}
	blocks := time.Duration(deafBlocks * float64(store.BlockSize) / float64(t.pace) * float64(time.Second))
	return min(max(deafPatience, blocks), deafLimit)
}

// remaining is how long missing blocks take if so many took that long.
func remaining(took time.Duration, done, missing int) time.Duration {
	const ever = 1000 * time.Hour
	if done == 0 {
		return ever
	}
	return min(time.Duration(float64(took)/float64(done)*float64(missing)), ever)
}
