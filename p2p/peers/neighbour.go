package peers

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap/zapcore"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/store/lru"
	"narbor/trust"
)

// A Neighbour is a connected peer that speaks our protocol. It ends when its connection does. Its methods may be called
// concurrently.
type Neighbour struct {
	ID           peer.ID
	Since        time.Time // when it came
	Tally        *Tally
	NonNeighbour bool          // not one of the machines to keep when it was connected: see discovery's candidates
	Asks         chan Question // that it has not been asked yet
	Busy         atomic.Int32  // blocks asked for and not yet here

	ledger   *Ledger
	pushed   *lru.Cache[store.HashPart, pushedClaim] // pushed claims
	proxying chan struct{}                           // one for each question under way for which it asks its upstreams

	streams
	pace
	liveness
}

// A Question is about a hash part, and asked of several neighbours. Its methods may be called concurrently.
type Question interface {
	HashPart() store.HashPart
	// Awaits reports whether a neighbour's answer is still waited for.
	Awaits(*Neighbour) bool
	// Recall returns what a neighbour has said unasked, if that is an answer.
	Recall(*Neighbour) (Reply, bool)
	// Lost records that a stream to a neighbour has ended without an answer. It reports whether the question is to be
	// asked on another stream.
	Lost(*Neighbour) bool
	// Answer takes in a neighbour's answer.
	Answer(Reply)
}

// A Reply is a neighbour's answer about a hash part.
type Reply struct {
	From      *Neighbour
	Text      string // of a narinfo that was not checked; "" is "not here"
	Receiving bool   // it still receives the NAR
	Err       error
}

// A pushedClaim is a claim that was not asked for. It is verified when a lookup needs it.
type pushedClaim struct {
	text string
	at   time.Time
}

// NewNeighbour returns a neighbour that is asked by protocol. The caller calls AskLoop, and Leave once its connections
// have ended.
func NewNeighbour(h host.Host, id peer.ID, by protocol.ID, book *Ledger) *Neighbour {
	return &Neighbour{ID: id, Since: time.Now(), Tally: book.TallyOf(id), ledger: book, Asks: make(chan Question, askQueue),
		pushed: lru.New[store.HashPart, pushedClaim](maxPushed), proxying: make(chan struct{}, MaxProxyingPeer),
		streams: streams{id: id, host: h, protocol: by, done: make(chan struct{})}}
}

// NewsLevel is the log level of its coming and going: on a large LAN, hundreds of peers connect for a moment.
func (n *Neighbour) NewsLevel() zapcore.Level {
	if n.NonNeighbour {
		return zapcore.DebugLevel
	}
	return zapcore.InfoLevel
}

// AskManifest returns the hashes that the blocks have according to the neighbour.
func (n *Neighbour) AskManifest(ctx context.Context, m trust.Mapping) (store.Manifest, error) {
	ex, err := n.Open(ctx, ReadStall)
	if err != nil {
		return nil, err
	}
	defer ex.Reset()
	stop := context.AfterFunc(ctx, func() { ex.Reset() })
	defer stop()
	r := wire.Request{Kind: wire.AskManifest, HashParts: []store.HashPart{m.Path().HashPart()}, NAR: m.NarHash()}
	if err := ex.Send(r); err != nil {
		return nil, err
	}
	ex.Until = time.Now().Add(min(manifestTimeout+time.Duration(m.NarSize()/manifestPace)*time.Second, manifestLimit))
	return wire.ReadManifest(ex.Reader, m.NarSize())
}
