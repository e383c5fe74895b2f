package p2p

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// A NAR that does not have its hash is no proof of a lie: a store that a power cut has damaged sends such NARs, and its
// manifests agree with them, or were made before. So a wrong NAR costs no strike. Its sender is told, and that path is not
// taken from it for [wrongFor]; a peer with wrong NARs of several paths is set aside, see [tally.sentWrong].

// A pair is a peer and a NAR that it claims to have.
type pair struct {
	id  peer.ID
	hp  store.HashPart
	nar store.Hash
}

// avoided is which NARs are not taken from which peers, and why.
type avoided struct {
	pairs *lru.Cache[pair, avoidance]
}

func pairOf(nb *neighbour, m trust.Mapping) pair {
	return pair{nb.id, m.Path().HashPart(), m.NarHash()}
}

type avoidance struct {
	until  time.Time
	reason string
}

func newAvoided() avoided {
	pairs := newMemory[pair, avoidance](maxAvoided)
	return avoided{pairs}
}

// add avoids a pair, and says whether it was not avoided before.
func (a avoided) add(p pair, d time.Duration, reason string) (first bool) {
	now := time.Now()
	old, known := a.pairs.Peek(p)
	if until := now.Add(d); !known || until.After(old.until) {
		a.pairs.Add(p, avoidance{until, reason})
	}
	return !known || now.After(old.until)
}

// why returns why a pair is avoided; "" if it is not.
func (a avoided) why(p pair) string {
	if v, ok := a.pairs.Peek(p); ok && time.Now().Before(v.until) {
		return v.reason
	}
	return ""
}

// sentWrong records that a peer has sent a wrong NAR: the first time for each path in [wrongFor] it counts, and the peer
// is told.
func (n *Node) sentWrong(id peer.ID, m trust.Mapping, cause error) {
	if !n.ledger.sentWrong(id, m, cause) {
		return
	}
	n.mu.Lock()
	nb := n.peers[id]
	n.mu.Unlock()
	if nb == nil || !n.begin() {
		return
	}
	go func() {
		defer n.running.Done()
		if err := nb.tellWrong(n.life, m); err != nil {
			n.log.Debug("neighbour was not told of a wrong NAR", zap.Stringer("peer", id), zap.Stringer("path", m.Path()), zap.Error(err))
		}
	}()
}

// tellWrong tells a neighbour that the NAR which it has sent does not have its hash.
func (n *neighbour) tellWrong(ctx context.Context, m trust.Mapping) error {
	ex, err := n.open(ctx, askTimeout)
	if err != nil {
		return err
	}
	defer ex.Reset()
	defer context.AfterFunc(ctx, func() { ex.Reset() })()
	if err := ex.send(wire.Request{Kind: wire.AskWrong, HashParts: []store.HashPart{m.Path().HashPart()}, NAR: m.NarHash()}); err != nil {
		return err
	}
	_, err = ex.br.ReadByte()
	return err
}

// answerWrong handles a report that a NAR of this machine is wrong. A shared NAR is checked, as long as the peer and
// all peers at its address do not report too often. The answer carries no information.
func (n *Node) answerWrong(ctx context.Context, t *tally, bw *bufio.Writer, r wire.Request) error {
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	if n.mayTellWrong(t) {
		if m, src, err := n.sharer.claim(ctx, r.HashParts[0]); err == nil && m.NarHash() == r.NAR {
			t.probing.found()
			n.log.Info("neighbour says that a NAR of this machine is wrong, so it is checked", zap.Stringer("peer", t.id),
				zap.Stringer("path", m.Path()))
			store.Suspect(src, m.Info())
		}
	}
	return bw.WriteByte(0)
}

// mayTellWrong says whether a peer may make this machine check a path once more.
func (n *Node) mayTellWrong(t *tally) bool {
	if !t.probing.wrongTellings.Allow() {
		return false
	}
	there := t.probing.machine.Load()
	return there == nil || there.wrongTellings.Allow()
}

// suspect has a path checked that could not be read as it should be.
func (s *sharer) suspect(ctx context.Context, hp store.HashPart, cause error) {
	if !errors.Is(cause, store.ErrCorrupt) && !errors.Is(cause, fs.ErrNotExist) {
		return
	}
	if m, src, err := s.claim(ctx, hp); err == nil { // it is valid all the same
		store.Suspect(src, m.Info())
	}
}

// asideWrong and asideSlow are the reasons for which a peer is set aside.
const (
	asideWrong = "sent wrong NARs of several paths: its store is damaged, or it lies"
	asideSlow  = "did not deliver what it claims to have, or far too slowly"
)

// A setback is until when a peer is set aside, and why. It is a neighbour all the same: it is answered, and what it claims
// counts beside what others do. Alone it is no reason to tell Nix that a path can be had.
type setback struct {
	wrongs []time.Time // when wrong NARs came, of the last hour
	slow   uint        // how often it was too slow, less one for each NAR that came as it should
	tardy  time.Time   // when a NAR came that took far too long
	until  time.Time
	reason string
}

// sentWrong counts a wrong NAR of a path. Of the last hour, maxWrong set the peer aside for asideTime, and each further one
// for four times as long, up to maxAside. It returns until when, or zero.
func (t *tally) sentWrong(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	recent := t.wrongs[:0]
	for _, at := range t.wrongs {
		if now.Sub(at) < wrongFor {
			recent = append(recent, at)
		}
	}
	t.wrongs = append(recent, now)
	if len(t.wrongs) > 2*maxWrong {
		t.wrongs = t.wrongs[1:]
	}
	if len(t.wrongs) < maxWrong {
		return time.Time{}
	}
	return t.putAside(now, asideTime<<(2*uint(len(t.wrongs)-maxWrong)), asideWrong)
}

// wasSlow sets the peer aside for shunTime, and each further time in a row for four times as long, up to maxAside. Fetches
// that fail together count once. It returns until when, or zero.
func (t *tally) wasSlow(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.until) {
		return time.Time{}
	}
	t.slow = min(t.slow+1, 8)
	return t.putAside(now, shunTime<<(2*(t.slow-1)), asideSlow)
}

// putAside sets the peer aside. The caller holds mu.
func (t *tally) putAside(now time.Time, d time.Duration, reason string) time.Time {
	if until := now.Add(min(d, maxAside)); until.After(t.until) {
		t.until, t.reason = until, reason
	} else if reason == asideWrong {
		t.reason = reason // the stricter one
	}
	return t.until
}

// kept records that the peer has delivered as it should.
func (t *tally) kept() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slow = max(t.slow, 1) - 1
}

// aside returns until when the peer is set aside, and why; or zero.
func (t *tally) aside(now time.Time) (until time.Time, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !now.Before(t.until) {
		return time.Time{}, ""
	}
	return t.until, t.reason
}

// countWrong returns how many wrong NARs came from the peer in the last hour.
func (t *tally) countWrong(now time.Time) (count int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, at := range t.wrongs {
		if now.Sub(at) < wrongFor {
			count++
		}
	}
	return count
}

// sentWrong records that a peer has sent a wrong NAR, and reports whether that is news: it is once for each path in
// [wrongFor].
func (l *ledger) sentWrong(id peer.ID, m trust.Mapping, cause error) (news bool) {
	now, reason := time.Now(), bounded(cause.Error())
	l.mu.Lock()
	l.counts.refused[refusedHash]++
	news = l.avoided.add(pair{id, m.Path().HashPart(), m.NarHash()}, wrongFor, "it has sent a wrong NAR of it")
	t := l.tally(id)
	l.mu.Unlock()
	if !news {
		return false
	}
	l.log.Warn("neighbour sent a wrong NAR", zap.Stringer("peer", id), zap.Stringer("path", m.Path()), zap.String("reason", reason))
	if until := t.sentWrong(now); !until.IsZero() {
		l.log.Warn("neighbour is set aside", zap.Stringer("peer", id), zap.Time("until", until), zap.String("reason", asideWrong))
	}
	return true
}

// avoid has a NAR not taken from a peer for a while.
func (l *ledger) avoid(p pair, d time.Duration, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.avoided.add(p, d, reason)
}

// avoids returns why a NAR is not taken from a peer; "" if it is.
func (l *ledger) avoids(p pair) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.avoided.why(p)
}

// takesFrom reports whether blocks of a NAR are taken from a peer. They are not if the peer is avoided for it, or
// is set aside for wrong NARs; from one that was too slow they are.
func (l *ledger) takesFrom(t *tally, p pair) bool {
	_, why := t.aside(time.Now())
	return why != asideWrong && l.avoids(p) == ""
}

// unreliable returns why a peer's claim of a NAR is not enough to tell Nix that it can be had; "" if it is.
func (l *ledger) unreliable(t *tally, hp store.HashPart, nar store.Hash) string {
	if why := l.avoids(pair{t.id, hp, nar}); why != "" {
		return why
	}
	if until, why := t.aside(time.Now()); why != "" {
		return fmt.Sprintf("alone it is not relied on until %s: it %s", until.Local().Format("15:04"), why)
	}
	return ""
}

// wasTardy records a NAR that came in the end, and far too slowly. A disk may have had to start, so it takes a second one,
// begun after the first had come, to set the peer aside. It returns until when, or zero.
func (t *tally) wasTardy(began, now time.Time) time.Time {
	t.mu.Lock()
	first := t.tardy
	again := !first.IsZero() && began.After(first) && now.Sub(first) < slowFor
	if again {
		t.tardy = time.Time{}
	} else if first.IsZero() || now.Sub(first) >= slowFor {
		t.tardy = now
	}
	t.mu.Unlock()
	if !again {
		return time.Time{}
	}
	return t.wasSlow(now)
}
