package peers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/netmon"
	"narbor/store"
	"narbor/store/statefile"
	"narbor/trust"
)

// A Ledger records what peers have done, decides which are refused and which are not relied on, and keeps the deny list
// in a file. Its methods may be called concurrently.
type Ledger struct {
	Log  *zap.Logger
	file denyFile
	// CloseAll closes the connections with a peer. It is set before Run.
	CloseAll func(peer.ID)

	mu sync.Mutex // guards the rest
	record
}

// A denyFile keeps the deny list. Its lock is held while the file is written, and not the ledger's: every request needs
// that.
type denyFile struct {
	sync.Mutex
	name  string        // "" is none
	stale chan struct{} // the file may be out of date
}

// NewLedger reads the deny list of an earlier run. The ledger is usable even if that fails: nothing of a file that
// cannot be read as a whole is believed.
func NewLedger(file string, log *zap.Logger) *Ledger {
	l := &Ledger{Log: log, file: denyFile{name: file, stale: make(chan struct{}, 1)}, CloseAll: func(peer.ID) {}, record: newRecord()}
	var saved []Denied
	err := statefile.Read(file, maxDenyFile, &saved)
	if err == nil {
		if l.denied, err = newDenyList(saved, time.Now()); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
	}
	if err != nil {
		log.Warn("peers that were banned or blocked in earlier runs are not refused: their file cannot be read", zap.Error(err))
	}
	return l
}

// Run keeps the file of bans up to date until ctx ends.
func (l *Ledger) Run(ctx context.Context) error {
	for {
		select {
		case <-l.file.stale:
		case <-ctx.Done():
			if len(l.file.stale) == 0 {
				return nil
			}
			<-l.file.stale
		}
		if err := l.write(); err != nil {
			l.Log.Warn("bans will not outlast this run", zap.Error(err))
		}
	}
}

// write saves the deny list as it is.
func (l *Ledger) write() error {
	l.file.Lock()
	defer l.file.Unlock()
	l.mu.Lock()
	entries := l.denied.entries(time.Now())
	l.mu.Unlock()
	return statefile.Write(l.file.name, entries)
}

// Denies reports whether connections with a peer are refused.
func (l *Ledger) Denies(id peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.denied.denies(id, time.Now())
}

// Block refuses a peer until Unblock, also after a restart, and closes its connections. It fails if that cannot be
// saved.
func (l *Ledger) Block(id peer.ID) error {
	if err := l.change(func(d denyList) error { return d.block(id) }); err != nil {
		return err
	}
	l.CloseAll(id)
	return nil
}

// Unblock ends a block or a ban.
func (l *Ledger) Unblock(id peer.ID) error {
	return l.change(func(d denyList) error { d.allow(id); return nil })
}

// change changes the deny list once the change is saved.
func (l *Ledger) change(by func(denyList) error) error {
	l.file.Lock()
	defer l.file.Unlock()
	l.mu.Lock()
	changed := maps.Clone(l.denied)
	l.mu.Unlock()
	if err := by(changed); err != nil {
		return err
	}
	if err := statefile.Write(l.file.name, changed.entries(time.Now())); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return by(l.denied) // peers may have been banned meanwhile
}

// Bans returns the peers that are banned for their strikes, sorted.
func (l *Ledger) Bans() []Denied {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.denied.bans(time.Now())
}

// Denied returns all peers on the deny list.
func (l *Ledger) Denied() []peer.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.denied.bans(time.Now())
	return slices.Sorted(maps.Keys(l.denied))
}

func (l *Ledger) Blocked() []peer.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.denied.blocked()
}

// TallyOf returns what a peer has done.
func (l *Ledger) TallyOf(id peer.ID) *Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tally(id)
}

// Strike counts a message that no honest peer sends, and bans the peer for [banTime] after the third. What a banned
// peer had sent before the ban does not count.
func (l *Ledger) Strike(id peer.ID, lie error) {
	l.mu.Lock()
	strikes, until := l.strike(id, lie, time.Now())
	l.mu.Unlock()
	if strikes == 0 {
		return
	}
	if !until.IsZero() {
		netmon.Hint(l.file.stale)
	}
	l.Log.Warn("neighbour broke the protocol", zap.Stringer("peer", id), zap.Int64("strikes", strikes),
		zap.String("reason", Bounded(lie.Error())))
	if !until.IsZero() {
		l.CloseAll(id)
		l.Log.Warn("neighbour banned", zap.Stringer("peer", id), zap.Time("until", until))
	}
}

// CountRefused counts a message that was not believed, by the reason that its error stands for.
func (l *Ledger) CountRefused(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.refused[refusal(cause)]++
}

// Totals returns how often something was not believed, and how many bans there were, by reason.
func (l *Ledger) Totals() (refused, bans map[string]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts.refused), maps.Clone(l.counts.bans)
}

// NoteForged records a claim with a signature in the name of a trusted key that does not verify with it.
func (l *Ledger) NoteForged(keys *trust.Keys, from peer.ID, info store.Info) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mismatches.note(keys, from, info, time.Now())
}

// OtherKeys returns the mismatches of the last [mismatchTime].
func (l *Ledger) OtherKeys(keys *trust.Keys) []KeyMismatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mismatches.current(keys, time.Now())
}

// SentWrong records that a peer has sent a wrong NAR, and reports whether that is news: it is once for each path in
// [wrongFor].
func (l *Ledger) SentWrong(id peer.ID, m trust.Mapping, cause error) (news bool) {
	l.mu.Lock()
	news, until := l.sentWrong(id, m, time.Now())
	l.mu.Unlock()
	if news {
		l.Log.Warn("neighbour sent a wrong NAR", zap.Stringer("peer", id), zap.Stringer("path", m.Path()),
			zap.String("reason", Bounded(cause.Error())))
	}
	if !until.IsZero() {
		l.Log.Warn("neighbour is set aside", zap.Stringer("peer", id), zap.Time("until", until), zap.String("reason", asideWrong))
	}
	return news
}

// Avoid has a NAR not taken from a peer for a while.
func (l *Ledger) Avoid(t *Tally, m trust.Mapping, d time.Duration, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.avoided.add(pairOf(t, m), reason, time.Now(), d)
}

// TakesFrom reports whether blocks of a NAR are taken from a peer. They are not if the peer is avoided for it, or
// is set aside for wrong NARs; from one that was too slow they are.
func (l *Ledger) TakesFrom(t *Tally, m trust.Mapping) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takesFrom(t, m, time.Now())
}

// Unreliable returns why a peer's claim of a NAR is not enough to tell Nix that it can be had; "" if it is.
func (l *Ledger) Unreliable(t *Tally, hp store.HashPart, nar store.Hash) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unreliable(pair{t.ID, hp, nar}, t, time.Now())
}
