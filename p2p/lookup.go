package p2p

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// crowdSize is the number of bytes from which on peers are asked once more, before a NAR is fetched, whether they
// are receiving it, too: the cost of a round trip against that of fetching from a holder what another peer is
// Deps at that moment.
const crowdSize = store.BlockSize / 8

// errUnreliable says that a claim is believed, and that its neighbour is not relied on for that NAR.
var errUnreliable = errors.New("not relied on")

// A finding records the neighbours' answers about a hash part: the claim that was believed, and the other peers that
// made it.
type finding struct {
	mapping trust.Mapping

	mu      sync.Mutex       // guards the rest
	holders map[peer.ID]bool // the peers that claim it; true: still receiving the NAR
	found   time.Time        // when all neighbours were asked
}

// isWhole reports whether the peer has claimed to have the whole NAR.
func (f *finding) isWhole(id peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	receiving, ok := f.holders[id]
	return ok && !receiving
}

func (f *finding) asked() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.found
}

func (f *finding) askedNow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found = time.Now()
}

func (f *finding) add(id peer.ID, receiving bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holders == nil {
		f.holders = map[peer.ID]bool{}
	}
	f.holders[id] = receiving
}

// Lookup asks all neighbours about a hash part, and returns the first claim that can be believed. The error wraps
// [store.ErrNotFound] if there is none within 250 ms, or a second if neighbours are busy, or within ctx. About what was
// built here, and what only private keys have signed as far as this machine knows, no neighbour is asked.
func (n *Node) Lookup(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
	if err := n.secret(ctx, hp); err != nil {
		return trust.Mapping{}, err
	}
	f, err := n.lookup(ctx, hp, nil)
	if err != nil {
		n.missed(hp)
		return trust.Mapping{}, err
	}
	return f.mapping, nil
}

// Patience implements [narserve.Patient].
func (n *Node) Patience() time.Duration { return secretTimeout + busyTimeout + starvedAfter }

// is reports whether a mapping is of the NAR with that hash and size. The size counts because no signature need cover
// it: a content address determines the hash alone, and with a wrong size the right blocks would look like lies.
func is(m trust.Mapping, hash store.Hash, size int64) bool {
	return m.NarHash() == hash && m.NarSize() == size
}

// A lookup is one question to all neighbours. Their answers arrive from the goroutines that read them. The waiting
// caller verifies the answers, so that signatures of many claims are checked at once.
type lookup struct {
	node  *Node
	hp    store.HashPart
	want  *trust.Mapping // only its holders count; nil: every claim that can be believed counts
	timer *time.Timer    // ends it
	asked time.Time
	news  chan struct{} // has room for one

	mu       sync.Mutex // guards the rest
	owed     []owed
	unjudged []peers.Reply
	spare    []peers.Reply // claims of neighbours that are not relied on alone
	left     bool          // no caller waits for it any more
	extended time.Time     // since when the first answer is waited for until busyTimeout; zero: it is not
	f        *finding
	refused  error // why a claim was not believed; nil if none was made, or one was
}

// An owed answer is one that a neighbour has been asked for.
type owed struct {
	by     *peers.Neighbour
	prompt bool // it is worth waiting for
	lost   int  // how many streams have ended without an answer to the question
}

func newLookup(n *Node, hp store.HashPart, want *trust.Mapping, neighbours int) *lookup {
	return &lookup{node: n, hp: hp, want: want, news: make(chan struct{}, 1), owed: make([]owed, 0, neighbours)}
}

// lookup asks all neighbours, and returns the first claim that can be believed. If a mapping is wanted, only its
// holders count, and lookup waits for the answers of all neighbours, so that the finding has all holders; it waits for
// late neighbours only as long as there is no holder. Holders are collected beyond its end.
func (n *Node) lookup(ctx context.Context, hp store.HashPart, want *trust.Mapping) (*finding, error) {
	neighbours := n.neighbours()
	if len(neighbours) == 0 {
		return nil, fmt.Errorf("%s: no neighbours: %w", hp, store.ErrNotFound)
	}
	l := newLookup(n, hp, want, len(neighbours))
	l.ask(neighbours)
	return l.wait(ctx)
}

// wait returns the finding: at the first claim that can be believed, or if a mapping is wanted, once it is complete.
func (l *lookup) wait(ctx context.Context) (*finding, error) {
	for {
		f, done := l.judgeAll()
		if f != nil && (l.want == nil || done) {
			l.leave()
			return f, nil
		}
		if done {
			return nil, l.nothing()
		}
		select {
		case <-l.news:
		case <-ctx.Done():
			f, _ := l.judgeAll() // an answer may have come in the same moment
			l.leave()
			if f != nil {
				return f, nil
			}
			return nil, fmt.Errorf("%s: %w: %w", l.hp, store.ErrNotFound, ctx.Err())
		}
	}
}

// nothing returns the error: no neighbour has the path, or the claims were not believed.
func (l *lookup) nothing() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.want == nil && !l.extended.IsZero() {
		l.node.busyWait.lose(l.extended, time.Now())
	}
	if errors.Is(l.refused, errUnreliable) {
		return fmt.Errorf("%s: no neighbour that is relied on has it: %w: %w", l.hp, store.ErrNotFound, l.refused)
	}
	if l.refused != nil {
		return fmt.Errorf("%s: what neighbours have is not believed: %w: %w", l.hp, store.ErrNotFound, l.refused)
	}
	return fmt.Errorf("%s: no neighbour has it: %w", l.hp, store.ErrNotFound)
}

// HashPart implements [question].
func (l *lookup) HashPart() store.HashPart { return l.hp }

// Recall returns a neighbour's unasked claim. It returns none if the NAR is about to be fetched: the question tells a
// neighbour that is receiving the NAR, too, about this node.
func (l *lookup) Recall(nb *peers.Neighbour) (peers.Reply, bool) {
	if l.want != nil {
		return peers.Reply{}, false
	}
	text, ok := nb.Recall(l.hp)
	return peers.Reply{From: nb, Text: text}, ok
}

// ask puts the question to the neighbours.
func (l *lookup) ask(neighbours []*peers.Neighbour) {
	l.mu.Lock() // until the list is complete, done must not report that no answer is owed
	defer l.mu.Unlock()
	l.asked, l.timer = time.Now(), time.AfterFunc(infoTimeout, l.expire)
	for _, nb := range neighbours {
		if r, ok := l.Recall(nb); ok {
			l.unjudged = append(l.unjudged, r)
			continue
		}
		select {
		case nb.Asks <- l:
			l.owed = append(l.owed, owed{by: nb, prompt: !nb.IsLate()})
		default: // it has left hundreds of questions unanswered
		}
	}
}

// Answer takes in one neighbour's answer.
func (l *lookup) Answer(r peers.Reply) {
	if r.Err != nil {
		l.node.log.Debug("neighbour did not answer", zap.Stringer("peer", r.From.ID), zap.Error(r.Err))
	}
	l.mu.Lock()
	if r.Err == nil {
		r.From.Answered(time.Since(l.asked))
	}
	l.owed = slices.DeleteFunc(l.owed, func(o owed) bool { return o.by == r.From })
	if len(l.owed) == 0 {
		l.timer.Stop()
	}
	left := l.left
	if !left && r.Text != "" {
		l.unjudged = append(l.unjudged, r)
	}
	tell := !left && (r.Text != "" || l.done())
	l.mu.Unlock()
	if tell {
		l.tell()
	}
	if left && r.Text != "" {
		l.judge(r)
	}
}

// Awaits reports whether a neighbour's answer is still waited for.
func (l *lookup) Awaits(nb *peers.Neighbour) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.owed, func(o owed) bool { return o.by == nb })
}

// Lost records that a stream to a neighbour has ended without an answer to the question. It reports whether the
// neighbour is to be asked on another stream.
func (l *lookup) Lost(nb *peers.Neighbour) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.owed, func(o owed) bool { return o.by == nb })
	if i < 0 {
		return false
	}
	l.owed[i].lost++
	return l.owed[i].lost < peers.MaxLost
}

// expire ends the wait for neighbours that have not answered in time, unless no claim has been believed yet: then it ends
// at busyTimeout, for a NAR with all of them, for a narinfo with those that are busy.
func (l *lookup) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, o := range l.owed {
		o.by.Late.CompareAndSwap(0, now.UnixNano())
	}
	waited := now.Sub(l.asked)
	starved := waited > infoTimeout+starvedAfter
	// A neighbour that was silent before adds no time.
	l.owed = slices.DeleteFunc(l.owed, func(o owed) bool {
		return !o.prompt || l.want == nil && !starved && !o.by.IsBusy(waited)
	})
	if l.f == nil && !l.left && l.extended.IsZero() && len(l.owed) > 0 && (l.want != nil || l.node.busyWait.allows(now)) {
		for i := range l.owed {
			l.owed[i].prompt = l.want == nil
		}
		l.extended = now
		l.timer.Reset(busyTimeout - infoTimeout)
		return
	}
	l.owed = nil
	l.tell()
}

func (l *lookup) tell() {
	select {
	case l.news <- struct{}{}:
	default: // the waiting caller is about to look
	}
}

// done reports whether there is no answer left to wait for. The caller holds mu.
func (l *lookup) done() bool {
	return !slices.ContainsFunc(l.owed, func(o owed) bool { return o.prompt || l.f == nil && l.want != nil })
}

// leave is called at the end of the wait. It judges the remaining answers; those that arrive later are judged as they
// come.
func (l *lookup) leave() {
	l.mu.Lock()
	l.left = true
	rest := l.unjudged
	l.unjudged = nil
	l.mu.Unlock()
	for _, r := range rest {
		l.judge(r)
	}
}

// judgeAll judges the replies that have come. It returns the finding, and whether it is complete.
func (l *lookup) judgeAll() (f *finding, done bool) {
	for {
		l.mu.Lock()
		rs := l.unjudged
		l.unjudged = nil
		f, done = l.f, l.done()
		l.mu.Unlock()
		if len(rs) == 0 {
			return f, done
		}
		for _, r := range rs {
			l.judge(r)
		}
	}
}

// judge takes in what one neighbour claims.
func (l *lookup) judge(r peers.Reply) {
	info, err := store.ParseInfo(r.Text)
	if err == nil && info.Path.HashPart() != l.hp {
		err = fmt.Errorf("asked about %s, got %s: %w", l.hp, info.Path, peers.ErrName)
	}
	if err != nil {
		l.node.ledger.Refuse(peers.Refusal(err))
		l.node.ledger.Strike(r.From.ID, err)
		return
	}
	if why := l.node.ledger.Unreliable(r.From.Tally, l.hp, info.NarHash); why != "" && !l.keepSpare(r, why) {
		return
	}
	f := l.believe(r.From, info)
	// A peer that claims to have this very NAR is a holder even if its claim was not checked: the bytes are verified
	// later.
	if f != nil && is(f.mapping, info.NarHash, info.NarSize) {
		r.From.Tally.Claims.Add(1)
		f.add(r.From.ID, r.Receiving)
	}
}

// keepSpare reports whether the claim of a neighbour that is not relied on alone counts, that is, whether another
// neighbour has made it. Otherwise it is kept until then. A NAR that was wrong at that neighbour is not taken from
// it.
func (l *lookup) keepSpare(r peers.Reply, why string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		return true
	}
	l.spare = append(l.spare, r)
	if l.refused == nil {
		l.refused = fmt.Errorf("neighbour %s: %s: %w", r.From.ID, why, errUnreliable)
	}
	return false
}

// believe returns the finding; the first claim that can be believed creates it. After the wait has ended no finding is
// created.
func (l *lookup) believe(from *peers.Neighbour, info store.Info) *finding {
	l.mu.Lock()
	f, left := l.f, l.left
	l.mu.Unlock()
	var m trust.Mapping
	switch {
	case f != nil:
		return f
	case l.want != nil && is(*l.want, info.NarHash, info.NarSize):
		m = *l.want
	case l.want != nil || left:
		return nil
	default:
		var err error
		if m, err = l.node.cfg.Trusted.Check(info); err != nil {
			if errors.Is(err, trust.ErrForged) { // its key of that name may be another
				l.node.ledger.NoteForged(l.node.cfg.Trusted, from.ID, info)
			}
			l.mu.Lock()
			l.refused = err
			l.mu.Unlock()
			l.node.ledger.Refuse(peers.Refusal(err))
			l.node.log.Debug("claim not believed", zap.Stringer("peer", from.ID), zap.Error(err))
			return nil // its keys may be honest ones that this machine does not trust
		}
	}
	l.mu.Lock()
	if l.f == nil {
		l.f = &finding{mapping: m, found: time.Now()}
		l.node.findings.Add(l.hp, l.f)
	}
	f, spare := l.f, l.spare
	l.spare = nil
	l.mu.Unlock()
	for _, r := range spare {
		l.judge(r)
	}
	return f
}

// holders returns the neighbours that said that they have the NAR. It asks all neighbours if the last answers are too
// old, or if again is set.
func (n *Node) holders(ctx context.Context, m trust.Mapping, again bool) []fetch.Holder {
	hp := m.Path().HashPart()
	f, ok := n.findings.Get(hp)
	if !ok || again || !is(f.mapping, m.NarHash(), m.NarSize()) || len(n.connected(f)) == 0 {
		now, err := n.lookup(ctx, hp, &m)
		if err == nil {
			return n.connected(now)
		}
		return n.known(m) // a holder that is busy answers late
	}
	if m.NarSize() > crowdSize || time.Since(f.asked()) > fetch.HoldersFresh {
		n.refresh(ctx, f, m)
	}
	return n.connected(f)
}

// refresh asks, for a moment, the neighbours that are not known to have the whole NAR: holders may be busy, and answer
// late.
func (n *Node) refresh(ctx context.Context, f *finding, m trust.Mapping) {
	others := slices.DeleteFunc(n.neighbours(), func(nb *peers.Neighbour) bool { return f.isWhole(nb.ID) })
	if len(others) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	l := &lookup{node: n, hp: m.Path().HashPart(), want: &m, news: make(chan struct{}, 1), f: f}
	l.ask(others)
	if _, err := l.wait(ctx); err == nil {
		f.askedNow()
	}
}

// known returns the known holders, without asking any neighbour.
func (n *Node) known(m trust.Mapping) []fetch.Holder {
	f, ok := n.findings.Peek(m.Path().HashPart())
	if !ok || !is(f.mapping, m.NarHash(), m.NarSize()) {
		return nil
	}
	return n.connected(f)
}

// askAround asks all neighbours about a NAR, so that known finds its holders, and does not wait for the answers.
func (n *Node) askAround(m trust.Mapping) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // do not wait; the answers are collected all the same
	n.lookup(ctx, m.Path().HashPart(), &m)
}

// connected returns the holders of a finding that are still neighbours.
func (n *Node) connected(f *finding) []fetch.Holder {
	f.mu.Lock()
	ids := maps.Clone(f.holders)
	f.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []fetch.Holder
	alone := true
	for id, receiving := range ids {
		nb := n.peers[id]
		if nb == nil || !n.ledger.TakesFrom(nb.Tally, peers.PairOf(nb, f.mapping)) {
			continue
		}
		out = append(out, fetch.Holder{Neighbour: nb, Receiving: receiving})
		_, aside := nb.Tally.Aside(time.Now())
		alone = alone && aside != ""
	}
	if alone { // none that is relied on
		return nil
	}
	return out
}
