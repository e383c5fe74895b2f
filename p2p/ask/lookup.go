package ask

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// A lookup is one question to all neighbours. Their answers arrive from the goroutines that read them. The waiting
// caller verifies the answers, so that signatures of many claims are checked at once.
type lookup struct {
	of *common
	subject
	timer *time.Timer // ends it
	asked time.Time
	news  chan struct{} // has room for one

	mu sync.Mutex // guards the rest
	answers
	left     bool      // no caller waits for it any more
	silent   bool      // neighbours that usually answer have not answered in time
	extended time.Time // since when the first answer is waited for until BusyTimeout; zero: it is not
	f        *Finding
	refused  error // why a claim was not believed; nil if none was made, or one was
}

// A subject is the path that a lookup asks about. It does not change.
type subject struct {
	hp    store.HashPart
	want  *trust.Mapping // only its holders count; nil: every claim that can be believed counts
	brief bool           // no neighbour is waited for beyond the usual time: Nix does not wait for this
}

// answers are those that have not come, and those that were not judged.
type answers struct {
	owed     []owed
	unjudged []peers.Reply
	spare    []peers.Reply // claims of neighbours that are not relied on alone
}

// prompt returns how many owed answers are worth waiting for.
func (a *answers) prompt() (n int) {
	for _, o := range a.owed {
		if o.prompt {
			n++
		}
	}
	return n
}

// An owed answer is one that a neighbour has been asked for.
type owed struct {
	by     *peers.Neighbour
	prompt bool // it is worth waiting for
	lost   int  // how many streams have ended without an answer to the question
}

func newLookup(of *common, hp store.HashPart, want *trust.Mapping, neighbours int) *lookup {
	return &lookup{of: of, subject: subject{hp: hp, want: want}, news: make(chan struct{}, 1),
		answers: answers{owed: make([]owed, 0, neighbours)}}
}

// wait returns the finding: at the first claim that can be believed, or if a mapping is wanted, once it is complete.
func (l *lookup) wait(ctx context.Context) (*Finding, error) {
	f, err := l.await(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.want == nil && !l.extended.IsZero() && !errors.Is(err, context.Canceled) {
		l.of.busy.Lose(l.extended, time.Now(), f != nil)
	}
	return f, err
}

func (l *lookup) await(ctx context.Context) (*Finding, error) {
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
	if errors.Is(l.refused, ErrUnreliable) {
		return fmt.Errorf("%s: no neighbour that is relied on has it: %w: %w", l.hp, store.ErrNotFound, l.refused)
	}
	if l.refused != nil {
		return fmt.Errorf("%s: what neighbours have is not believed: %w: %w", l.hp, store.ErrNotFound, l.refused)
	}
	if l.silent {
		return fmt.Errorf("%s: no neighbour has it: %w: %w", l.hp, store.ErrNotFound, ErrUnanswered)
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
	l.asked, l.timer = time.Now(), time.AfterFunc(peers.InfoTimeout, l.expire)
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
		l.of.Log.Debug("neighbour did not answer", zap.Stringer("peer", r.From.ID), zap.Error(r.Err))
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
	return l.owed[i].lost < maxLost
}

// expire ends the wait for neighbours that have not answered in time, unless no claim has been believed yet: then it
// ends at [peers.BusyTimeout], for a NAR with all of them, for a narinfo with those that are busy.
func (l *lookup) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, o := range l.owed {
		o.by.Late.CompareAndSwap(0, now.UnixNano())
	}
	waited := now.Sub(l.asked)
	starved := waited > peers.InfoTimeout+starvedAfter
	// A neighbour that was silent before adds no time.
	asked := l.prompt()
	l.owed = slices.DeleteFunc(l.owed, func(o owed) bool {
		return !o.prompt || l.want == nil && !starved && !l.of.isBusy(o.by, waited, latelyFor(o.by, now))
	})
	l.silent = l.silent || l.prompt() < asked
	if l.f == nil && !l.left && !l.brief && l.extended.IsZero() && len(l.owed) > 0 && (l.want != nil || l.of.busy.Allows(now)) {
		for i := range l.owed {
			l.owed[i].prompt = l.want == nil
		}
		l.extended = now
		l.timer.Reset(peers.BusyTimeout - peers.InfoTimeout)
		return
	}
	l.silent = l.silent || l.prompt() > 0
	l.owed = nil
	l.tell()
}

// latelyFor returns how long before a question a neighbour must have been heard from for its answer to count as lost.
func latelyFor(nb *peers.Neighbour, now time.Time) time.Duration {
	if now.Sub(time.Unix(0, nb.Late.Load())) > lossTime {
		return 0
	}
	return heardLately
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
func (l *lookup) judgeAll() (f *Finding, done bool) {
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
	info, err := parseClaim(l.hp, r.Text)
	if err != nil {
		l.of.Ledger.CountRefused(err)
		l.of.Ledger.Strike(r.From.ID, err)
		return
	}
	if why := l.of.Ledger.Unreliable(r.From.Tally, l.hp, info.NarHash); why != "" && l.keepSpare(r, why) {
		return
	}
	f := l.believe(r.From, info)
	// A peer that claims to have this very NAR is a holder even if its claim was not checked: the bytes are verified
	// later.
	if f != nil && is(f.Mapping, info.NarHash, info.NarSize) {
		r.From.Tally.Claims.Add(1)
		f.add(r.From.ID, r.Receiving)
	}
}

// keepSpare keeps a claim of a neighbour that is not relied on alone until another neighbour has made the claim, too.
// It returns false if one has: then the claim counts at once. A NAR that was wrong at that neighbour is not taken from
// it.
func (l *lookup) keepSpare(r peers.Reply, why string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		return false
	}
	l.spare = append(l.spare, r)
	if l.refused == nil {
		l.refused = fmt.Errorf("neighbour %s: %s: %w", r.From.ID, why, ErrUnreliable)
	}
	return true
}

// believe returns the finding; the first claim that can be believed creates it. After the wait has ended no finding is
// created.
func (l *lookup) believe(from *peers.Neighbour, info store.Info) *Finding {
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
		if m, err = l.of.Secrets.Trusted.Check(info); err != nil {
			if errors.Is(err, trust.ErrForged) { // its key of that name may be another
				l.of.Ledger.NoteForged(l.of.Secrets.Trusted, from.ID, info)
			}
			l.mu.Lock()
			l.refused = err
			l.mu.Unlock()
			l.of.Ledger.CountRefused(err)
			l.of.Log.Debug("claim not believed", zap.Stringer("peer", from.ID), zap.Error(err))
			return nil // its keys may be honest ones that this machine does not trust
		}
	}
	l.mu.Lock()
	if l.f == nil {
		l.f = &Finding{Mapping: m, found: time.Now()}
		l.of.findings.Add(l.hp, l.f)
	}
	f, spare := l.f, l.spare
	l.spare = nil
	l.mu.Unlock()
	for _, r := range spare {
		l.judge(r)
	}
	return f
}
