package peers

import (
	"bufio"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap/zapcore"

	"narbor/p2p/wire"
	"narbor/store"
	"narbor/trust"
)

// A Neighbour is a connected peer that speaks our protocol. It ends when its connection does.
type Neighbour struct {
	ID   peer.ID
	host host.Host
	// protocol is [protocolID], or among members of a group [memberProtocol].
	protocol protocol.ID
	Since    time.Time
	Tally    *Tally
	ledger   *Ledger
	Stranger bool                                  // not one of the machines to keep when it came, see [circle]
	Asks     chan Question                         // that it has not been asked yet
	told     *lru.Cache[store.HashPart, toldClaim] // claims that it has made unasked
	done     chan struct{}                         // closed when the neighbour is gone

	helping chan struct{} // one for each question under way for which it asks its upstreams
	Brought atomic.Int64  // when (Unix ns) a block came from it last

	response responseTime // to questions about claims

	shown atomic.Int64 // the most bytes a second at which blocks have come from it, on average

	Busy atomic.Int32 // blocks asked for and not yet here
	Late atomic.Int64 // since when (Unix ns) it has not answered in time, nor anything on that stream; 0 if it has

	mu        sync.Mutex // guards idle and blockTime
	idle      []*Exchange
	blockTime time.Duration // moving average from one block to the next while busy; 0 is unknown
}

// NewNeighbour returns a neighbour that is asked by protocol. The caller calls AskLoop, and Leave once its connections have
// ended.
func NewNeighbour(h host.Host, id peer.ID, by protocol.ID, book *Ledger) *Neighbour {
	return &Neighbour{ID: id, host: h, protocol: by, Since: time.Now(), Tally: book.TallyOf(id), ledger: book,
		Asks: make(chan Question, askQueue), told: NewCache[store.HashPart, toldClaim](maxTold),
		helping: make(chan struct{}, MaxHelpingPeer), done: make(chan struct{})}
}

// An Exchange is a stream on which blocks are asked for; one goroutine at a time has it.
type Exchange struct {
	network.Stream
	Reader *bufio.Reader
	Stall  time.Duration // how long a read may make no progress
	Until  time.Time     // when the current read must be complete, whatever progress it makes; zero is no limit
	Kept   bool          // it was kept open, and nothing has been read from it since
}

// NewsLevel is the log level of its coming and going: on a large LAN, hundreds of peers connect for a moment.
func (n *Neighbour) NewsLevel() zapcore.Level {
	if n.Stranger {
		return zapcore.DebugLevel
	}
	return zapcore.InfoLevel
}

func (n *Neighbour) Open(ctx context.Context, stall time.Duration) (*Exchange, error) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "neighbours are connected"), openTimeout)
	defer cancel()
	s, err := n.host.NewStream(ctx, n.ID, n.protocol)
	if err != nil {
		return nil, fmt.Errorf("neighbour %s: %w", n.ID, err)
	}
	ex := &Exchange{Stream: s, Stall: stall}
	ex.Reader = bufio.NewReaderSize(ex, 16<<10)
	return ex, nil
}

// Take returns a stream for blocks on which nothing is under way.
func (n *Neighbour) Take(ctx context.Context) (*Exchange, error) {
	n.mu.Lock()
	if last := len(n.idle) - 1; last >= 0 {
		ex := n.idle[last]
		n.idle = n.idle[:last]
		n.mu.Unlock()
		return ex, nil
	}
	n.mu.Unlock()
	return n.Open(ctx, ReadStall)
}

// Put gives back a stream on which every answer has been read.
func (n *Neighbour) Put(ex *Exchange) {
	n.mu.Lock()
	select {
	case <-n.done:
	default:
		if len(n.idle) < maxIdleStreams {
			ex.Kept = true
			n.idle = append(n.idle, ex)
			n.mu.Unlock()
			return
		}
	}
	n.mu.Unlock()
	ex.Reset() // may wait for a connection that is stuck
}

// Leave ends the neighbour and resets its idle streams.
func (n *Neighbour) Leave() {
	close(n.done)
	n.mu.Lock()
	idle := n.idle
	n.idle = nil
	n.mu.Unlock()
	for _, ex := range idle {
		ex.Reset()
	}
}

// Send writes one request.
func (ex *Exchange) Send(r wire.Request) error {
	if err := ex.SetWriteDeadline(time.Now().Add(ReadStall)); err != nil {
		return err
	}
	_, err := ex.Write(wire.AppendRequest(nil, r))
	return err
}

// Read gives each read its own deadline: a slow neighbour is read from on, and a silent one is not.
func (ex *Exchange) Read(p []byte) (int, error) {
	deadline := time.Now().Add(ex.Stall)
	if !ex.Until.IsZero() && ex.Until.Before(deadline) {
		deadline = ex.Until
	}
	if err := ex.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	return ex.Stream.Read(p)
}

// Expect returns the estimate for one more block, and ok false if nothing has been measured yet.
func (n *Neighbour) Expect() (d time.Duration, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blockTime, n.blockTime > 0
}

// Measured records the time that a block of size bytes took, scaled to a full one.
func (n *Neighbour) Measured(d time.Duration, size int) {
	d = max(d, 50*time.Microsecond)
	if size < store.BlockSize/4 {
		size = store.BlockSize / 4 // the round trip dominates: don't blow it up
	}
	d = time.Duration(float64(d) * store.BlockSize / float64(size))
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.blockTime == 0 {
		n.blockTime = d
	} else {
		n.blockTime += (d - n.blockTime) / 4
	}
	if pace := int64(store.BlockSize / n.blockTime.Seconds()); pace > n.shown.Load() {
		n.shown.Store(pace)
	}
}

// Gone reports whether the neighbour has ended.
func (n *Neighbour) Gone() bool {
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// Window is how many blocks are kept under way with a neighbour: what it delivers in 40 ms, so that the link stays
// busy over a round trip and a slow one is not owed much.
func (n *Neighbour) Window() int {
	const ahead = 40 * time.Millisecond
	d, ok := n.Expect()
	if !ok {
		return 2
	}
	return min(max(int(ahead/d)+1, 2), 16)
}

// LeastPace is the bytes a second below which a neighbour is too slow: a part of the most that it has shown.
func (n *Neighbour) LeastPace() int64 {
	return min(max(n.shown.Load()/shownPart, LeastPace), mostLeastPace)
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
