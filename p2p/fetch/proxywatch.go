package fetch

import (
	"fmt"
	"time"

	"narbor/store"
)

// A proxyWatch is the state of a neighbour that fetches a NAR for this node. Its line is shared among many NARs, and
// one of them may get nothing for a while; so all bytes that it receives are measured, and all that come from it. One
// goroutine owns it.
type proxyWatch struct {
	began      time.Time
	until      time.Time // when the NAR must be here
	answered   time.Time // when it answered last; zero is never
	downloaded int64     // what it says to have received of upstreams, of all NARs
	moved      time.Time // when that had changed
	rate       int64     // what one download brings there, in bytes per second; 0 is unknown
	last       time.Time // when a block came
	blocks     int       // that were missing when it began
	missing    int       // now
}

func newProxyWatch(now time.Time, missing int) *proxyWatch {
	return &proxyWatch{began: now, until: now.Add(store.FetchTime(int64(missing) * store.BlockSize)), moved: now, last: now,
		blocks: missing, missing: missing}
}

func (t *proxyWatch) answer(now time.Time, got, pace int64) {
	if got != t.downloaded {
		t.downloaded, t.moved = got, now
	}
	t.answered, t.rate = now, pace
}

// received records when a block came last, and how many blocks are missing.
func (t *proxyWatch) received(at time.Time, missing int) {
	if at.After(t.last) {
		t.last = at
	}
	t.missing = missing
}

// problem returns why the neighbour is not worth waiting for, or nil. own is what one download brings here, in bytes
// per second; 0 is unknown.
func (t *proxyWatch) problem(now time.Time, own int64) error {
	silent, took := now.Sub(t.last), now.Sub(t.began)
	came := int64(t.blocks-t.missing) * store.BlockSize
	switch {
	case now.Sub(t.answered) > ProxyPatience:
		return fmt.Errorf("it has not answered for %s", ProxyPatience)
	case silent > ProxyPatience && now.Sub(t.moved) > ProxyPatience:
		return fmt.Errorf("it has received nothing for %s", ProxyPatience)
	case silent > t.silentAfter():
		return fmt.Errorf("nothing has come from it for %s", silent.Round(time.Second))
	case took > 2*silentPatience && float64(came+silentBlocks*store.BlockSize) < float64(t.rate)*took.Seconds()/rateSlack:
		return fmt.Errorf("a download brings it %d bytes a second, and it has passed on %d in %s", t.rate, came, took.Round(time.Second))
	case took > ProxyPatience && t.rate > 0 && (own == 0 && t.rate < slowRate || t.rate < own/slowFactor):
		return fmt.Errorf("a download brings it %d bytes a second, and us %d", t.rate, own)
	}
	if left := t.until.Sub(now); took > left {
		if rest := remaining(took, t.blocks-t.missing, t.missing); rest > left {
			return fmt.Errorf("at this pace it would take %s more, and may take %s", rest.Round(time.Second), left.Round(time.Second))
		}
	}
	return nil
}

// silentAfter is for how long nothing may come: while it receives some blocks, by its own word.
func (t *proxyWatch) silentAfter() time.Duration {
	if t.rate == 0 {
		return silentPatience
	}
	blocks := time.Duration(silentBlocks * float64(store.BlockSize) / float64(t.rate) * float64(time.Second))
	return min(max(silentPatience, blocks), silentLimit)
}

// remaining is how long missing blocks take if so many took that long.
func remaining(took time.Duration, done, missing int) time.Duration {
	const ever = 1000 * time.Hour
	if done == 0 {
		return ever
	}
	return min(time.Duration(float64(took)/float64(done)*float64(missing)), ever)
}
