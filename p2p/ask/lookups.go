package ask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"narbor/p2p/fetch"
	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// ErrUnanswered says that neighbours have not answered in time, so that one of them may have what no other has.
var ErrUnanswered = errors.New("some have not answered in time")

// ErrUnreliable says that a claim is believed, and that its neighbour is not relied on for that NAR.
var ErrUnreliable = errors.New("not relied on")

// A Finding records the neighbours' answers about a hash part: the claim that was believed, and the other peers that
// made it.
type Finding struct {
	Mapping trust.Mapping

	mu      sync.Mutex       // guards the rest
	holders map[peer.ID]bool // the peers that claim it; true: still receiving the NAR
	found   time.Time        // when all neighbours were asked
}

// isWhole reports whether the peer has claimed to have the whole NAR.
func (f *Finding) isWhole(id peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	receiving, ok := f.holders[id]
	return ok && !receiving
}

func (f *Finding) asked() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.found
}

func (f *Finding) askedNow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found = time.Now()
}

func (f *Finding) add(id peer.ID, receiving bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holders == nil {
		f.holders = map[peer.ID]bool{}
	}
	f.holders[id] = receiving
}

// Config is what lookups need of the node. All fields are required but SinceAck, Sharing, and AddrOf outside of AskEach. Its
// functions may be called concurrently.
type Config struct {
	Neighbours *peers.Set
	Ledger     *peers.Ledger
	Secrets    *secrets.Policy
	Log        *zap.Logger
	// SinceAck returns how long ago a machine acknowledged something on a connection; nil is not known of any.
	SinceAck func(network.ConnMultiaddrs) (ago time.Duration, ok bool)
	// AddrOf returns the address by which a neighbour is connected, as text.
	AddrOf func(peer.ID) string
	// Sharing reports whether anything may leave this machine; nil is no. Without it nothing is offered.
	Sharing func() bool
}

// Lookups asks neighbours about paths, and remembers their answers. It implements [fetch.Swarm] but for Elect. Its
// methods may be called concurrently.
type Lookups struct {
	Config
	findings *lru.Cache[store.HashPart, *Finding]
	busy     peers.BusyWait
	offers   *offers
}

// New starts nothing.
func New(cfg Config) *Lookups {
	ls := &Lookups{Config: cfg, findings: lru.New[store.HashPart, *Finding](maxFindings)}
	ls.offers = newOffers(ls)
	return ls
}

// isBusy reports whether a neighbour may be alive and busy that has not answered a question for that long. That is so if it
// has sent something since, if it usually takes that long, or if its machine's kernel has acknowledged packets since.
func (ls *Lookups) isBusy(nb *peers.Neighbour, waited time.Duration) bool {
	if nb.IsBusy(waited) {
		return true
	}
	return ls.SinceAck != nil && slices.ContainsFunc(nb.Conns(), func(c network.Conn) bool {
		ago, ok := ls.SinceAck(c)
		return ok && ago < waited
	})
}

// is reports whether a mapping is of the NAR with that hash and size. The size counts because no signature need cover
// it: a content address determines the hash alone, and with a wrong size the right blocks would look like lies.
func is(m trust.Mapping, hash store.Hash, size int64) bool {
	return m.NarHash() == hash && m.NarSize() == size
}

// Lookup asks all neighbours, and returns the first claim that can be believed. If a mapping is wanted, only its
// holders count, and Lookup waits for the answers of all neighbours, so that the finding has all holders; it waits for
// late neighbours only as long as there is no holder. Holders are collected beyond its end.
func (ls *Lookups) Lookup(ctx context.Context, hp store.HashPart, want *trust.Mapping) (*Finding, error) {
	neighbours := ls.Neighbours.All()
	if len(neighbours) == 0 {
		return nil, fmt.Errorf("%s: no neighbours: %w", hp, store.ErrNotFound)
	}
	l := newLookup(ls, hp, want, len(neighbours))
	l.ask(neighbours)
	return l.wait(ctx)
}

// Holders returns the neighbours that said that they have the NAR. It asks all neighbours if the last answers are too
// old, or if again is set.
func (ls *Lookups) Holders(ctx context.Context, m trust.Mapping, again bool) []fetch.Holder {
	hp := m.Path().HashPart()
	ls.offers.await(ctx, m)
	f, ok := ls.findings.Get(hp)
	if !ok || again || !is(f.Mapping, m.NarHash(), m.NarSize()) || len(ls.connected(f)) == 0 {
		now, err := ls.Lookup(ctx, hp, &m)
		if err == nil {
			return ls.connected(now)
		}
		return ls.Known(m) // a holder that is busy answers late
	}
	if m.NarSize() > offeredSize {
		ls.offers.offer(m)
	}
	if m.NarSize() > refreshSize || time.Since(f.asked()) > fetch.HoldersFresh {
		ls.refresh(ctx, f, m)
	}
	return ls.connected(f)
}

// refresh asks, for a moment, the neighbours that are not known to have the whole NAR: holders may be busy, and answer
// late.
func (ls *Lookups) refresh(ctx context.Context, f *Finding, m trust.Mapping) {
	others := slices.DeleteFunc(ls.Neighbours.All(), func(nb *peers.Neighbour) bool { return f.isWhole(nb.ID) })
	if len(others) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	l := &lookup{of: ls, subject: subject{hp: m.Path().HashPart(), want: &m}, news: make(chan struct{}, 1), f: f}
	l.ask(others)
	if _, err := l.wait(ctx); err == nil {
		f.askedNow()
	}
}

// Knows reports whether a neighbour has made a claim about a NAR that was believed.
func (ls *Lookups) Knows(m trust.Mapping) bool {
	f, ok := ls.findings.Peek(m.Path().HashPart())
	return ok && is(f.Mapping, m.NarHash(), m.NarSize())
}

// Known returns the known holders, without asking any neighbour.
func (ls *Lookups) Known(m trust.Mapping) []fetch.Holder {
	f, ok := ls.findings.Peek(m.Path().HashPart())
	if !ok || !is(f.Mapping, m.NarHash(), m.NarSize()) {
		return nil
	}
	return ls.connected(f)
}

// AskAround asks all neighbours about a NAR, so that Known finds its holders, and does not wait for the answers.
func (ls *Lookups) AskAround(m trust.Mapping) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // do not wait; the answers are collected all the same
	ls.Lookup(ctx, m.Path().HashPart(), &m)
}

// connected returns the holders of a finding that are still neighbours.
func (ls *Lookups) connected(f *Finding) []fetch.Holder {
	f.mu.Lock()
	ids := maps.Clone(f.holders)
	f.mu.Unlock()
	var out []fetch.Holder
	alone := true
	for id, receiving := range ids {
		nb := ls.Neighbours.Get(id)
		if nb == nil || !ls.Ledger.TakesFrom(nb.Tally, f.Mapping) {
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

// TooSlow fails if the holders of a finding would take more than twice as long as the NAR may, at the rates at which they
// send just now. Holders of unknown rate are tried.
func (ls *Lookups) TooSlow(f *Finding) error {
	now, sum := time.Now(), int64(0)
	for _, h := range ls.connected(f) {
		rate := h.Neighbour.Rate(now)
		if rate == 0 {
			return nil
		}
		sum += rate
	}
	if !Slow(f.Mapping.NarSize(), sum) {
		return nil
	}
	return fmt.Errorf("%s: %w: %w: its holders send %d bytes a second", f.Mapping.Path(), store.ErrNotFound, store.ErrSlow, sum)
}

// Slow reports whether a NAR takes too long at a rate in bytes per second, for Nix to be told that it can be had. The rate 0
// is unknown.
func Slow(size, rate int64) bool {
	return rate > 0 && float64(size)/float64(rate) > 2*store.FetchTime(size).Seconds()
}

// Told returns what a neighbour says that an upstream says, if it can be believed.
func (ls *Lookups) Told(nb *peers.Neighbour, hp store.HashPart, text string) (trust.Mapping, error) {
	info, err := parseClaim(hp, text)
	if err != nil {
		ls.Ledger.Strike(nb.ID, err)
		return trust.Mapping{}, err
	}
	return ls.Secrets.Trusted.Check(info) // what its keys believe, ours need not
}

// parseClaim reads an answer to the question about a hash part.
func parseClaim(hp store.HashPart, text string) (store.Info, error) {
	info, err := store.ParseInfo(text)
	if err == nil && info.Path.HashPart() != hp {
		err = fmt.Errorf("asked about %s, got %s: %w", hp, info.Path, peers.ErrName)
	}
	return info, err
}
